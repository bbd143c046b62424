"""Modulated kernels: matrices that data scale along their inputs, as styles do, before they meet other data."""

from modula_optax._infer._terms import Axis, Clue, UseKind
from modula_optax._infer._trace import Trace
from modula_optax._infer._values import NONE, Label, Value, labels_of, size_of
from modula_optax._jaxpr import is_backward


def is_modulated(weight: Value, activation: Value) -> bool:
    """Whether data scale a matrix along some of its axes, as styles scale the inputs of a kernel."""
    sizes = [(size_of(w), size_of(a)) for w, a in zip(weight.dims, activation.dims, strict=False) if labels_of(w)]
    return any(w > 1 == a for w, a in sizes) and any(w > 1 < a for w, a in sizes)


def join_modulated(trace: Trace) -> None:
    """Makes layers of those products of data with a parameter that are used as matrices."""
    layers = {use.param for use in trace.uses if use.kind in (UseKind.LINEAR, UseKind.CONV)}
    # what has a softmax for each row are queries, scaled one by one
    attending = NONE.union(*(labels for labels, clue in trace.evidence if clue is Clue.ATTENDING))
    kernels = trace.kernels_by_param()
    for i, use in enumerate(trace.uses):
        scaled, lacking = use.scaled(), use.lacking()
        # a gradient inside the model scales kernels on its way back, too
        is_one = scaled and lacking and use.param not in layers and not is_backward(use.op)
        for kernel in kernels.get(use.param, ()) if is_one else ():
            given = {piece.axis for piece in kernel.axes if piece.role in (Axis.OUT, Axis.TAP)}
            if given == lacking and not any(Label(use.param, axis) in attending for axis in given):
                trace.uses[i] = kernel._replace(part=use.part)
