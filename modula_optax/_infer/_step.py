"""Parameters after a step of training inside the model, as in meta-learning: they are still the parameters."""

from modula_optax._infer._trace import Trace
from modula_optax._infer._values import Value, plain, size_of
from modula_optax._jaxpr import Op, is_backward


def is_step(trace: Trace, op: Op, weight: Value, activation: Value) -> bool:
    """Whether a gradient is added to a parameter of its shape, or to one for each task, that was used before."""
    used = {use.param for use in trace.uses}
    axes = zip(weight.dims, activation.dims, strict=False)
    is_aligned = len(weight.dims) == len(activation.dims) and all(size_of(a) >= size_of(w) for w, a in axes)
    return is_aligned and used >= {part.param for part in weight.parts} and _is_gradient(trace, op, weight)


def _is_gradient(trace: Trace, op: Op, weight: Value) -> bool:
    """Whether all that is added to a weight comes from the way back of a gradient."""
    queue = [i for i in op.ins if trace.values[i] is not weight]
    seen, found = set[int](), False
    while queue:
        position = queue.pop()
        maker = trace.makers.get(position)
        if maker is None:
            return False
        if is_backward(maker):
            found = True
        elif position not in seen:
            seen.add(position)
            queue += (i for i in maker.ins if trace.values[i].is_activation and trace.shape(i))
    return found


def stepped(weight: Value, gradient: Value) -> Value:
    """The weight after a step; axes that only the gradient has are tasks."""
    sizes = zip(weight.dims, gradient.dims, strict=True)
    return weight._replace(dims=tuple(w if size_of(w) == size_of(g) else plain([size_of(g)])[0] for w, g in sizes))
