"""The model as inference wants it: checked, and traced to a jaxpr of parameters and example inputs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modula_optax._parameters import flatten_parameters, refuse_step
from modula_optax._paths import is_absent

_FORM = "apply_fn(params, *example_inputs, **kwargs)"


class Model(NamedTuple):
    """A traced model: the first invars of `jaxpr` are the parameters, named by `paths`."""

    jaxpr: Any
    paths: list[str]
    leaves: list[Any]
    inputs: list[Any]  # the example inputs that are arrays


def trace_model(
    apply_fn: Callable[..., Any], params: Any, example_inputs: Sequence[Any], kwargs: Mapping[str, Any]
) -> Model:
    """Traces a model once; nothing is computed.

    Raises:
      ValueError: no parameters, or leaves that are no arrays; arguments that do not fit; outputs that are no arrays.
    """
    instead = _in_place_of_model(apply_fn, params)
    if not callable(apply_fn):
        got = f"got {type(apply_fn).__name__}.{instead}"
        raise ValueError(f"apply_fn must be a function (params, *inputs) -> outputs; {got}")
    refuse_step(params)
    flat = [(path, leaf) for path, leaf in flatten_parameters(params)[0] if not is_absent(leaf)]
    if not flat:
        raise ValueError("params has no leaves: there is nothing to infer. Pass the parameters of the model.")
    _check_arguments(apply_fn, params, example_inputs, kwargs, instead)
    arguments, treedef = jax.tree.flatten((tuple(example_inputs), dict(kwargs)))
    arrays = [x for x in arguments if _is_array(x)]

    def call(leaves: list[Any], traced: list[Any]) -> list[Any]:
        supply = iter(traced)
        args, keywords = treedef.unflatten([next(supply) if _is_array(x) else x for x in arguments])
        outputs = jax.tree.leaves(apply_fn(jax.tree.unflatten(jax.tree.structure(params), leaves), *args, **keywords))
        _check_outputs(outputs)
        return [jnp.asarray(x) if not _is_key(x) else x for x in outputs]

    leaves = [leaf for _, leaf in flat]
    try:
        jaxpr = jax.make_jaxpr(call)(leaves, arrays)
    except Exception as error:
        if instead:
            raise ValueError(
                f"apply_fn is a model, or a method of one, and not a function of {_FORM}.{instead}"
            ) from error
        error.add_note(
            f"Raised while tracing {_FORM}. Python numbers, booleans and strings "
            "are passed as they are, arrays and jax.ShapeDtypeStructs as tracers; random keys and mutable collections "
            "belong into the closure, e.g. lambda p, *a: model.apply({'params': p, **state}, *a). A named axis, as of "
            "BatchNorm(axis_name='batch'), is that of a jax.vmap(..., axis_name='batch') around the model."
        )
        raise
    return Model(jaxpr, [path for path, _ in flat], leaves, arrays)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _in_place_of_model(apply_fn: Any, params: Any) -> str:
    """What to write in place of a model that was passed for the function; nothing, if none was."""
    model = inspect.unwrap(apply_fn, stop=lambda function: hasattr(function, "__self__"))
    method = getattr(model, "__name__", "")
    model = getattr(model, "__self__", model)
    of_model = callable(getattr(model, "init", None)) and callable(getattr(model, "apply", None))
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if of_model and "haiku" in packages:
        return " Write transformed.apply, or hk.without_apply_rng(transformed).apply if it draws no numbers."
    if of_model:
        takes_variables = method == "apply" and isinstance(params, Mapping) and "params" in params
        return "" if takes_variables else " With Flax Linen, write lambda p, *a: model.apply({'params': p}, *a)."
    if "equinox" in packages:
        return (
            " With Equinox, write lambda p, *a: jax.vmap(eqx.combine(p, static))(*a), after\n"
            "params, static = eqx.partition(model, eqx.is_inexact_array)."
        )
    if "flax" in packages:
        return (
            " With Flax NNX, write lambda p, *a: nnx.merge(graph, p, rest, copy=True)(*a), after\n"
            "graph, params, rest = nnx.split(model, nnx.Param, ...)."
        )
    return ""


def _check_arguments(
    apply_fn: Any, params: Any, example_inputs: Sequence[Any], kwargs: Mapping[str, Any], instead: str
) -> None:
    try:
        signature = inspect.signature(apply_fn)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(params, *example_inputs, **kwargs)
    except TypeError as error:
        # annotations may be longer than the message
        bare = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
        signature = signature.replace(parameters=bare, return_annotation=signature.empty)
        raise ValueError(
            f"apply_fn{signature} does not accept what it is called with, {_FORM} with "
            f"{len(example_inputs)} example inputs and keywords {sorted(kwargs)}: {error}.{instead}"
        ) from None


def _check_outputs(outputs: Sequence[Any]) -> None:
    wrong = [x for x in outputs if not (hasattr(x, "shape") or isinstance(x, bool | int | float | complex))]
    if wrong or not outputs:
        got = type(wrong[0]).__name__ if wrong else "nothing"
        raise ValueError(
            f"apply_fn must return arrays (logits, or a loss); it returned {got}. Wrap it: "
            "lambda p, *a: apply_fn(p, *a).logits, for example."
        )
