"""Singular values capped at 1, by matrix products alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from modula_optax._canonical import gram_is_within
from modula_optax._coefficients import Polynomial, polar_express
from modula_optax._linalg import (
    commuting_product,
    gram_matrix,
    identity_like,
    is_tall,
    matmul,
    matrix_polynomial,
    on_smaller_side,
)
from modula_optax._norms import orthogonalized
from modula_optax._polar import polar_of_stack

Matrices = Float[Array, "*batch m n"]
Symmetric = Float[Array, "*batch k k"]
Inside = Bool[Array, "*batch"]


def capped_and_inside(x: Matrices) -> tuple[Matrices, Inside]:
    """Matrices with singular values above 1 set to 1, and which of them had none: those may be off by rounding."""
    gram = gram_matrix(x)
    inside = gram_is_within(gram)

    def brought_inside() -> Matrices:
        nearby = jnp.all(gram_is_within(gram, _NEAR))
        return jax.lax.cond(nearby, lambda: _capped_nearby(x, gram), lambda: _capped_in_rounds(x, inside))

    return jax.lax.cond(jnp.all(inside), lambda: x, brought_inside), inside


def capped(x: Matrices) -> Matrices:
    r"""Singular values above 1 set to 1.

    With :math:`P = U V^\top` and :math:`Z = U \, \text{sign}(S - 1) \, U^\top`, the polar factor of
    :math:`X P^\top - 1`, the excess is :math:`\tfrac12 (1 + Z)(X - P)`. P is not exact where singular values are tiny,
    and need not be: Z is -1 there.
    """
    if is_tall(x):
        return capped(x.mT).mT
    p = orthogonalized(x)
    h = matmul(x, p.mT)
    # What a singular value is off by is its distance from 1 times the error of the sign, 1e-5 at most: more steps cost
    # time, fewer would leave more than what `gram_is_within` takes for rounding.
    z = polar_of_stack(_SIGN, scaling="schatten")(h - identity_like(h))
    over = x - p
    return x - (over + matmul(z, over)) / 2


_SIGN = polar_express(8, 3e-4)


class _Capping(NamedTuple):
    x: Matrices
    inside: Inside
    rounds: Int[Array, ""]


@jax.custom_jvp
def _capped_in_rounds(x: Matrices, inside: Inside) -> Matrices:
    """`capped` until rounding leaves nothing above 1: rare once training runs, and twice the price."""

    def goes_on(carry: _Capping) -> Array:
        return (carry.rounds < _ROUNDS) & ~jnp.all(carry.inside)

    def cap(carry: _Capping) -> _Capping:
        x = jnp.where(carry.inside[..., None, None], carry.x, capped(carry.x))
        return _Capping(x, gram_is_within(gram_matrix(x)), carry.rounds + 1)

    return jax.lax.while_loop(goes_on, cap, _Capping(x, inside, jnp.zeros([], jnp.int32))).x


@_capped_in_rounds.defjvp
def _first_round(primals: tuple[Matrices, Inside], tangents: tuple[Matrices, Any]) -> tuple[Matrices, Matrices]:
    """The derivative of one round is that of all, as the others only mend rounding."""
    return _capped_in_rounds(*primals), jax.jvp(capped, primals[:1], tangents[:1])[1]


# one takes an excess of 1e5 and less to rounding; six are enough for any float32, and what is not finite must end
_ROUNDS = 6


def _capped_nearby(x: Matrices, gram: Symmetric) -> Matrices:
    """`capped` for singular values up to `_NEAR`: what a step of training leaves behind."""
    return on_smaller_side(_capping_factor(gram / _JUST_BELOW**2), x)


def _capping_factor(a: Symmetric) -> Symmetric:
    r""":math:`\max(A, 1)^{-1/2} = 1 + \tfrac12 (1 + Z)(A^{-1/2} - 1)` with Z the sign of A - 1.

    That is the sign of :math:`A^4 - 1`, too, which is four times as steep at 1, for two products; three more would buy
    as much from polynomials. The inverse root is needed above 1 only, where three powers are enough.
    """
    identity = identity_like(a)
    square = commuting_product(a, a)
    fourth = commuting_product(square, square)
    z = fourth - identity
    for coefficients in _STEEP_SIGN:
        gram = commuting_product(z, z)
        z = commuting_product(z, matrix_polynomial(coefficients, gram, commuting_product(gram, gram)))
    # sums of A^p - 1, to be zero at 1, where Z is neither sign
    c1, c2, c4 = _INVERSE_ROOT
    drop = c1 * (a - identity) + c2 * (square - identity) + c4 * (fourth - identity)
    return identity + (drop + commuting_product(z, drop)) / 2


# A⁴ - 1 is below 1/2 up to here
_NEAR = 1.05

# Each the nearest to 1 on the interval that those before it leave of [0.0088, 1], of degrees 5, 9, 9 and 5: singular
# values up to `_NEAR` come out between 7e-6 below and 6.1e-5 above what they should be, 1 where they are farthest off.
_STEEP_SIGN: tuple[Polynomial, ...] = (
    (8.143370538, -23.81763182, 17.60294137),
    (5.852229375, -13.74522906, 11.87066402, -4.031986522, 0.4668105341),
    (3.099770425, -5.328011767, 4.961132431, -2.0850479, 0.3184866439),
    (1.87671318, -1.251902219, 0.3751902726),
)
# so far below, nothing stays above 1
_JUST_BELOW = 1 - 6.2e-5

# least squares of A^(-1/2) - 1, relative to A - 1, on [1, 1.05²] by A - 1, A² - 1 and A⁴ - 1; off by 2e-6 at most
_INVERSE_ROOT = (-1.774658715, 0.7694709424, -0.06606670960)
