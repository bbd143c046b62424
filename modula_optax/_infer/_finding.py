"""Findings: what inference says about one parameter."""

import dataclasses
from collections.abc import Iterable, Sequence

from modula_optax._infer._terms import Axis, Clue, Unclear, UseKind
from modula_optax._infer._trace import Trace
from modula_optax._infer._uses import Use
from modula_optax._infer._values import Label

CERTAIN, EVIDENCE, GUESS = "certain", "evidence", "guess"
LAYERS = ("linear", "conv", "depthwise")
MATRICES = (*LAYERS, "embedding", "tied")
_SURENESS = (GUESS, EVIDENCE, CERTAIN)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found out about a parameter; `reason` says why its role is `unclear`, `notes` what else to tell.

    `blocks` are the sizes of the pieces that its outputs are cut into; if these are matrices of their own, and differ,
    `sizes` are them, too. Rows of a `bare` table go into a matrix without a normalisation, to those of a
    `placed` one positions are added.
    """

    role: str
    fan_in: tuple[int, ...] = ()
    fan_out: tuple[int, ...] = ()
    taps: tuple[int, ...] = ()
    groups: int = 1
    confidence: str = CERTAIN
    place: str | None = None
    use: Use | None = None
    unclear: Unclear | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()
    blocks: tuple[int, ...] = ()
    in_groups: int = 1
    sizes: tuple[int, ...] = ()
    bare: bool = False
    placed: bool = False


def has_positions(finding: Finding) -> bool:
    """Whether rows of a table stand for positions: they are added at once, and if looked up, then not by data."""
    added = finding.use is not None and finding.use.kind is UseKind.ADD
    return finding.role == "positional" or (finding.role == "embedding" and added)


class UnclearError(Exception):
    """A role cannot be decided; the message says why."""

    def __init__(self, reason: str, unclear: Unclear = Unclear.OTHER):
        super().__init__(reason)
        self.unclear = unclear

    def finding(self, use: Use | None = None) -> Finding:
        """What is known of a parameter whose role is unclear."""
        return Finding("unknown", use=use, unclear=self.unclear, reason=str(self))


def product() -> UnclearError:
    """The error of several parameters of which data meet only the product."""
    return UnclearError(
        "a product of parameters: which of them data are multiplied with cannot be told", Unclear.PRODUCT
    )


def conflict(how: str) -> UnclearError:
    """The error of a parameter that is used in several ways, of which each excludes the others."""
    return UnclearError(f"it is used in incompatible ways: {how}", Unclear.CONFLICT)


class Evidence:
    """What is known beside a parameter's own uses.

    `has` tells what later uses of its outputs say about an axis; `kernels` what activations that a parameter made do as
    matrices, `heads` axes of what is weighed and summed over heads. What was seen of an axis of one entry is left out:
    whatever happens to it happens to any axis.
    """

    def __init__(self, trace: Trace, shapes: Sequence[tuple[int, ...]]):
        uses = trace.uses
        self.kernels = trace.kernels_by_param()
        self._shapes = shapes
        self._observed: dict[Clue, set[Label]] = {}
        # the labels of a sum of many layers are noted as often as there are layers
        for labels, clue in trace.evidence:
            self._observed.setdefault(clue, set()).update(labels)
        # axes that are summed with the weights that each head has
        self.heads = {
            label
            for meeting in trace.meetings
            if any(self.has(x, Clue.ATTENDING) and not self.has(x, Clue.COMPETING) for x in meeting.summed)
            for label in meeting.others
        }
        # entries of vectors that may be the rows of a matrix, of which the next one is then no layer
        layers = {use.param for use in uses if use.kind is UseKind.LINEAR}
        tables = (use for use in uses if use.param not in layers and self.may_be_table(use))
        self.unsure = {Label(use.param, axis) for use in tables for axis in use.scaled()}

    def makes_matrix(self, param: int, axes: Iterable[int]) -> bool:
        """Whether some of these axes are contracted with data while others are kept: a mixture of weights.

        Heads of queries are kept, too, where all share their keys, but each has a softmax of its own.
        """
        made = [Label(param, axis) for axis in axes]
        columns = [label for label in made if not self.has(label, Clue.ATTENDING)]
        return any(self.has(row, Clue.MATRIX_ROW) for row in made) and any(
            self.has(column, Clue.MATRIX_COLUMN) for column in columns
        )

    def is_member(self, label: Label) -> bool:
        """Whether each entry along an axis meets a matrix of its own, as those of the members of an ensemble do."""
        return self.has(label, Clue.BATCHED) and not self.has(label, Clue.CONTRACTED)

    def may_be_table(self, use: Use) -> bool:
        """Whether data scale vectors, and nothing tells what these are: tokens, members, or rows of a matrix.

        Where the next matrix takes their entries, and another one those of the other axis, they are rows.
        """
        scaled, counting = ({Label(use.param, axis) for axis in axes} for axes in (use.scaled(), use.lacking()))
        is_taken = any(self.has(label, Clue.CONTRACTED) for label in scaled)
        others = () if is_taken else (Clue.CONTRACTED,)
        proofs = (Clue.BATCHED, Clue.MATCHED, Clue.SCALED, *others)
        return bool(scaled) and not all(self.has(label, *proofs) for label in counting)

    def entries(self, label: Label) -> int:
        """How long an axis of a parameter is."""
        return self._shapes[label.param][label.axis]

    def has(self, label: Label, *clues: Clue) -> bool:
        """Whether one of these was seen of an axis."""
        seen = any(label in self._observed.get(clue, ()) for clue in clues)
        return seen and label.param >= 0 and self._shapes[label.param][label.axis] > 1


def roles_by_axis(use: Use) -> dict[int, set[Axis]]:
    """All that a use does to each axis, in whatever order its entries are."""
    roles: dict[int, set[Axis]] = {}
    for axis in use.axes:
        if axis.role is not Axis.REORDERED:
            roles.setdefault(axis.axis, set()).add(axis.role)
    return roles


def least(*confidences: str) -> str:
    """The least sure of these."""
    return min(confidences, key=_SURENESS.index)


def agreed(findings: Sequence[Finding]) -> Finding:
    """The one finding of several uses."""
    axes = {(f.fan_in, f.fan_out, f.taps, f.groups) for f in findings}
    if len(axes) > 1:
        raise conflict("along different axes")
    return dataclasses.replace(findings[0], confidence=least(*(f.confidence for f in findings)))
