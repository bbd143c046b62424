"""Power iteration: the leading singular triple of every matrix of a stack."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from modula_optax._canonical import Canonical, PerTap
from modula_optax._linalg import length, matmul, unit


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
