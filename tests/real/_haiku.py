"""Haiku: which module holds a parameter is noted while the model is traced."""

from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from tests.real._model import Layout, RealModel, conv, first_match, run_of, stacked

Documented = Mapping[str, Callable[[Any, tuple[int, ...]], Layout]]


def _of_rank(layout: Layout) -> Callable[[Any, tuple[int, ...]], Layout]:
    return lambda module, shape: layout


def _conv(module: Any, shape: tuple[int, ...]) -> Layout:
    """Kernels [*taps, inputs, outputs]."""
    n = module.num_spatial_dims
    return conv(n, n, n + 1, 0, shape, module.feature_group_count)


def _conv_transpose(module: Any, shape: tuple[int, ...]) -> Layout:
    """Kernels [*taps, outputs, inputs]."""
    n = module.num_spatial_dims
    return conv(n, n + 1, n, 0, shape, 1)


def _depthwise(module: Any, shape: tuple[int, ...]) -> Layout:
    """Kernels [*taps, 1, channels * multiplier]."""
    n = len(shape) - 2
    return f"depthwise {n} > {n + 1} @ {run_of(0, n)} / {shape[-1] // module.channel_multiplier}"


LINEAR, BIAS, GAIN = _of_rank("linear 0 > 1"), _of_rank("bias > 0"), _of_rank("gain > 0")


def _of_last(role: str) -> Callable[[Any, tuple[int, ...]], Layout]:
    """Statistics keep their axes: what is applied after them has the features last."""
    return lambda module, shape: f"{role} > {len(shape) - 1}"


LAYOUTS: dict[str, Documented] = {
    "Linear": {"w": LINEAR, "b": BIAS},
    "ConvND": {"w": _conv, "b": BIAS},
    "ConvNDTranspose": {"w": _conv_transpose, "b": BIAS},
    "DepthwiseConvND": {"w": _depthwise, "b": BIAS},
    "GRU": {"w_i": LINEAR, "w_h": LINEAR, "b": BIAS},
    "Embed": {"embeddings": _of_rank("embedding 0 > 1")},
    "LayerNorm": {"scale": GAIN, "offset": BIAS},
    "RMSNorm": {"scale": GAIN},
    "BatchNorm": {"scale": _of_last("gain"), "offset": _of_last("bias")},
    "GroupNorm": {"scale": GAIN, "offset": BIAS},
    "Bias": {"b": BIAS},
}


def built(function: Callable[..., Any], *inputs: Any, own: Mapping[str, Layout] = {}) -> Callable[[], RealModel]:
    """A function of Haiku modules."""

    def build() -> RealModel:
        transformed = hk.transform_with_state(function)
        params, state = jax.eval_shape(transformed.init, jax.random.key(0), *inputs)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
        modules: dict[str, Any] = {}

        def note(next_function, args, kwargs, context):
            result = next_function(*args, **kwargs)
            modules.setdefault(context.module.module_name, context.module)
            return result

        def apply(p: Any, *a: Any) -> Any:
            with hk.intercept_methods(note):
                return jax.tree.leaves(transformed.apply(p, zeros, jax.random.key(1), *a)[0])

        def documented(leaves: Mapping[str, Any]) -> dict[str, Layout]:
            return {path: _layout(path, tuple(leaf.shape), modules, own) for path, leaf in leaves.items()}

        return RealModel(apply, params, inputs, documented)

    return build


def _layout(path: str, shape: tuple[int, ...], modules: Mapping[str, Any], own: Mapping[str, Layout]) -> Layout:
    said = first_match(own, path)
    if said is not None:
        return stacked(said, len(shape))
    owner, _, name = path.rpartition("/")
    # inside of a stack of layers modules have names of their own
    owner = owner.rpartition("__layer_stack_no_per_layer/")[2]
    for base in type(modules[owner]).__mro__:
        if name in LAYOUTS.get(base.__name__, {}):
            return stacked(LAYOUTS[base.__name__][name](modules[owner], shape), len(shape))
    raise KeyError(f"no layout of {path}{list(shape)} of a {type(modules[owner]).__name__} is written down")
