"""What matrices are divided by first: bounds on their largest singular value, from R = XXᵀ and R²; 1 for 0.

What is zero is replaced before its root is taken: the derivative of a root at zero would be infinite.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._coefficients import Coefficients
from modula_optax._linalg import Gram, Matrices, gram_matrix, is_tall, one_where_zero

Bound = Callable[[Gram, Gram], Float[Array, "*batch 1 1"]]


class Scaling(NamedTuple):
    """What is done to matrices before their Gram matrix is taken, and the bound on what that leaves."""

    before: Callable[[Matrices], Matrices]
    bound: Bound


def resolve_scaling(scaling: str | None, coefficients: Coefficients) -> Scaling:
    """The scaling of a name; for `None` the one that suits the coefficients."""
    if scaling is None:
        # an array of coefficients is no key
        scaling = _SUITING.get(coefficients, "frobenius") if isinstance(coefficients, str) else "frobenius"
    if scaling not in _SCALINGS:
        names = ", ".join(repr(name) for name in _SCALINGS)
        raise ValueError(f"Unknown scaling {scaling!r}. Write one of {names}.")
    return _SCALINGS[scaling]


def _trace(gram: Gram) -> Float[Array, "*batch 1 1"]:
    return jnp.trace(gram, axis1=-2, axis2=-1)[..., None, None]


def _sum_of_squares(gram: Gram) -> Float[Array, "*batch 1 1"]:
    return jnp.sum(gram * gram, axis=(-2, -1), keepdims=True)


def _largest_eigenvalue(gram: Gram) -> Float[Array, "*batch 1 1"]:
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh(gram)), axis=-1, initial=0.0)[..., None, None]


def _root(x: Float[Array, "*batch 1 1"], order: int) -> Float[Array, "*batch 1 1"]:
    x = one_where_zero(x)
    return jnp.sqrt(x) if order == 2 else x ** (1 / order)


def as_they_are(x: Matrices) -> Matrices:
    return x


def _almost_orthogonal(x: Matrices) -> Matrices:
    """Every row, along the shorter side, over a bound of its own ("almost orthogonal layers")."""
    bounds = jnp.sqrt(one_where_zero(jnp.sum(jnp.abs(gram_matrix(x)), axis=-1, keepdims=True)))
    return x / (bounds.mT if is_tall(x) else bounds)


_SCALINGS = {
    "frobenius": Scaling(as_they_are, lambda gram, square: _root(_trace(gram), 2)),
    "schatten": Scaling(as_they_are, lambda gram, square: _root(_sum_of_squares(gram), 4)),
    "schatten-eight": Scaling(as_they_are, lambda gram, square: _root(_sum_of_squares(square), 8)),
    "spectral": Scaling(as_they_are, lambda gram, square: _root(_largest_eigenvalue(gram), 2)),
    "aol": Scaling(_almost_orthogonal, lambda gram, square: jnp.ones_like(_trace(gram))),
}

# what the functions of our own are designed for; squares of the Gram matrix, for a bound of order eight, are no part of
# the rational one
_SUITING = {"three-step": "schatten-eight", "four-step": "schatten-eight", "rational": "schatten"}
