"""Parameters after a step of training inside the model, as in meta-learning: they are still the parameters."""

from modula_optax._infer._trace import Trace
from modula_optax._infer._values import Value, labels_of, plain, size_of
from modula_optax._jaxpr import Kind, Op, is_backward, named

_PRODUCTS = named(Kind.PRODUCT)


def is_step(trace: Trace, op: Op, weight: Value, activation: Value) -> bool:
    """Whether a gradient is added to a parameter of its shape, or to one for each task, that was used before."""
    axes = zip(weight.dims, activation.dims, strict=False)
    is_aligned = len(weight.dims) == len(activation.dims) and all(size_of(a) >= size_of(w) for w, a in axes)
    return (
        is_aligned
        and _is_used(trace, weight)
        and all(_is_gradient(trace, i) for i in op.ins if trace.values[i] is not weight)
    )


_STEPS = 64  # operations at most, of which an optimizer makes a step of a gradient


def _is_gradient(trace: Trace, position: int) -> bool:
    """Whether a value comes from the way back of a gradient: all terms of a sum, some factor of a product."""
    seen, found, is_scalar = dict[int, bool](), False, not trace.shape(position)

    def is_one(position: int) -> bool:
        nonlocal found
        maker, carry = trace.makers.get(position), trace.carries.get(position)
        if maker is not None and is_backward(maker):
            found = True
            return True
        if position in seen or len(seen) == _STEPS:
            return seen.get(position, False)
        if position in trace.values and trace.values[position].is_weight:
            # what follows a parameter after a step is what follows the parameter
            return False
        # what is carried is one if all else is that it is made of
        seen[position] = True
        # an average of gradients is carried from step to step
        made_of = maker.ins if maker is not None else (carry.start, carry.end) if carry is not None else ()
        verdicts = [(is_one(i), i) for i in made_of if trace.shape(i) or is_scalar]
        counted = [verdict for verdict, i in verdicts if verdict or _is_activation(trace, i)]
        of_all = any if maker is not None and maker.name in _PRODUCTS else all
        seen[position] = bool(counted) and of_all(counted)
        return seen[position]

    return is_one(position) and found


def _is_activation(trace: Trace, position: int) -> bool:
    return position in trace.values and trace.values[position].is_activation


def stepped(weight: Value, gradient: Value) -> Value:
    """The weight after a step; axes that only the gradient has are tasks."""
    sizes = zip(weight.dims, gradient.dims, strict=True)
    return weight._replace(dims=tuple(w if size_of(w) == size_of(g) else plain([size_of(g)])[0] for w, g in sizes))


def _is_used(trace: Trace, weight: Value) -> bool:
    return trace.used >= {part.param for part in weight.parts}


def is_scaled_by_task(trace: Trace, weight: Value, scale: Value) -> bool:
    """Whether data have a number for each of the tasks that a weight in use was copied for, not for its entries."""
    pairs = [(w, size_of(s)) for w, s in zip(weight.dims, scale.dims, strict=False)]
    of_tasks = [n for w, n in pairs if not labels_of(w)]
    of_entries = [n for w, n in pairs if labels_of(w) and size_of(w) > 1]
    is_copied = all(n in (1, size_of(w)) for w, n in pairs)
    # members of an ensemble have tasks of their own
    return is_copied and _is_used(trace, weight) and max(of_tasks, default=1) > 1 == min(of_entries, default=1)
