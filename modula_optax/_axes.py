"""Axes: how a parameter array becomes canonical, `[*batch, taps, fan_in, fan_out]`, and back."""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from modula_optax._checks import as_count, set_fields


@dataclasses.dataclass(frozen=True, init=False)
class Axes:
    """Which axes of a parameter are its inputs, its outputs and its taps; all others are a batch.

    Every index into the batch axes is an independent atom, with a norm of its own.

    Args:
      fan_in: axes that a linear map contracts with its input, in order; an integer or several.
      fan_out: axes that it produces; an integer or several.
      taps: axes of a convolution's window; empty for other layers.
      groups: how many equal blocks the (flattened) fan-out is made of, each an atom of its own: the
        `feature_group_count` of a grouped convolution, 3 for a fused query-key-value kernel.
      in_groups: the same of the (flattened) fan-in: the number of heads for the output kernel of attention.

    Raises:
      ValueError: an axis is not an integer or is named twice, or a number of groups is below one.

    Example:
      >>> Axes(fan_in=-1, fan_out=-2)  # PyTorch and Equinox keep [fan_out, fan_in]
      Axes(fan_in=(-1,), fan_out=(-2,))
    """

    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    taps: tuple[int, ...]
    groups: int
    in_groups: int

    def __init__(
        self,
        fan_in: int | Sequence[int] = (-2,),
        fan_out: int | Sequence[int] = (-1,),
        taps: int | Sequence[int] = (),
        groups: int = 1,
        in_groups: int = 1,
    ):
        set_fields(self, fan_in=as_axes("fan_in", fan_in), fan_out=as_axes("fan_out", fan_out))
        set_fields(self, taps=as_axes("taps", taps), groups=as_count("groups", groups))
        set_fields(self, in_groups=as_count("in_groups", in_groups))
        named = self.taps + self.fan_in + self.fan_out
        repeated = sorted({i for i in named if named.count(i) > 1})
        if repeated:
            raise ValueError(
                f"axis {repeated[0]} is named twice in fan_in={self.fan_in}, fan_out={self.fan_out}, taps={self.taps}"
            )

    def __repr__(self) -> str:
        rest = [("taps", self.taps, ()), ("groups", self.groups, 1), ("in_groups", self.in_groups, 1)]
        given = "".join(f", {name}={value}" for name, value, usual in rest if value != usual)
        return f"Axes(fan_in={self.fan_in}, fan_out={self.fan_out}{given})"


def as_axes(name: str, indices: Any) -> tuple[int, ...]:
    """An axis or several as a tuple; what is neither is refused by the name of the argument."""
    entries: Any = indices if isinstance(indices, Sequence) or np.ndim(indices) else (indices,)
    try:
        axes = tuple(operator.index(i) for i in entries)
    except TypeError:
        axes = None
    if axes is None or any(isinstance(i, bool) for i in entries):
        raise ValueError(f"{name} must be an axis or a sequence of axes (integers); got {indices!r}.")
    return axes


@functools.cache
def normalize_axes(axes: Axes, shape: tuple[int, ...]) -> Axes:
    """The same axes counted from the front, checked against the shape of a parameter.

    Raises:
      ValueError: an axis is out of range or named twice, none is named, or groups do not divide fan-in or fan-out.
    """
    ndim = len(shape)

    def from_front(name: str) -> tuple[int, ...]:
        indices = getattr(axes, name)
        for i in indices:
            if not -ndim <= i < ndim:
                raise ValueError(f"{name}={indices} names axis {i}, but there are {ndim} axes")
        return tuple(i % ndim for i in indices)

    result = Axes(from_front("fan_in"), from_front("fan_out"), from_front("taps"), axes.groups, axes.in_groups)
    if ndim > 0 and not result.fan_in + result.fan_out:
        raise ValueError("fan_in and fan_out are both empty, so that no axis is left for the norm")
    for name, indices, side in (("groups", result.fan_out, "fan-out"), ("in_groups", result.fan_in, "fan-in")):
        count, size = getattr(axes, name), math.prod(shape[i] for i in indices)
        if size % count:
            raise ValueError(f"{name}={count} does not divide the {side} of {size}")
    return result


def batch_axes(axes: Axes, ndim: int) -> tuple[int, ...]:
    """The axes that normalized `axes` do not name, in order."""
    return tuple(i for i in range(ndim) if i not in axes.taps + axes.fan_in + axes.fan_out)


def to_canonical(x: Float[Array, "..."], axes: Axes) -> Float[Array, "*batch taps fan_in fan_out"]:
    """Array as `[*batch, taps, fan_in, fan_out]`; groups of inputs and of outputs are the last of the batch axes."""
    axes = normalize_axes(axes, x.shape)
    order, batch, (taps, fan_in, fan_out) = _canonical_order(axes, x.shape)
    y = x.transpose(order)
    if axes.groups == axes.in_groups == 1:
        return y.reshape(*batch, math.prod(taps), math.prod(fan_in), math.prod(fan_out))
    n, (rows, columns) = len(batch), _block(axes, fan_in, fan_out)
    y = y.reshape(*batch, math.prod(taps), axes.in_groups, rows, axes.groups, columns)
    y = y.transpose(*range(n), n + 1, n + 3, n, n + 2, n + 4)
    return y.reshape(*batch, *_groups(axes), math.prod(taps), rows, columns)


def _groups(axes: Axes) -> tuple[int, ...]:
    """The batch axes that are groups: one is none."""
    return tuple(count for count in (axes.in_groups, axes.groups) if count > 1)


def _block(axes: Axes, fan_in: tuple[int, ...], fan_out: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs of one group."""
    return math.prod(fan_in) // axes.in_groups, math.prod(fan_out) // axes.groups


def batch_shape(axes: Axes, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The batch axes of a parameter of this shape in the canonical layout."""
    axes = normalize_axes(axes, shape)
    return (*(shape[i] for i in batch_axes(axes, len(shape))), *_groups(axes))


def canonical_shape(axes: Axes, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """How many atoms a parameter of this shape has, and their taps, fan-in and fan-out."""
    axes = normalize_axes(axes, shape)
    _, _, (taps, fan_in, fan_out) = _canonical_order(axes, shape)
    return math.prod(batch_shape(axes, shape)), math.prod(taps), *_block(axes, fan_in, fan_out)


def from_canonical(
    y: Float[Array, "*batch taps fan_in fan_out"], axes: Axes, shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """Inverse of `to_canonical` for a parameter of this shape; the batch axes may have become one."""
    axes = normalize_axes(axes, shape)
    order, batch, (taps, fan_in, fan_out) = _canonical_order(axes, shape)
    if axes.groups * axes.in_groups > 1:
        n = len(batch)
        y = y.reshape(*batch, axes.in_groups, axes.groups, *y.shape[-3:])
        y = y.transpose(*range(n), n + 2, n, n + 3, n + 1, n + 4)
    inverse = sorted(range(len(shape)), key=order.__getitem__)
    return y.reshape(*batch, *taps, *fan_in, *fan_out).transpose(inverse)


def _canonical_order(axes: Axes, shape: tuple[int, ...]):
    """The permutation to canonical order, the batch sizes, and the sizes of taps, fan-in and fan-out."""
    batch = batch_axes(axes, len(shape))

    def sizes(indices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape[i] for i in indices)

    order = batch + axes.taps + axes.fan_in + axes.fan_out
    return order, sizes(batch), (sizes(axes.taps), sizes(axes.fan_in), sizes(axes.fan_out))
