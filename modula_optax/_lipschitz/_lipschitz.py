"""`lipschitz_bound`: a proven upper bound on the Lipschitz constant of a network, at the weights that it has."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from modula_optax._axes import as_axes
from modula_optax._checks import as_float, is_number, is_traced
from modula_optax._jaxpr import Model, flatten, trace_model
from modula_optax._lipschitz._interpret import Interpreter
from modula_optax._lipschitz._states import Bound, Fixed, State, Unproven, over
from modula_optax._paths import describe, refuse
from modula_optax._specs import NormSpec

Along = int | Sequence[int]


def lipschitz_bound(
    apply_fn: Callable[..., Any],
    params: Any,
    *inputs: Any,
    input_axes: Along = -1,
    output_axes: Along = -1,
    input_bound: float = math.inf,
    **kwargs: Any,
) -> float:
    r"""Upper bound on the Lipschitz constant of a network in its inputs, at the weights that it has.

    .. math:: \|f(x) - f(y)\| \le L \, \|x - y\|, \qquad \|x\| = \max_{\text{positions}} \text{RMS}_{\text{features}}(x)

    The norm is the one that modular duality composes layers in: RMS over the features, the largest over all other axes
    (batch, time, places). `apply_fn(params, *inputs, **kwargs)` is traced, and every operation on the way takes the
    bound further by a proven rule, with the actual weights: the largest singular value of a matrix, in double
    precision and never below the truth, the sum over its taps of a convolution; sums add, chains multiply. Softmax
    attention is Lipschitz only where queries, keys and values are bounded: a bound on the size of every value is
    carried along. The result holds in exact arithmetic, and is compared with no sample.

    If no input is of floating point, as where tokens are looked up in a table, the constant is with respect to the rows
    that were looked up, as if they were the input; they are as large as the table's largest row.
    All inputs of floating point count as one, of the largest of their norms; integers and booleans are held fixed.

    Args:
      apply_fn: function of the parameters and inputs that returns arrays. A tree of specs is none: it does not say how
        its leaves compose.
      params: the parameters: concrete arrays.
      *inputs: what a call gets after the parameters: arrays or `jax.ShapeDtypeStruct`, of which only the shape counts.
      input_axes: axes of the inputs, or of what was looked up, that are features; `()` for the largest entry, all axes
        but the first for RMS over whole images.
      output_axes: the same for the outputs.
      input_bound: largest norm of an input; what the constant holds for. It is needed where activations are multiplied,
        as by attention, and nothing else bounds them.
      **kwargs: keywords of `apply_fn`.

    Returns:
      The bound. Of several outputs, the largest.

    Raises:
      ValueError: names the first operation on the way to the output that has no proven rule; parameters without values;
        outputs that depend on no input of floating point and no lookup.

    Example:
      >>> params = {"up": 2.0 * jnp.eye(4), "down": jnp.diag(jnp.arange(4.0))}
      >>> apply_fn = lambda p, x: x + jax.nn.relu(x @ p["up"]) @ p["down"]
      >>> round(lipschitz_bound(apply_fn, params, jnp.ones((8, 4))), 3)
      7.0

    References:
      Newhouse et al., Training Transformers with Enforced Lipschitz Constants, arXiv:2507.13338; Large et al., Scalable
      Optimization in the Modular Norm, arXiv:2405.14813, for norms, composition and attention.
    """
    _refuse_specs(apply_fn)
    if not (is_number(input_bound) and not is_traced(input_bound) and input_bound > 0):
        raise ValueError(f"input_bound must be a number above 0, or math.inf; got {input_bound!r}.")
    model = trace_model(apply_fn, params, inputs, kwargs)
    _refuse_abstract(model)
    if any(jnp.issubdtype(x.dtype, jnp.complexfloating) for x in model.inputs):
        raise ValueError("lipschitz_bound has no rules for complex inputs: pass real and imaginary parts.")
    program = flatten(model.jaxpr)
    floats = [jnp.issubdtype(x.dtype, jnp.floating) for x in model.inputs]

    def moving(position: int) -> Bound:
        """An input that moves by one unit of its norm."""
        shape = tuple(program.avals[position].shape)
        axes = _axes("input_axes", input_axes, len(shape))
        unit = math.sqrt(math.prod(shape[axis] for axis in axes))
        return Bound(axes, unit * as_float(input_bound), unit)

    def looked_up(position: int, rows: Bound) -> Bound:
        if any(floats):
            return rows
        bound = moving(position)
        size = over(rows, bound.features, program.avals[position].shape).size
        return dataclasses.replace(bound, size=min(size, bound.size))

    n_params = len(model.leaves)
    states: list[State] = [np.asarray(leaf) for leaf in model.leaves]
    for position, is_float in zip(program.inputs[n_params:], floats, strict=True):
        states.append(moving(position) if is_float else Fixed())
    interpreter = Interpreter(program, looked_up)
    outputs = interpreter.run(states)
    if not any(floats) and not interpreter.looked_up:
        raise ValueError(
            "No input of lipschitz_bound is of floating point, and none is looked up in a table: there is nothing to "
            "move. Pass one-hot vectors, or the embedding's output, as an input."
        )
    shapes = [program.avals[position].shape for position in program.outputs]
    return max(_constant(state, output_axes, shape) for state, shape in zip(outputs, shapes, strict=True))


def _constant(state: State, along: Along, shape: Sequence[int]) -> float:
    """The constant of an output, in the norm of the outputs."""
    if isinstance(state, Unproven):
        raise ValueError(
            f"lipschitz_bound has no proof: {state.reason}. Bound the part before it, or write it with operations that "
            "have a rule (linear maps, convolutions, sums, activations of bounded slope, pooling, softmax attention)."
        )
    if not isinstance(state, Bound):
        return 0.0
    axes = _axes("output_axes", along, len(shape))
    return over(state, axes, shape).lipschitz / math.sqrt(math.prod(shape[axis] for axis in axes))


def _axes(name: str, along: Along, ndim: int) -> frozenset[int]:
    """Axes counted from the front; a single number has none."""
    axes = as_axes(name, along)
    if ndim == 0:
        return frozenset()
    if any(not -ndim <= axis < ndim for axis in axes):
        raise ValueError(f"{name} must be axes of an array of {ndim} axes; got {along!r}.")
    return frozenset(axis % ndim for axis in axes)


def _refuse_specs(apply_fn: Any) -> None:
    if any(isinstance(leaf, NormSpec) for leaf in jax.tree.leaves(apply_fn)):
        raise ValueError(
            "lipschitz_bound got a tree of specs: specs say what the norm of each leaf is, not how leaves compose. "
            "Pass the function that the network computes, lipschitz_bound(apply_fn, params, *inputs)."
        )


def _refuse_abstract(model: Model) -> None:
    lines = [
        describe(path, leaf)
        for path, leaf in zip(model.paths, model.leaves, strict=True)
        if isinstance(leaf, jax.ShapeDtypeStruct | Tracer)
    ]
    advice = "The bound depends on the weights: pass concrete arrays, outside jit."
    refuse("parameter has no values", "parameters have no values", lines, advice)
