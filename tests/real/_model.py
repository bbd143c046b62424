"""A published model as abstract shapes, and the layout that its framework documents for every parameter."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

# a layout: `"linear 0 > 1"` and so on, in the notation of the zoo, counted from the last axes of a parameter backwards
# where layers are stacked: leading axes that a layout does not have are layers
Layout = str


class RealModel(NamedTuple):
    """A model of a package.

    `documented` is asked after the model was traced, for what was noted then: the layout of every parameter, by path.
    """

    apply: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    documented: Callable[[Mapping[str, Any]], dict[str, Layout]]


MODELS: dict[str, Callable[[], RealModel]] = {}


def real_models(package: str, builders: Mapping[str, Callable[[], RealModel]]) -> None:
    """Registers what builds models of one package, by their names."""
    MODELS.update({f"{package}/{name}": build for name, build in builders.items()})


def stacked(layout: Layout, ndim: int) -> Layout:
    """The layout of a parameter of so many axes, which may stack layers along its first."""
    axes, slash, groups = layout.partition("/")
    numbers = list(map(int, re.findall(r"\d+", axes)))
    extra = ndim - 1 - max(numbers, default=ndim - 1)
    return re.sub(r"\d+", lambda match: str(int(match[0]) + extra), axes) + slash + groups


def first_match(rules: Mapping[str, Layout], path: str) -> Layout | None:
    """What the first regular expression that matches a whole path says."""
    return next((layout for pattern, layout in rules.items() if re.fullmatch(pattern, path)), None)


def run_of(start: int, count: int) -> str:
    return " ".join(map(str, range(start, start + count)))


def dense(n_in: int = 1, n_out: int = 1) -> Layout:
    """A kernel [*inputs, *outputs]."""
    return f"linear {run_of(0, n_in)} > {run_of(n_in, n_out)}"


def conv(taps: int, fan_in: int, fan_out: int, first: int, shape: Iterable[int], groups: int) -> Layout:
    """The kernel of a convolution: the number of taps, where they start, the axes of inputs and outputs."""
    depthwise = groups > 1 and tuple(shape)[fan_in] == 1
    name = "depthwise" if depthwise else "conv"
    return f"{name} {fan_in} > {fan_out} @ {run_of(first, taps)}" + (f" / {groups}" if groups > 1 else "")
