"""Arithmetic on canonical arrays that stays finite from 1e-30 to 1e30: lengths, singular values, power iteration."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from modula_optax._definite import is_positive_definite
from modula_optax._polar import gram_matrix, matmul, one_where_zero, scale_of

Canonical = Float[Array, "*batch taps fan_in fan_out"]
# the atoms of one or of several parameters
Stack = Float[Array, "n taps fan_in fan_out"]
PerAtom = Float[Array, "*batch"]
PerTap = Float[Array, "*batch taps"]

# the axes of one atom
ATOM = (-3, -2, -1)


def stacked(w: Canonical) -> Stack:
    """All atoms along one axis."""
    return w.reshape(-1, *w.shape[-3:])


def spectral_gain(w: Canonical) -> float:
    """What all singular values of an atom on the unit sphere of `Spectral` are: sqrt(d_out / d_in) / K."""
    taps, fan_in, fan_out = w.shape[-3:]
    return math.sqrt(fan_out / fan_in) / taps


def inputs(w: Canonical) -> int:
    """How many numbers every output unit reads, taps included."""
    return w.shape[-3] * w.shape[-2]


def length(x: Float[Array, "..."], axes: int | tuple[int, ...]) -> Float[Array, "..."]:
    """Euclidean length over `axes`, without overflow or underflow of the squares."""
    axes = (axes,) if isinstance(axes, int) else axes
    scale = scale_of(x, axes)
    squares = jnp.sum((x / scale) ** 2, axis=axes, keepdims=True)
    # a root of zero has no derivative, and must not be one of the branches
    return jnp.squeeze(jnp.where(squares == 0.0, squares, scale * jnp.sqrt(one_where_zero(squares))), axes)


def unit(x: Float[Array, "..."], axes: int | tuple[int, ...]) -> Float[Array, "..."]:
    """Vectors over `axes` of length one; 0 for 0."""
    axes = (axes,) if isinstance(axes, int) else axes
    x = x / scale_of(x, axes)
    squares = jnp.sum(x * x, axis=axes, keepdims=True)
    # a non-zero vector has an entry of ±1 by now: 1 stands in for the squares of a zero one only
    return x / jnp.sqrt(jnp.maximum(squares, 1.0))


def singular_values(w: Canonical) -> Float[Array, "*batch taps rank"]:
    """All singular values of every tap, largest first."""
    scale = scale_of(w, (-2, -1))
    return jnp.linalg.svdvals(w / scale) * scale[..., 0]


def power_iteration(
    w: Canonical, v: Float[Array, "*batch taps fan_out"], steps: int
) -> tuple[Float[Array, "*batch taps fan_in"], PerTap, Float[Array, "*batch taps fan_out"]]:
    """Leading singular triple (u, s, v) of every tap, approached from `v`; s is never above the truth."""

    def step(_: int, v: Array) -> Array:
        image = unit(_times(w, v), -1)
        # a row times the matrix, since a product with w.mT would write the transpose to memory first
        onward = unit(matmul(image[..., None, :], w)[..., 0, :], -1)
        # what is zero or no number says nothing, and must not end the iteration for the steps to come
        return jnp.where(jnp.any(jnp.abs(onward) > 0.0, axis=-1, keepdims=True), onward, v)

    # under `shard_map` what a loop carries must vary over devices from the beginning, as the matrices may
    v = jax.lax.fori_loop(0, steps, step, v + jnp.zeros_like(w, shape=v.shape))
    image = _times(w, v)
    return unit(image, -1), length(image, -1), v


def _times(w: Canonical, v: Float[Array, "*batch taps n"]) -> Float[Array, "*batch taps m"]:
    return matmul(w, v[..., None])[..., 0]


def leading_direction(w: Canonical, iterations: int = 32) -> Float[Array, "*batch taps fan_out"]:
    """Leading right singular vector of every tap, by power iteration from a start that is fixed, but at random."""
    # a constant: the random numbers of JAX would take longer to compile than all that follows
    start = np.random.default_rng(0).standard_normal(w.shape[-1])
    start = jnp.broadcast_to(jnp.asarray(start / np.linalg.norm(start), w.dtype), (*w.shape[:-2], w.shape[-1]))
    return power_iteration(w, start, iterations)[2]


def is_within(w: Canonical, bound: float | Float[Array, "*#batch #taps"]) -> Bool[Array, "*batch taps"]:
    """Whether no singular value of a tap is above `bound`, but for rounding."""
    return gram_is_within(gram_matrix(w / jnp.broadcast_to(jnp.asarray(bound, w.dtype), w.shape[:-2])[..., None, None]))


def gram_is_within(a: Float[Array, "*batch taps rank rank"], bound: float = 1.0) -> Bool[Array, "*batch taps"]:
    """Whether no eigenvalue is above bound², but for rounding: then bound² - A is positive definite."""
    # a yes or no has no derivative, and the loop that finds it could not be gone through backwards
    a = jax.lax.stop_gradient(a)
    largest = (1 + 100 * float(jnp.finfo(a.dtype).eps)) ** 2 * bound**2
    # one by one: on CPUs two batches of Cholesky factors at a time wait for each other's threads, for ever
    margins = (largest * identity_like(a) - a).reshape(-1, *a.shape[-2:])
    return jax.lax.map(is_positive_definite, margins).reshape(a.shape[:-2])


def identity_like(a: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """As many identity matrices of the same dtype."""
    return jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
