"""What an axis of a vector or a table runs along: features that a matrix made, positions, or members of a batch."""

import enum
from collections.abc import Mapping, Sequence

from modula_optax._infer._finding import GUESS, Evidence, Finding, UnclearError, roles_by_axis
from modula_optax._infer._terms import Axis, Clue, UseKind
from modula_optax._infer._uses import AxisUse, Use
from modula_optax._infer._values import Label, Labels


class Along(enum.Enum):
    """What an axis of a vector or a table runs along; of one entry, it is a batch."""

    FEATURES = enum.auto()
    POSITIONS = enum.auto()
    BATCH = enum.auto()


def labels_along(axis: int, use: Use) -> Labels:
    """What made an axis of the activations that an axis of a vector meets; itself, if nothing else did."""
    return frozenset({Label(use.param, axis)}).union(*(piece.labels for piece in use.axes if piece.axis == axis))


def runs_along(axis: int, size: int, use: Use, evidence: Evidence, findings: Mapping[int, Finding]) -> Along:
    """What an axis of a parameter runs along, by the pieces of it that a use meets.

    Raises:
      UnclearError: the axis is not seen there, or what it meets is a matrix that was made from data.
    """
    pieces = [piece for piece in use.axes if piece.axis == axis]
    proper = [piece for piece in pieces if piece.role not in (Axis.PICKED, Axis.LOOKED, Axis.REORDERED)]
    if not proper and not pieces and size > 1:
        raise UnclearError(f"axis {axis} was lost sight of on the way")
    is_one = size > 1 == max((piece.size for piece in proper), default=0)
    if is_one and len(proper) < len(pieces) and use.kind is UseKind.ADD:
        # one row was taken for data that have one there, as the position of the only token is
        return Along.POSITIONS
    if any(piece.role is Axis.JOINED for piece in proper):
        return _made_along(proper, use, evidence, findings)
    if (
        size == 1
        or all(piece.size == 1 or piece.role is Axis.BATCH for piece in proper)
        or evidence.is_member(Label(use.param, axis))
    ):
        return Along.BATCH
    if any(piece.role is Axis.EXPANDED for piece in proper):
        return Along.POSITIONS
    if all(piece.role is not Axis.ALIGNED for piece in proper):
        return Along.FEATURES
    return _made_along(proper, use, evidence, findings)


def _made_along(pieces: Sequence[AxisUse], use: Use, evidence: Evidence, findings: Mapping[int, Finding]) -> Along:
    # a gain on rows or on columns of a matrix scales them whatever the matrix is for
    is_vector = len({piece.axis for piece in use.axes if piece.size > 1}) == 1
    is_gain = use.kind is UseKind.MUL and is_vector
    labels = frozenset().union(*(piece.labels for piece in pieces))
    others = frozenset().union(*(piece.labels for piece in use.axes if piece.axis != pieces[0].axis))
    found, unsure, last = set(), set(), set()
    for label in labels:
        maker = findings.get(label.param)
        if (
            not is_gain
            and maker is not None
            and maker.role == "unknown"
            and _is_matrix(label, pieces, is_vector, evidence)
        ):
            raise UnclearError("it is added to a matrix that was made from data, as by a hypernetwork")
        if label.param not in (use.param, *use.partners) and maker is not None:
            along = _along(maker, label, evidence)
            # a gain has features because a layer does; of what is unknown any axis may be anything
            is_sure = maker.role != "unknown" and (maker.role != "gain" or along is not Along.FEATURES)
            (found if is_sure else unsure).add(along)
            if _makes_features(maker, label.param, others, evidence):
                last.add(along)
    if Along.BATCH in last and Along.FEATURES not in last:
        # each of the layers that made what this meets has one of its own, whatever came before
        return Along.BATCH
    return next((along for along in (Along.FEATURES, Along.BATCH) if along in (found or unsure)), Along.POSITIONS)


def _makes_features(maker: Finding, param: int, labels: Labels, evidence: Evidence) -> bool:
    return any(label.param == param and _along(maker, label, evidence) is Along.FEATURES for label in labels)


def _is_matrix(label: Label, pieces: Sequence[AxisUse], is_vector: bool, evidence: Evidence) -> bool:
    """Whether what runs along an axis of a matrix that was made from data is no bias of the layer that this is."""
    clues = [clue for clue in (Clue.MATRIX_ROW, Clue.MATRIX_COLUMN) if evidence.has(label, clue)]
    is_part = all(piece.size < evidence.entries(label) for piece in pieces)
    return len(clues) == 2 and not is_part if is_vector else bool(clues)


def is_guessed(maker: Finding, label: Label, use: Use, evidence: Evidence) -> bool:
    """Whether an axis of activations was only guessed to be what it is, which matters for tables."""
    if maker.role == "unknown":
        return len({piece.axis for piece in use.axes if piece.size > 1}) > 1
    named = maker.fan_in + maker.fan_out + maker.taps
    if evidence.is_member(label):
        return False
    return _is_copied(maker, label, evidence) or (maker.confidence == GUESS and label.axis not in named)


def _is_copied(maker: Finding, label: Label, evidence: Evidence) -> bool:
    """Data scaled once for each member of an ensemble: these never meet."""
    if maker.role != "gain" or maker.use is None or evidence.has(label, Clue.CONTRACTED, Clue.MERGED):
        return False
    roles = roles_by_axis(maker.use)
    return Axis.EXPANDED in roles.get(label.axis, ()) and any(Axis.ALIGNED in others for others in roles.values())


def _is_row(maker: Finding, label: Label, evidence: Evidence) -> bool:
    """An entry of the data for each vector of a table that it scales: the vectors meet matrices, not the entries."""
    if maker.role != "gain" or maker.use is None or evidence.has(label, Clue.CONTRACTED, Clue.MERGED):
        return False
    roles = roles_by_axis(maker.use)
    return Axis.ALIGNED in roles.get(label.axis, ()) and any(
        Axis.EXPANDED in roles[axis] and evidence.has(Label(label.param, axis), Clue.CONTRACTED) for axis in roles
    )


def _along(maker: Finding, label: Label, evidence: Evidence) -> Along:
    if _is_copied(maker, label, evidence):
        return Along.BATCH
    if _is_row(maker, label, evidence):
        return Along.BATCH if evidence.has(label, Clue.BATCHED) else Along.POSITIONS
    if maker.role in ("embedding", "positional") and label.axis in maker.fan_in:
        return Along.POSITIONS
    # an axis of inputs is one of outputs too where a matrix is used in both directions
    is_feature = maker.role == "unknown" or label.axis in maker.fan_out + maker.fan_in
    return Along.FEATURES if is_feature else Along.BATCH
