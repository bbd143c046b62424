"""Bounds on the largest singular value of a matrix, from its Gram matrix R = XXᵀ and R²; 1 for 0, to divide by.

What is zero is replaced before its root is taken: the derivative of a root at zero would be infinite.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._coefficients import Coefficients

Gram = Float[Array, "*batch k k"]
Bound = Callable[[Gram, Gram], Float[Array, "*batch 1 1"]]


def resolve_scaling(scaling: str | None, coefficients: Coefficients) -> Bound:
    """The bound of a name; for `None` the one that suits the coefficients."""
    if scaling is None:
        # an array of coefficients would be compared entry by entry
        ours = isinstance(coefficients, str) and coefficients == "four-step"
        scaling = "schatten-eight" if ours else "frobenius"
    if scaling not in _BOUNDS:
        names = ", ".join(repr(name) for name in _BOUNDS)
        raise ValueError(f"Unknown scaling {scaling!r}. Write one of {names}.")
    return _BOUNDS[scaling]


def _trace(gram: Gram) -> Float[Array, "*batch 1 1"]:
    return jnp.trace(gram, axis1=-2, axis2=-1)[..., None, None]


def _sum_of_squares(gram: Gram) -> Float[Array, "*batch 1 1"]:
    return jnp.sum(gram * gram, axis=(-2, -1), keepdims=True)


def _largest_eigenvalue(gram: Gram) -> Float[Array, "*batch 1 1"]:
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh(gram)), axis=-1, initial=0.0)[..., None, None]


def _root(x: Float[Array, "*batch 1 1"], order: int) -> Float[Array, "*batch 1 1"]:
    x = jnp.where(x == 0.0, jnp.ones_like(x), x)
    return jnp.sqrt(x) if order == 2 else x ** (1 / order)


_BOUNDS: dict[str, Bound] = {
    "frobenius": lambda gram, square: _root(_trace(gram), 2),
    "schatten": lambda gram, square: _root(_sum_of_squares(gram), 4),
    "schatten-eight": lambda gram, square: _root(_sum_of_squares(square), 8),
    "spectral": lambda gram, square: _root(_largest_eigenvalue(gram), 2),
    # the rows have been divided already
    "aol": lambda gram, square: jnp.ones_like(_trace(gram)),
}
