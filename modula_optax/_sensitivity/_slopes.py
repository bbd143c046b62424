"""The largest slope of a function that works entry by entry."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

GRID = np.linspace(-100.0, 100.0, 400_001, dtype=np.float32)

Function = Callable[[jax.Array], jax.Array]

# Largest slopes as Modula rounds them: a network gets its sensitivities, to the last digit.
_ROUNDED: tuple[tuple[Function, float], ...] = (
    (functools.partial(jax.nn.gelu, approximate=True), 1.1289),
    (functools.partial(jax.nn.gelu, approximate=False), 1.1289),
)


def largest_slope(function: Function) -> float:
    """Largest slope, found on a grid; of multiples of a function in the table, what that says."""
    slopes = _slopes(function)
    for known, largest in _ROUNDED:
        reference = _known_slopes(known)
        steepest = jnp.argmax(jnp.abs(reference))
        factor = slopes[steepest] / reference[steepest]
        if jnp.allclose(slopes, factor * reference, rtol=0.0, atol=1e-5 * jnp.abs(factor)):
            return abs(float(factor)) * largest
    return float(jnp.max(jnp.abs(slopes)))


def _slopes(function: Function) -> jax.Array:
    return jax.jvp(function, (jnp.asarray(GRID),), (jnp.ones_like(GRID),))[1]


_known_slopes = functools.cache(_slopes)
