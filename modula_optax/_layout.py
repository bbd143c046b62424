"""A parameter as its norm wants it, `[..., taps, fan_in, fan_out]`, and back."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from modula_optax._axes import Axes, batch_shape, canonical_shape, from_canonical, normalize_axes, to_canonical
from modula_optax._canonical import stacked
from modula_optax._linalg import working_dtype
from modula_optax._paths import kind_of
from modula_optax._specs import NormSpec


def resolve_axes(spec: NormSpec, shape: tuple[int, ...]) -> Axes:
    """The axes of a normed parameter of this shape, counted from the front."""
    axes = spec.norm.default_axes(len(shape)) if spec.axes is None else spec.axes
    return normalize_axes(axes, shape)


def canonical(value: Array, spec: NormSpec) -> Float[Array, "*batch taps fan_in fan_out"]:
    """A parameter as its norm wants it: canonical layout, at least float32."""
    return _canonical(value, resolve_axes(spec, value.shape))


def atoms(value: Array, spec: NormSpec, members: int = 0, devices: int = 1) -> Float[Array, "n taps fan_in fan_out"]:
    """The same with all atoms along one axis, those of all members of an ensemble too.

    In an order in which those of `devices` stay where they are if they are on as many already, as experts often are.
    """
    if members:
        return stacked(jax.vmap(partial(atoms, spec=spec, members=members - 1))(value))
    w = canonical(value, spec)
    return stacked(jnp.moveaxis(w, _over(w.shape[:-3], devices), 0) if w.ndim > 4 else w)


def are_settled(spec: NormSpec, shape: tuple[int, ...], devices: int) -> bool:
    """Whether a parameter has layers of experts, say, of which each device may have some."""
    batch = batch_shape(resolve_axes(spec, shape), shape)
    return len(batch) > 1 and any(n % devices == 0 for n in batch)


def _over(batch: tuple[int, ...], devices: int) -> int:
    """The batch axis whose atoms may be on devices of their own: the last that these divide."""
    return max((i for i, n in enumerate(batch) if n % devices == 0), default=0) if devices > 1 else 0


def atoms_shape(spec: NormSpec, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """That of the atoms of a parameter of this shape."""
    return canonical_shape(resolve_axes(spec, shape), shape)


def restored(
    w: Float[Array, "*batch taps fan_in fan_out"],
    spec: NormSpec,
    like: Any,
    scale: float = 1.0,
    members: int = 0,
    devices: int = 1,
) -> Array:
    """Inverse of `canonical` and of `atoms`, scaled: the layout, shape and dtype of the parameter `like`."""
    if members:
        one = jax.ShapeDtypeStruct(like.shape[1:], like.dtype)
        back = partial(restored, spec=spec, like=one, scale=scale, members=members - 1)
        return jax.vmap(back)(w.reshape(like.shape[0], -1, *w.shape[-3:]))
    axes = resolve_axes(spec, like.shape)
    expected = canonical_shape(axes, tuple(like.shape))[1:]
    if getattr(w, "shape", ())[-3:] != expected:
        # what has as many entries would be taken for a parameter of this shape, in another order
        makers = f"{spec.norm!r}{'' if spec.constraint is None else f', or {spec.constraint!r},'}"
        raise ValueError(
            f"{makers} returned {kind_of(w)} for atoms {list(expected)} of a parameter {list(like.shape)}: methods of\n"
            "norms and constraints return arrays of the shape that they are given."
        )
    if devices > 1 and w.ndim == 4:
        batch = batch_shape(axes, like.shape)
        first = _over(batch, devices)
        order = (batch[first], *batch[:first], *batch[first + 1 :]) if batch else ()
        w = jnp.moveaxis(w.reshape(*order, *w.shape[-3:]), 0, first) if len(batch) > 1 else w
    return _restored(w, axes, tuple(like.shape), like.dtype, scale)


# `jit`, although all is compiled anyway: of many parameters of one shape only the first is traced step by step


@partial(jax.jit, static_argnums=1, inline=True)
def _canonical(value: Array, axes: Axes) -> Array:
    return to_canonical(jnp.asarray(value, working_dtype(value.dtype)), axes)


@partial(jax.jit, static_argnums=(1, 2, 3, 4), inline=True)
def _restored(w: Array, axes: Axes, shape: tuple[int, ...], dtype: DTypeLike, scale: float) -> Array:
    # a product with the commonest mass would cost as much to compile as one with any other
    return from_canonical(w if scale == 1.0 else scale * w, axes, shape).astype(dtype)
