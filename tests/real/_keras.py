"""Keras 3 on JAX: every layer of a model says which variables are its own."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import keras

from tests.real._model import Layout, RealModel, conv, first_match, run_of

Documented = Mapping[str, Callable[[Any, tuple[int, ...]], Layout]]


def _conv(layer: Any, shape: tuple[int, ...]) -> Layout:
    """Kernels [*taps, inputs, outputs]."""
    return conv(layer.rank, layer.rank, layer.rank + 1, 0, shape, layer.groups)


def _conv_transpose(layer: Any, shape: tuple[int, ...]) -> Layout:
    """Kernels [*taps, outputs, inputs]."""
    return conv(layer.rank, layer.rank + 1, layer.rank, 0, shape, 1)


def _depthwise(layer: Any, shape: tuple[int, ...]) -> Layout:
    """Kernels [*taps, channels, multiplier]: every channel has outputs of its own, several of which are a matrix."""
    channels, outputs = layer.rank, layer.rank + 1
    taps = run_of(0, layer.rank)
    return (
        f"depthwise > {outputs} @ {taps}"
        if shape[outputs] > 1
        else f"depthwise > {channels} @ {taps} / {shape[channels]}"
    )


def _einsum(layer: Any, shape: tuple[int, ...]) -> Layout:
    """What the equation of the layer contracts and keeps."""
    inputs, kernel, outputs = layer.equation.replace("->", ",").replace("...", "").split(",")
    fan_in = [i for i, axis in enumerate(kernel) if axis in inputs and axis not in outputs]
    fan_out = [i for i, axis in enumerate(kernel) if axis not in inputs]
    return f"linear {' '.join(map(str, fan_in))} > {' '.join(map(str, fan_out))}"


def _of_rank(layout: Layout) -> Callable[[Any, tuple[int, ...]], Layout]:
    return lambda layer, shape: layout


def _all_axes(layer: Any, shape: tuple[int, ...]) -> Layout:
    return f"bias > {run_of(0, len(shape))}"


DENSE, GAIN, BIAS = _of_rank("linear 0 > 1"), _of_rank("gain > 0"), _of_rank("bias > 0")
CELL: Documented = {"kernel": DENSE, "recurrent_kernel": DENSE, "bias": BIAS}
NORM: Documented = {"gamma": GAIN, "beta": BIAS, "scale": GAIN}
CONV: Documented = {"kernel": _conv, "bias": BIAS}
LAYOUTS: dict[str, Documented] = {
    "EinsumDense": {"kernel": _einsum, "bias": _all_axes},
    "Dense": {"kernel": DENSE, "bias": BIAS},
    "BaseConvTranspose": {"kernel": _conv_transpose, "bias": BIAS},
    "BaseDepthwiseConv": {"kernel": _depthwise, "bias": BIAS},
    "BaseSeparableConv": {
        "depthwise_kernel": _depthwise,
        "pointwise_kernel": lambda layer, shape: conv(layer.rank, layer.rank, layer.rank + 1, 0, shape, 1),
        "bias": BIAS,
    },
    "BaseConv": CONV,
    "Embedding": {"embeddings": _of_rank("embedding 0 > 1")},
    "ReversibleEmbedding": {"embeddings": _of_rank("tied 0 > 1")},
    "BatchNormalization": NORM,
    "LayerNormalization": NORM,
    "GroupNormalization": NORM,
    "RMSNormalization": NORM,
    "UnitNormalization": NORM,
    "PReLU": {"alpha": lambda layer, shape: f"gain > {run_of(0, len(shape))}"},
    "LSTMCell": CELL,
    "SimpleRNNCell": CELL,
    # two rows, one for each kernel
    "GRUCell": CELL | {"bias": _of_rank("bias > 1")},
}


def built(
    make: Callable[[], keras.Model], *inputs: Any, own: Mapping[str, Layout] = {}, training: bool = False
) -> Callable[[], RealModel]:
    """A Keras model: `own` has the layouts of what other layers hold, by regular expressions of paths."""

    def build() -> RealModel:
        models = []

        def variables() -> tuple[list[Any], list[Any]]:
            keras.utils.clear_session(free_memory=False)
            models.append(make())
            return tuple([v.value for v in kind] for kind in _variables(models[-1]))

        # nothing is drawn: variables hold tracers, in whose place `stateless_call` gets the values
        trained, fixed = jax.eval_shape(variables)
        model = models[-1]
        names = [v.path for v in model.trainable_variables]
        zeros = [jnp.zeros(v.shape, v.dtype) for v in fixed]

        def apply(p: dict[str, Any], *a: Any) -> Any:
            out, _ = model.stateless_call([p[name] for name in names], zeros, *a, training=training)
            return jax.tree.leaves(out)

        def documented(leaves: Mapping[str, Any]) -> dict[str, Layout]:
            return {path: _layout(path, tuple(leaf.shape), owners, own) for path, leaf in leaves.items()}

        owners = _owners(model)
        return RealModel(apply, dict(zip(names, trained, strict=True)), inputs, documented)

    return build


def _variables(model: keras.Model) -> tuple[list[Any], list[Any]]:
    return model.trainable_variables, model.non_trainable_variables


def _owners(model: keras.Model) -> dict[str, Any]:
    """The innermost layer that holds each variable."""
    owners: dict[str, Any] = {}
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            owners[variable.path] = layer
    return owners


def _layout(path: str, shape: tuple[int, ...], owners: Mapping[str, Any], own: Mapping[str, Layout]) -> Layout:
    said = first_match(own, path)
    if said is not None:
        return said
    layer, name = owners[path], path.rsplit("/", 1)[-1]
    for base in type(layer).__mro__:
        if name in LAYOUTS.get(base.__name__, {}):
            return LAYOUTS[base.__name__][name](layer, shape)
    raise KeyError(f"no layout of {path}{list(shape)} of a {type(layer).__name__} is written down")
