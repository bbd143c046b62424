"""Rules of reductions: sums of products are layers written out, sums of exponentials a softmax."""

from modula_optax._infer._notes import settle
from modula_optax._infer._terms import Axis, Clue, Made, UseKind
from modula_optax._infer._trace import Trace
from modula_optax._infer._uses import AxisUse, Use
from modula_optax._infer._values import NONE, Labels, Part, Value, labels_in, unmarked
from modula_optax._jaxpr import Op


def reduce(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    """Sums, means, maxima over axes; a sum right after a product is a linear layer written out."""
    axes, value = op.params["axes"], settle(trace, op, ins[0]) if ins[0].data else ins[0]
    if op.name == "reduce_sum" and op.ins[0] in trace.products and trace.consumers.get(op.ins[0]) == 1:
        for i in trace.products[op.ins[0]]:
            trace.uses[i] = _written_out(trace.uses[i], axes)
    dims = tuple(dim for i, dim in enumerate(value.dims) if i not in axes)
    if op.ins[0] in trace.exponentials:
        along = value.along(axes)
        trace.note(labels_in(dims) - along, Clue.ATTENDING)
        trace.note(along, Clue.COMPETING)
        trace.heads.attended(dims)
    lost = NONE.union(*(factor.labels for i in axes for factor in value.dims[i] if factor.size > 1))
    parts = tuple(_reduced(part, lost) for part in value.parts)
    if op.name != "reduce_sum":
        dims = unmarked(dims)
    is_choice = op.name.startswith("arg")
    return value._replace(
        dims=dims, parts=parts, looked_up_by=op.outs[0] if is_choice else None, chosen=is_choice and value.data
    )


def _reduced(part: Part, lost: Labels) -> Part:
    axes = frozenset((axis, Axis.REDUCED) for param, axis in lost if param == part.param)
    return part._replace(made=Made.STATISTIC, fixed=part.fixed | axes) if axes else part


def _written_out(use: Use, axes: tuple[int, ...]) -> Use:
    """The linear layer that `(x * w).sum(axes)` is, if the sum is over axes of `w` only."""
    own = {axis.position for axis in use.axes if axis.role is Axis.ALIGNED and axis.size > 1}
    if use.kind is not UseKind.MUL or not set(axes) <= own or use.part.made is not Made.WHOLE:
        return use
    return use._replace(
        kind=UseKind.LINEAR,
        axes=tuple(
            axis._replace(role=Axis.IN if axis.position in axes else _kept_role(axis)) if axis.position >= 0 else axis
            for axis in use.axes
        ),
    )


def _kept_role(axis: AxisUse) -> Axis:
    return Axis.OUT if axis.role is Axis.EXPANDED else Axis.BATCH
