"""What is noted of a weight where it is used as data are, stands beside them, or is multiplied by a gate."""

from collections.abc import Iterable

from modula_optax._infer._terms import Axis, Clue, UseKind
from modula_optax._infer._trace import Trace, axes_of
from modula_optax._infer._uses import AxisUse
from modula_optax._infer._values import Dim, Part, Value, labels_of, params_in, size_of
from modula_optax._jaxpr import Op


def settle(trace: Trace, op: Op, value: Value) -> Value:
    """An undecided weight is used as an activation.

    What data looked up was a table of embeddings; what was multiplied by constants was a layer with these as inputs.
    """
    if not value.is_weight:
        return value
    if not value.data and not _is_mixed(value):
        return value
    kind = UseKind.LOOKUP if value.data else UseKind.LINEAR
    for part in value.parts:
        lost = {axis for axis, role in part.fixed if role is Axis.MIXED}
        fixed = frozenset((axis, Axis.IN if role is Axis.MIXED else role) for axis, role in part.fixed)
        axes = [AxisUse(axis, Axis.OUT, f.size, i) for i, axis, f in axes_of(value, part) if axis not in lost]
        trace.use(op, value, part._replace(fixed=fixed), kind, axes, deep=value.deep)
    return Value(value.dims, data=True, deep=True)


def _is_mixed(value: Value) -> bool:
    return any(role is Axis.MIXED for part in value.parts for _, role in part.fixed)


def record_content(
    trace: Trace,
    op: Op,
    weight: Value,
    activation: Value,
    kind: UseKind = UseKind.ADD,
    reason: str = "",
    joined: int | None = None,
) -> None:
    """Entries of a parameter stand beside those of an activation: a class token, a learned initial state.

    If they were concatenated, `joined` is the axis. What data looked up is a table, wherever it stands.
    """
    if weight.data:
        settle(trace, op, weight)
        return
    for part in weight.parts:
        axes = [
            axis._replace(role=Axis.JOINED) if axis.position == joined else axis
            for axis in alignment(weight, part, activation)
        ]
        trace.use(op, weight, part, kind, axes, reason, deep=activation.deep)


def alignment(weight: Value, part: Part, activation: Value) -> Iterable[AxisUse]:
    """Which axes of an activation those of a parameter meet in an elementwise operation."""
    picked = {axis for axis, role in part.fixed if role in (Axis.PICKED, Axis.REORDERED)}
    for i, axis, factor in axes_of(weight, part):
        dim = activation.dims[i] if activation.dims else ()
        size = size_of(dim)
        if axis in picked and factor.size == 1 < size:
            # the entry of a stack that all of the data share
            continue
        expanded = size == 1 and factor.size > 1
        matching = [other.labels for other in dim if other.size == factor.size] if len(dim) > 1 else []
        labels = matching[0] if len(matching) == 1 else frozenset().union(*(other.labels for other in dim))
        yield AxisUse(axis, Axis.EXPANDED if expanded else Axis.ALIGNED, factor.size, i, labels)


def note_gates(trace: Trace, facing: Iterable[tuple[Dim, Dim]]) -> None:
    """Notes axes along which another layer gives one number for many entries: a gate of experts, or of heads.

    Args:
      trace: the interpreter's state.
      facing: each axis of the gate with that of what it is multiplied into.
    """
    pairs = list(facing)
    makers = {param for param in params_in(b for a, b in pairs if size_of(a) == 1 < size_of(b)) if param >= 0}
    for a, b in pairs:
        if size_of(a) > 1 and params_in([a]) - makers:
            trace.note((label for label in labels_of(b) if label.param in makers), Clue.GATED)
