"""Canonical arrays: their atoms, singular values, and whether these are within a bound."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from modula_optax._definite import is_positive_definite
from modula_optax._linalg import identity_like, scale_of

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
    r"""What all singular values of an atom on the unit sphere of `Spectral` are.

    .. math:: \sqrt{d_{out} / d_{in}} \, / K

    Args:
      w: canonical array of K taps.

    Returns:
      The number, which depends on the shape alone.

    Example:
      >>> norms.spectral_gain(jnp.ones((1, 4, 16)))
      2.0
    """
    return spectral_gain_of(w.shape)


def spectral_gain_of(shape: tuple[int, ...]) -> float:
    """The same, of an array of this shape."""
    taps, fan_in, fan_out = shape[-3:]
    return math.sqrt(fan_out / fan_in) / taps


def inputs(w: Canonical) -> int:
    r"""How many numbers every output unit reads, taps included.

    .. math:: K \, d_{in}

    Args:
      w: canonical array, `[*batch, K, d_in, d_out]`.

    Returns:
      The count.

    Example:
      >>> norms.inputs(jnp.ones((9, 3, 8)))
      27
    """
    return w.shape[-3] * w.shape[-2]


def singular_values(w: Canonical) -> Float[Array, "*batch taps rank"]:
    """All singular values of every tap, largest first; as precise at 1e-30 as at 1.

    Args:
      w: canonical array, `[*batch, taps, fan_in, fan_out]`.

    Returns:
      An array `[*batch, taps, min(fan_in, fan_out)]`.

    Example:
      >>> norms.singular_values(jnp.diag(jnp.array([1.0, 3.0]))[None])
      Array([[3., 1.]], dtype=float32)
    """
    scale = scale_of(w, (-2, -1))
    return jnp.linalg.svdvals(w / scale) * scale[..., 0]


def gram_is_within(
    a: Float[Array, "*batch taps rank rank"], bound: float | Float[Array, "*#batch #taps"] = 1.0
) -> Bool[Array, "*batch taps"]:
    """Whether no eigenvalue is above bound², but for rounding: then bound² - A is positive definite."""
    # a yes or no has no derivative, and the loop that finds it could not be gone through backwards
    a = jax.lax.stop_gradient(a)
    bounds = jax.lax.stop_gradient(jnp.broadcast_to(jnp.asarray(bound, a.dtype), a.shape[:-2]))[..., None, None]
    largest = ((1 + 100 * float(jnp.finfo(a.dtype).eps)) * bounds) ** 2
    # one by one: on CPUs two batches of Cholesky factors at a time wait for each other's threads, for ever
    margins = (largest * identity_like(a) - a).reshape(-1, *a.shape[-2:])
    return jax.lax.map(is_positive_definite, margins).reshape(a.shape[:-2])
