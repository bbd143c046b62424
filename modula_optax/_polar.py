"""The polar factors of stacks of matrices, by odd polynomials that need matrix products only."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._bounds import Bound, Scaling, resolve_scaling
from modula_optax._coefficients import Coefficients, Polynomial, resolve_coefficients
from modula_optax._linalg import (
    between,
    by_halves,
    commuting_product,
    gram_matrix,
    is_tall,
    matmul,
    matrix_polynomial,
    polynomial_of,
    scale_of,
    working_dtype,
)
from modula_optax._mesh import automatic, shardings_of
from modula_optax._paths import kind_of
from modula_optax._stacks import apply_alike

Matrices = Float[Array, "*batch m n"]
Gram = Float[Array, "*batch k k"]
Scale = float | Float[Array, "*batch 1 1"]


def polar_by_formula(x: Matrices, polynomials: Sequence[Polynomial]) -> Matrices:
    """What all of this file computes: X ← a X + b (XXᵀ) X + c (XXᵀ)² X + …, from X over its Frobenius norm."""
    x = x / jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)
    for polynomial in polynomials:
        gram, power, x = matmul(x, x.mT), x, jnp.zeros_like(x)
        for coefficient in polynomial:
            x = x + coefficient * power
            power = matmul(gram, power)
    return x


def polar(
    x: jax.typing.ArrayLike,
    coefficients: Coefficients = "three-step",
    *,
    steps: int | None = None,
    scaling: str | None = None,
    products: str | None = None,
) -> Matrices:
    r"""Polar factor of every matrix of a stack: its nearest (semi-)orthogonal matrix.

    .. math:: X = U S V^\top \mapsto U V^\top, \qquad X \leftarrow a X + b (XX^\top) X + c (XX^\top)^2 X + \dots

    Args:
      x: matrices, `[*batch, m, n]`; any scale from 1e-30 to 1e30 gives the same result, 0 gives 0.
      coefficients: name of a table (`"three-step"`, `"four-step"`, `"six-step"`, `"five-step"`, `"muon"`,
        `"classical"`), or one tuple (a, b, c, ...) for each step, such as those of `polar_express`.
      steps: how many steps to take; the last tuple repeats past the end. `None`: one for each tuple.
      scaling: the bound on the largest singular value that `x` is divided by first: `"frobenius"`, `"schatten"` (of
        order four), `"schatten-eight"`, `"spectral"` (exact) or `"aol"` (row by row). `None`: `"schatten-eight"` for
        the three or four steps that are designed for it, `"frobenius"` otherwise.
      products: `"bfloat16"` rounds both factors of every matrix product to bfloat16, and adds up in float32: many
        times as fast on accelerators, and good to 2 %. `"six-step"` then takes singular values above 1 % of the
        Frobenius norm into [0.97, 1]. `None`: all in float32, or float64 where `x` is.

    Returns:
      An array of the shape and dtype of `x`; half precision is iterated in float32. With the default, singular values
      above 1 % of the Frobenius norm come out within [0.999, 1], smaller ones multiplied by up to 241.
      A matrix with a NaN or an infinity comes back as NaN, other matrices of the stack are not touched.

    Raises:
      ValueError: `x` holds no real matrices, an unknown name of coefficients, of scaling or of products, fewer than one
        step, or polynomials of degree above five with products in bfloat16, where their terms would not cancel.

    Example:
      >>> polar(jnp.diag(jnp.array([3.0, 0.1])), "classical").round(3)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Jordan et al., Muon, 2024. Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265. Amsel et
      al., The Polar Express, arXiv:2505.16932.
    """
    factors, x = polar_of_stack(coefficients, steps, scaling, products), jnp.asarray(x)
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x must be an array of real matrices, such as float32[..., rows, columns]; got {kind_of(x)}.")
    return automatic(partial(_in_turns, factors), x, shardings=shardings_of(x)) if x.size else x


# `inline`, here and below: what is traced once is copied where it is used again, and outside of `jit` compiled once
@partial(jax.jit, static_argnums=0, inline=True)
def _in_turns(factors: "PolarFactors", x: Matrices) -> Matrices:
    return apply_alike(factors, [(x.reshape(-1, *x.shape[-2:]),)], in_turns=True)[0].reshape(x.shape)


def polar_of_stack(
    coefficients: Coefficients, steps: int | None = None, scaling: str | None = None, products: str | None = None
) -> "PolarFactors":
    """`polar` of these arguments, which it checks at once, as a function of all matrices of a stack at a time."""
    polynomials = resolve_coefficients(coefficients, steps)
    return PolarFactors(polynomials, resolve_scaling(scaling, coefficients), resolve_products(products, polynomials))


@dataclasses.dataclass(frozen=True)
class PolarFactors:
    """A function of stacks of matrices, equal to others that do the same."""

    polynomials: tuple[Polynomial, ...]
    scaling: Scaling
    arithmetic: "Arithmetic"

    @partial(jax.jit, static_argnums=0, inline=True)
    def __call__(self, x: Matrices, left: Gram | None = None, right: Gram | None = None) -> Matrices:
        """The polar factor of each, between these of the sides; `None` is an identity."""
        y = x.astype(working_dtype(x.dtype))
        # 1e-25 squared is 0 in float32
        y = self.scaling.before(y / scale_of(y, (-2, -1)))
        if self.arithmetic is _FLOAT32 and _gram_form_pays(y, self.polynomials):
            polynomial = _iterate_gram(gram_matrix(y), self.polynomials, self.scaling.bound)
            # what is to multiply the shorter side multiplies the polynomial: the longer side is gone through once
            if is_tall(y):
                right = between(None, polynomial, right)
            else:
                left = between(left, polynomial, None)
        else:
            y = _iterate(y, self.polynomials, self.scaling.bound, self.arithmetic)
        return between(left, y, right).astype(x.dtype)


class Arithmetic(NamedTuple):
    """How matrices are multiplied, and how far above 1 that may take singular values."""

    gram_matrix: Callable[[Matrices], Gram]
    # of symmetric matrices that commute
    commuting_product: Callable[[Gram, Gram], Gram]
    # X to p(R) X, where p(R) = a + b R + c R² + … and a are given
    step: Callable[[Gram, Scale, Matrices], Matrices]
    excess: float


def _iterate(x: Matrices, polynomials: Sequence[Polynomial], bound: Bound, arithmetic: Arithmetic) -> Matrices:
    """The polynomials of the matrices themselves."""
    if is_tall(x):
        return _iterate(x.mT, polynomials, bound, arithmetic).mT

    def step(x: Matrices, polynomial: Polynomial | Array) -> Matrices:
        gram = arithmetic.gram_matrix(x)
        return arithmetic.step(polynomial_of(polynomial, gram, arithmetic.commuting_product), polynomial[0], x)

    first, *rest = polynomials
    gram = arithmetic.gram_matrix(x)
    square = arithmetic.commuting_product(gram, gram)
    scale = 1 / bound(gram, square)
    x = arithmetic.step(_multiplier(first, gram, square, scale), scale * first[0], x)
    if len(rest) >= _MANY and len(set(map(len, rest))) == 1:
        # a scan can be differentiated backwards
        x, _ = jax.lax.scan(lambda x, polynomial: (step(x, polynomial), None), x, jnp.asarray(rest, x.dtype))
    else:
        for polynomial in rest:
            x = step(x, polynomial)
    return x / arithmetic.excess


# Steps that are taken in a loop, to compile one of them. A loop copies what it carries, which for few steps is dearer.
_MANY = 6


def _iterate_gram(gram: Gram, polynomials: Sequence[Polynomial], bound: Bound) -> Gram:
    """What the same polynomials multiply the matrices by, from their Gram matrices alone.

    With R = XXᵀ a step is X ← p(R) X, and so R ← p(R) R p(R). Only Q = …p₂(R₂) p₁(R₁) is ever applied to the longer
    side.
    """
    square = commuting_product(gram, gram)
    product = step = _multiplier(polynomials[0], gram, square, 1 / bound(gram, square))
    for polynomial in polynomials[1:]:
        gram = commuting_product(commuting_product(step, gram), step)
        step = polynomial_of(polynomial, gram)
        product = commuting_product(step, product)
    return product


def _multiplier(polynomial: Polynomial | Array, gram: Gram, square: Gram, scale: Scale) -> Gram:
    """What takes X to the polynomial of scale · X, so that neither X nor R needs to be scaled."""
    return scale * matrix_polynomial(polynomial, gram * scale**2, square * scale**4)


def _gram_form_pays(x: Matrices, polynomials: Sequence[Polynomial]) -> bool:
    short, long = sorted(x.shape[-2:])
    # squares go without their Gram matrices, in 13 products instead of 15
    if short == long:
        return False
    # The Gram matrix knows small singular values only to the square root of the rounding, and the iteration amplifies
    # that error like their square: beyond 1/2, noise would grow to singular values of its own. Quintics of matrices
    # that are nearly square gain nothing for that loss.
    noise = float(jnp.finfo(x.dtype).eps) * math.prod(p[0] for p in polynomials) ** 2
    return noise < (0.5 if long >= 2 * short else 0.02)


def _matmul_in_bfloat16(x: Float[Array, "*batch k m"], y: Float[Array, "*batch m n"]) -> Float[Array, "*batch k n"]:
    return jnp.matmul(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16), preferred_element_type=x.dtype)


def _gram_in_bfloat16(x: Matrices) -> Gram:
    return by_halves(lambda x, y: _matmul_in_bfloat16(x, y.mT), x, x, -2, -2)


def _commuting_product_in_bfloat16(a: Gram, b: Gram) -> Gram:
    return by_halves(_matmul_in_bfloat16, a, b, -2, -1)


def resolve_products(products: str | None, polynomials: Sequence[Polynomial]) -> Arithmetic:
    """The arithmetic of a name."""
    if products is None:
        return _FLOAT32
    if products != "bfloat16":
        raise ValueError(f"Unknown products {products!r}. Write 'bfloat16', or None for those in float32.")
    if max(map(len, polynomials)) > 3:
        raise ValueError(
            "Products in bfloat16 lose the terms that cancel in polynomials of degree above five. Write "
            "coefficients='six-step', or triples."
        )
    return _BFLOAT16


def _step_in_bfloat16(multiplier: Gram, a: Scale, x: Matrices) -> Matrices:
    # a X apart from the product, which is rounded
    diagonal = jnp.eye(multiplier.shape[-1], dtype=bool)
    return a * x + _matmul_in_bfloat16(jnp.where(diagonal, multiplier - a, multiplier), x)


_FLOAT32 = Arithmetic(gram_matrix, commuting_product, lambda multiplier, _, x: matmul(multiplier, x), 1.0)
# rounding was seen to add 1.4 % where singular values near 0.01 lie close together, whatever their number
_BFLOAT16 = Arithmetic(_gram_in_bfloat16, _commuting_product_in_bfloat16, _step_in_bfloat16, 1 + 2**-6)
