"""Flax Linen: which module holds a parameter is noted while the model is traced."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.real._model import Layout, RealModel, conv, dense, first_match, run_of, stacked

# layouts as the documentation of each module has them
Documented = Mapping[str, Callable[[nn.Module, tuple[int, ...]], Layout]]


def _as_tuple(x: Any) -> tuple[int, ...]:
    return tuple(x) if isinstance(x, tuple | list) else (x,)


def _dense_general(module: Any, shape: tuple[int, ...]) -> Layout:
    n_batch, n_in, n_out = map(len, map(_as_tuple, (module.batch_dims, module.axis, module.features)))
    return f"linear {run_of(n_batch, n_in)} > {run_of(n_batch + n_in, n_out)}"


def _conv(module: Any, shape: tuple[int, ...]) -> Layout:
    taps = len(_as_tuple(module.kernel_size))
    return conv(taps, taps, taps + 1, 0, shape, getattr(module, "feature_group_count", 1))


def _of_rank(layout: Layout):
    return lambda module, shape: layout


GAIN, BIAS = _of_rank("gain > 0"), _of_rank("bias > 0")
NORM: Documented = {"scale": GAIN, "bias": BIAS}
LAYOUTS: dict[str, Documented] = {
    "Dense": {"kernel": _of_rank(dense()), "bias": BIAS},
    "DenseGeneral": {
        "kernel": _dense_general,
        "bias": lambda m, shape: f"bias > {run_of(0, len(_as_tuple(m.features)))}",
    },
    # nn.OptimizedLSTMCell keeps its kernels in modules of their own
    "DenseParams": {"kernel": _of_rank(dense()), "bias": BIAS},
    "Conv": {"kernel": _conv, "bias": BIAS},
    "ConvTranspose": {"kernel": _conv, "bias": BIAS},
    "Embed": {"embedding": _of_rank("embedding 0 > 1")},
    "LayerNorm": NORM,
    "RMSNorm": NORM,
    "BatchNorm": NORM,
    "GroupNorm": NORM,
    "InstanceNorm": NORM,
    "PReLU": {"negative_slope": _of_rank("gain >")},
}


def built(
    module: nn.Module,
    *inputs: Any,
    own: Mapping[str, Layout] | None = None,
    rngs: tuple[str, ...] = (),
    outputs: Callable[[Any], Any] = lambda out: out,
    **kwargs: Any,
) -> RealModel:
    """A Linen module.

    Args:
      module: the module.
      *inputs: shapes of what it is called with.
      own: layouts of parameters that stand in modules of the package itself, and of what is used in two ways, by
        regular expressions of their paths.
      rngs: names of further streams of random numbers.
      outputs: the arrays of what it returns.
      **kwargs: keywords of the call.
    """
    streams = {name: jax.random.key(i) for i, name in enumerate(("params", *rngs))}
    variables = dict(jax.eval_shape(lambda *a: module.init(streams, *a, **kwargs), *inputs))
    params = variables.pop("params")
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables)

    streams.pop("params")

    def call(p: Any, *a: Any) -> Any:
        out = module.apply({"params": p, **state}, *a, mutable=list(state) or False, rngs=streams, **kwargs)
        return outputs(out[0] if state else out)

    return noted(call, params, inputs, own or {})


def noted(call: Callable[..., Any], params: Any, inputs: tuple[Any, ...], own: Mapping[str, Layout]) -> RealModel:
    """A function that calls Linen modules, whose paths are those of the parameters."""
    modules: dict[str, nn.Module] = {}

    def note(next_function, args, kwargs, context):
        modules.setdefault("/".join(context.module.path), context.module)
        return next_function(*args, **kwargs)

    def apply(*arguments: Any) -> Any:
        with nn.intercept_methods(note):
            return call(*arguments)

    def documented(leaves: Mapping[str, Any]) -> dict[str, Layout]:
        return {path: _layout(path, tuple(leaf.shape), modules, own) for path, leaf in leaves.items()}

    return RealModel(apply, params, inputs, documented)


def _layout(path: str, shape: tuple[int, ...], modules: Mapping[str, nn.Module], own: Mapping[str, Layout]) -> Layout:
    said = first_match(own, path)
    if said is not None:
        return stacked(said, len(shape))
    owner, _, name = path.rpartition("/")
    if owner not in modules:
        return "unused"
    documented = _documented(type(modules[owner]))
    if name not in documented:
        raise KeyError(f"no layout of {path}{list(shape)} of a {type(modules[owner]).__name__} is written down")
    return stacked(documented[name](modules[owner], shape), len(shape))


@functools.cache
def _documented(kind: type) -> Documented:
    return next((LAYOUTS[base.__name__] for base in kind.__mro__ if base.__name__ in LAYOUTS), {})
