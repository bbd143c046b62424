"""Absorbed kernels: those of keys and values that queries and means of latents meet, in place of the latents."""

from modula_optax._infer._terms import Axis, Clue, Made, UseKind
from modula_optax._infer._trace import Trace
from modula_optax._infer._uses import AxisUse, Use
from modula_optax._infer._values import NONE, Label, Labels
from modula_optax._jaxpr import is_backward

_REVERSED = {Axis.IN: Axis.OUT, Axis.OUT: Axis.IN}


def join_absorbed(trace: Trace) -> None:
    """Makes kernels of latents of those that each head of queries, or of what it attends to, meets.

    A query times the kernel of its head, which then meets latents that all heads share, is the query that meets keys
    made of the latents: these are what the kernel takes.
    """
    attending = NONE.union(*(labels for labels, clue in trace.evidence if clue is Clue.ATTENDING))
    heads, latents = NONE, NONE
    for i, use in enumerate(trace.uses):
        apart, made = _labels(use, Axis.BATCH) & attending, _labels(use, Axis.OUT)
        for meeting in trace.meetings if apart else ():
            if made and apart & meeting.kept and made <= meeting.summed - meeting.kept:
                trace.uses[i] = _with_outputs(trace, use, apart & meeting.kept, is_reversed=True)
                heads, latents = heads | (apart & meeting.kept), latents | meeting.others
                break
    for i, use in enumerate(trace.uses):
        if any(piece.role is Axis.IN and piece.labels & latents for piece in use.axes):
            trace.uses[i] = _with_outputs(trace, use, heads)


def _labels(use: Use, role: Axis) -> Labels:
    is_layer = use.kind is UseKind.LINEAR and use.part.made is Made.WHOLE and not is_backward(use.op)
    return frozenset(Label(use.param, x.axis) for x in use.axes if is_layer and x.role is role and x.size > 1)


def _with_outputs(trace: Trace, use: Use, heads: Labels, is_reversed: bool = False) -> Use:
    """The use with heads as outputs, which are those of the layer itself or of its inputs."""

    def role(piece: AxisUse) -> Axis:
        labels = piece.labels | {Label(use.param, piece.axis)}
        if piece.role is Axis.BATCH and labels & heads:
            trace.heads.told(labels, piece.size)
            return Axis.OUT
        return _REVERSED.get(piece.role, piece.role) if is_reversed else piece.role

    return use._replace(axes=tuple(piece._replace(role=role(piece)) for piece in use.axes))
