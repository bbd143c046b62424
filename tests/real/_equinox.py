"""Equinox: a model is a tree of modules, each of which holds its own arrays."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax

from tests.real._model import Layout, RealModel, conv, first_match, run_of, stacked

Documented = Mapping[str, Callable[[Any, tuple[int, ...]], Layout]]


def _of_rank(layout: Layout) -> Callable[[Any, tuple[int, ...]], Layout]:
    return lambda module, shape: layout


def _conv(module: Any, shape: tuple[int, ...]) -> Layout:
    """Kernels [outputs, inputs, *taps]."""
    return conv(module.num_spatial_dims, 1, 0, 2, shape, module.groups)


def _all_axes(role: str) -> Callable[[Any, tuple[int, ...]], Layout]:
    return lambda module, shape: f"{role} > {run_of(0, len(shape))}"


LINEAR, BIAS, GAIN = _of_rank("linear 1 > 0"), _of_rank("bias > 0"), _of_rank("gain > 0")
NORM: Documented = {"weight": GAIN, "bias": BIAS}
LAYOUTS: dict[str, Documented] = {
    "Linear": {"weight": LINEAR, "bias": BIAS},
    "Conv": {"weight": _conv, "bias": _all_axes("bias")},
    "ConvTranspose": {"weight": _conv, "bias": _all_axes("bias")},
    "Embedding": {"weight": _of_rank("embedding 0 > 1")},
    "LayerNorm": {"weight": _all_axes("gain"), "bias": _all_axes("bias")},
    "RMSNorm": {"weight": _all_axes("gain"), "bias": _all_axes("bias")},
    "GroupNorm": NORM,
    "BatchNorm": NORM,
    "GRUCell": {"weight_ih": LINEAR, "weight_hh": LINEAR, "bias": BIAS, "bias_n": BIAS},
    "LSTMCell": {"weight_ih": LINEAR, "weight_hh": LINEAR, "bias": BIAS},
    "PReLU": {"negative_slope": _all_axes("gain")},
}


def built(
    model: Callable[[jax.Array], Any],
    call: Callable[..., Any],
    *inputs: Any,
    own: Mapping[str, Layout] = {},
) -> Callable[[], RealModel]:
    """An Equinox module.

    Args:
      model: makes the module of a random key; a pair of a module and its state will do.
      call: what is computed of the module, its state if there is one, and the inputs.
      *inputs: shapes of the inputs.
      own: layouts of what other modules hold, by regular expressions of paths.
    """

    def build() -> RealModel:
        made = eqx.filter_eval_shape(model, jax.random.key(0))
        module, *state = made if isinstance(made, tuple) else (made,)
        params, static = eqx.partition(module, _is_real)
        zeros = [jax.tree.map(_zeros, part) for part in state]
        static = jax.tree.map(_zeros, static)

        def apply(p: Any, *a: Any) -> Any:
            out = call(eqx.combine(p, static), *zeros, *a)
            return [x for x in jax.tree.leaves(out) if eqx.is_array(x)]

        def documented(leaves: Mapping[str, Any]) -> dict[str, Layout]:
            owners = dict(_arrays(params))
            return {path: _layout(path, tuple(leaf.shape), owners[path], own) for path, leaf in leaves.items()}

        return RealModel(apply, params, inputs, documented)

    return build


def _is_real(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct | jax.Array) and jax.numpy.issubdtype(x.dtype, jax.numpy.inexact)


def _zeros(x: Any) -> Any:
    return jax.numpy.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x


def _arrays(node: Any, path: str = "", owner: Any = None) -> Iterator[tuple[str, Any]]:
    """Paths of all arrays, and the module that holds each."""
    if isinstance(node, eqx.Module):
        for field in dataclasses.fields(node):
            if not field.metadata.get("static", False):
                yield from _arrays(getattr(node, field.name, None), f"{path}/{field.name}", node)
    elif isinstance(node, dict):
        for name, entry in node.items():
            yield from _arrays(entry, f"{path}/{name}", owner)
    elif isinstance(node, tuple | list):
        for i, entry in enumerate(node):
            yield from _arrays(entry, f"{path}/{i}", owner)
    elif hasattr(node, "shape"):
        yield path.lstrip("/"), owner


def _layout(path: str, shape: tuple[int, ...], owner: Any, own: Mapping[str, Layout]) -> Layout:
    said = first_match(own, path)
    if said is not None:
        return stacked(said, len(shape))
    name = path.rsplit("/", 1)[-1]
    for base in type(owner).__mro__:
        if name in LAYOUTS.get(base.__name__, {}):
            return stacked(LAYOUTS[base.__name__][name](owner, shape), len(shape))
    raise KeyError(f"no layout of {path}{list(shape)} of a {type(owner).__name__} is written down")
