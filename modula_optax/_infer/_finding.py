"""Findings: what inference says about one parameter."""

import dataclasses
from collections.abc import Iterable, Sequence

from modula_optax._infer._trace import Use
from modula_optax._infer._values import Label

CERTAIN, EVIDENCE, GUESS = "certain", "evidence", "guess"
LAYERS = ("linear", "conv", "depthwise")
MATRICES = (*LAYERS, "embedding", "tied")
PRODUCT = "a product of parameters: which of them data are multiplied with cannot be told"
_SURENESS = (GUESS, EVIDENCE, CERTAIN)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found out about a parameter; `problem` says why its role is unknown, `notes` what else to tell.

    `blocks` are the sizes of the pieces that its outputs are cut into.
    """

    role: str
    fan_in: tuple[int, ...] = ()
    fan_out: tuple[int, ...] = ()
    taps: tuple[int, ...] = ()
    groups: int = 1
    confidence: str = CERTAIN
    place: str | None = None
    use: Use | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()
    blocks: tuple[int, ...] = ()


class UnclearError(Exception):
    """A role cannot be decided; the message says why."""


class Evidence:
    """What is known beside a parameter's own uses.

    `has` tells what later uses of its outputs say about an axis; `experts` are the indices that matrices are looked
    up by. What was seen of an axis of one entry is left out: whatever happens to it happens to any axis.
    """

    def __init__(self, observed: Iterable[tuple[Label, str]], uses: Iterable[Use], shapes: Sequence[tuple[int, ...]]):
        self._observed: dict[Label, set[str]] = {}
        self.experts = {use.looked_up_by for use in uses if use.kind == "linear" and use.looked_up_by is not None}
        for (param, axis), what in observed:
            if shapes[param][axis] > 1:
                self._observed.setdefault((param, axis), set()).add(what)

    def makes_matrix(self, param: int, axes: Iterable[int]) -> bool:
        """Whether some of these axes are contracted with data while others are kept: a mixture of weights.

        Heads of queries are kept, too, where all share their keys, but each has a softmax of its own.
        """
        made = [(param, axis) for axis in axes]
        columns = [label for label in made if not self.has(label, "attending")]
        return any(self.has(row, "row of a matrix") for row in made) and any(
            self.has(column, "column of a matrix") for column in columns
        )

    def has(self, label: Label, *kinds: str) -> bool:
        return any(kind in self._observed.get(label, ()) for kind in kinds)


def roles_by_axis(use: Use) -> dict[int, set[str]]:
    """All that a use does to each axis; what is done to the axis itself beats that an entry of it was picked."""
    roles: dict[int, set[str]] = {}
    for axis in use.axes:
        roles.setdefault(axis.axis, set()).add(axis.role)
    return roles


def least(*confidences: str) -> str:
    """The least sure of these."""
    return min(confidences, key=_SURENESS.index)


def agreed(findings: Sequence[Finding]) -> Finding:
    """The one finding of several uses."""
    axes = {(f.fan_in, f.fan_out, f.taps, f.groups) for f in findings}
    if len(axes) > 1:
        raise UnclearError("it is used in incompatible ways: along different axes")
    return dataclasses.replace(findings[0], confidence=least(*(f.confidence for f in findings)))
