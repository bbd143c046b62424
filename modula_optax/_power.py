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
    r"""Leading singular triple of every tap, approached from `v`.

    .. math:: v \leftarrow W^\top W v / |W^\top W v|_2, \qquad u = W v / |W v|_2, \qquad s = |W v|_2

    Args:
      w: canonical array, `[*batch, taps, fan_in, fan_out]`.
      v: where to start, of length one; what an earlier call returned is a good start for weights that moved little.
      steps: how many products with W and its transpose.

    Returns:
      u, s and v. s is never above the truth, but for rounding.

    Example:
      >>> u, s, v = norms.power_iteration(jnp.diag(jnp.array([2.0, 1.0]))[None], jnp.array([[0.6, 0.8]]), 8)
      >>> s.round(3)
      Array([2.], dtype=float32)
    """

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
    """Leading right singular vector of every tap, by power iteration from a start that is fixed, but at random.

    Args:
      w: canonical array, `[*batch, taps, fan_in, fan_out]`.
      iterations: how many products with W and its transpose.

    Returns:
      Vectors of length one, `[*batch, taps, fan_out]`.

    Example:
      >>> abs(norms.leading_direction(jnp.diag(jnp.array([2.0, 1.0]))[None])).round(3)
      Array([[1., 0.]], dtype=float32)
    """
    # a constant: the random numbers of JAX would take longer to compile than all that follows
    start = np.random.default_rng(0).standard_normal(w.shape[-1])
    start = jnp.broadcast_to(jnp.asarray(start / np.linalg.norm(start), w.dtype), (*w.shape[:-2], w.shape[-1]))
    return power_iteration(w, start, iterations)[2]
