"""Singular values capped at 1, by matrix products alone."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from modula_optax._canonical import gram_is_within
from modula_optax._coefficients import Polynomial, Rational, polar_express
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
from modula_optax._rational import fastest, rational_multiplier

Matrices = Float[Array, "*batch m n"]
Symmetric = Float[Array, "*batch k k"]
Inside = Bool[Array, "*batch"]


def capped_at(w: Matrices, bound: float) -> Matrices:
    """Matrices with singular values above a bound set to it, of those within 5 % never above; others as they are."""
    x = w / bound
    gram = gram_matrix(x)
    inside = gram_is_within(gram)
    is_inside = inside[..., None, None]

    def capped_nearby() -> Matrices:
        # what a step of training leaves behind
        return on_smaller_side(jnp.where(is_inside, identity_like(gram), _capping_factor(gram)), w)

    def brought_inside() -> Matrices:
        nearby = jnp.all(gram_is_within(gram, _NEAR))
        far = lambda: jnp.where(is_inside, w, bound * _capped_in_rounds(x, inside))  # noqa: E731
        return jax.lax.cond(nearby, capped_nearby, far)

    return jax.lax.cond(jnp.all(inside), lambda: w, brought_inside)


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
    z = polar_of_stack(_SIGN_ANYWHERE, scaling="schatten")(h - identity_like(h))
    over = x - p
    return x - (over + matmul(z, over)) / 2


_SIGN_ANYWHERE = polar_express(8, 3e-4)


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


def _capping_factor(a: Symmetric) -> Symmetric:
    r""":math:`\max(A, 1)^{-1/2} = 1 + \tfrac12 (1 + Z)(A^{-1/2} - 1)` with Z the sign of A - 1, of A a little enlarged.

    The inverse root is needed above 1 only, where few powers are enough.
    """
    return fastest(_factor_by_inverses, _factor_by_products, a)


# A⁴ - 1 is below 1/2 up to here
_NEAR = 1.05


def _factor_by_inverses(a: Symmetric) -> Symmetric:
    """By an odd function Z = Q₂ Q₁ E of E = A - 1, in two steps: with Q₁ comes Q₁ E², and so E Z without a product."""
    a = a / _SO_FAR_BELOW**2
    excess = a - identity_like(a)
    square = commuting_product(excess, excess)
    first, image = rational_multiplier(_SIGN[0], square, 1.0)
    gram = commuting_product(image, first)
    second = matrix_polynomial(_SIGN[1], gram, commuting_product(gram, gram))
    c1, c2 = _INVERSE_ROOT_BY_SQUARES
    drop = c1 * excess + c2 * square
    signed = commuting_product(second, c1 * image + c2 * commuting_product(excess, image))
    return identity_like(a) + (drop + signed) / 2


# Zolotarev's function for [0.0014, 1], and the polynomial of degree nine that is nearest to 1 on what it leaves.
# Singular values up to `_NEAR` come out between 1.3e-5 below and 4.0e-5 above what they should be, but for rounding.
_SIGN: tuple[Rational, Polynomial] = (
    Rational(1.005026932, ((0.007160781733, 1.085905955e-05), (0.1667085608, 0.006898374966))),
    (2.504575575, -3.416237899, 3.094212924, -1.459348888, 0.2767716826),
)
_SO_FAR_BELOW = 1 - 5e-5

# nearest to A^(-1/2) - 1 on [1, 1.05²] by E and E²; off by 1.1e-5 at most
_INVERSE_ROOT_BY_SQUARES = (-0.4987673679, 0.3346166161)


def _factor_by_products(a: Symmetric) -> Symmetric:
    """By the sign of A⁴ - 1, which is four times as steep at 1, for two products: three more would buy as much."""
    a = a / _JUST_BELOW**2
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
