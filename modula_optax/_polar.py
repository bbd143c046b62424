"""The polar factors of stacks of matrices, by odd functions that need matrix products only."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array

from modula_optax._arithmetic import FULL, Arithmetic, resolve_products
from modula_optax._bounds import Bound, Scaling, as_they_are, resolve_scaling
from modula_optax._coefficients import Coefficients, Polynomial, Rational, Steps, polynomials_of, resolve_coefficients
from modula_optax._gram_form import Multiplier, first_multiplier, gram_form_pays, iterate_gram
from modula_optax._linalg import (
    Matrices,
    gram_matrix,
    identity_like,
    is_tall,
    matmul,
    on_smaller_side,
    polynomial_of,
    scale_of,
    working_dtype,
)
from modula_optax._mesh import automatic, shardings_of
from modula_optax._paths import kind_of
from modula_optax._rational import fastest
from modula_optax._stacks import apply_alike


def polar_by_formula(x: Matrices, steps: Steps) -> Matrices:
    """What all of this file computes, from X over its Frobenius norm.

    X ← a X + b (XXᵀ) X + c (XXᵀ)² X + …, or first X ← M (X + a (XXᵀ + p)⁻¹ X + b (XXᵀ + q)⁻¹ X).
    """
    x = x / jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)
    for step in steps:
        gram = matmul(x, x.mT)
        if isinstance(step, Rational):
            terms = (a * jnp.linalg.solve(gram + p * identity_like(gram), x) for a, p in step.terms)
            x = step.gain * sum(terms, start=x)
        else:
            power, x = x, jnp.zeros_like(x)
            for coefficient in step:
                x = x + coefficient * power
                power = matmul(gram, power)
    return x


def polar(
    x: jax.typing.ArrayLike,
    coefficients: Coefficients = "auto",
    *,
    steps: int | None = None,
    scaling: str | None = None,
    products: str | None = None,
) -> Matrices:
    r"""Polar factor of every matrix of a stack: its nearest (semi-)orthogonal matrix.

    .. math:: X = U S V^\top \mapsto U V^\top, \qquad X \leftarrow a X + b (XX^\top) X + c (XX^\top)^2 X + \dots

    Args:
      x: matrices, `[*batch, m, n]`; any scale from 1e-30 to 1e30 gives the same result, 0 gives 0.
      coefficients: name of a table (`"three-step"`, `"four-step"`, `"rational"`, `"six-step"`, `"five-step"`, `"muon"`,
        `"classical"`), or one tuple (a, b, c, ...) for each step, such as those of `polar_express`. `"auto"`:
        `"rational"` on CPUs for matrices of 256 and more on their shorter side, `"three-step"` otherwise and where
        steps, scaling or products are given.
      steps: how many steps to take; the last tuple repeats past the end. `None`: one for each tuple.
      scaling: the bound on the largest singular value that `x` is divided by first: `"frobenius"`, `"schatten"` (of
        order four), `"schatten-eight"`, `"spectral"` (exact) or `"aol"` (row by row). `None`: `"schatten-eight"` for
        the three or four steps that are designed for it, `"schatten"` for `"rational"`, `"frobenius"` otherwise.
      products: `"bfloat16"` rounds both factors of every matrix product to bfloat16, and adds up in float32: many
        times as fast on accelerators, and good to 2 %. `"six-step"` then takes singular values above 1 % of the
        Frobenius norm into [0.97, 1]. `None`: all in float32, or float64 where `x` is.

    Returns:
      An array of the shape and dtype of `x`; half precision is iterated in float32. With the default, singular values
      above 1 % of the Frobenius norm come out within [0.998, 1] (by polynomials [0.999, 1]), smaller ones multiplied
      by up to 440 (241).
      A matrix with a NaN or an infinity comes back as NaN, other matrices of the stack are not touched.

    Raises:
      ValueError: `x` holds no real matrices, an unknown name of coefficients, of scaling or of products, fewer than one
        step, or rational functions or polynomials of degree above five with products in bfloat16, where their terms
        would not cancel.

    Example:
      >>> polar(jnp.diag(jnp.array([3.0, 0.1])), "classical").round(3)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Jordan et al., Muon, 2024. Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265. Amsel et
      al., The Polar Express, arXiv:2505.16932. Nakatsukasa & Freund, Computing Fundamental Matrix Decompositions
      Accurately via the Matrix Sign Function in Two Iterations, 2016.
    """
    factors, x = polar_of_stack(coefficients, steps, scaling, products), jnp.asarray(x)
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x must be an array of real matrices, such as float32[..., rows, columns]; got {kind_of(x)}.")
    return automatic(partial(_in_turns, factors), x, shardings=shardings_of(x)) if x.size else x


# `inline`, here and below: what is traced once is copied where it is used again, and outside of `jit` compiled once
@partial(jax.jit, static_argnums=0, inline=True)
def _in_turns(factors: Callable[[Matrices], Matrices], x: Matrices) -> Matrices:
    return apply_alike(factors, [(x.reshape(-1, *x.shape[-2:]),)], in_turns=True)[0].reshape(x.shape)


class Factors(Protocol):
    """Polar factors of all matrices of a stack."""

    def __call__(self, x: Matrices) -> Matrices:
        """The factors."""
        ...

    def multiplier_for(self, x: Matrices) -> Multiplier | None:
        """For matrices of this shape and dtype, of no larger entries than 1, the way by their Gram matrices alone.

        `None`: they are not found in this way.
        """
        ...


def polar_of_stack(
    coefficients: Coefficients, steps: int | None = None, scaling: str | None = None, products: str | None = None
) -> Factors:
    """`polar` of these arguments, which it checks at once, of all matrices of a stack; equal where arguments are."""
    if isinstance(coefficients, str) and coefficients == "auto":
        if steps is scaling is products is None:
            return FastestFactors()
        # what else is asked for is about polynomials
        coefficients = "three-step"
    functions = resolve_coefficients(coefficients, steps)
    return PolarFactors(functions, resolve_scaling(scaling, coefficients), resolve_products(products, functions))


@dataclasses.dataclass(frozen=True)
class FastestFactors:
    """Polar factors by a rational function where that is fastest, by polynomials elsewhere."""

    def __call__(self, x: Matrices) -> Matrices:
        return fastest(polar_of_stack("rational"), polar_of_stack("three-step"), x)

    def multiplier_for(self, x: Matrices) -> Multiplier | None:
        rational, polynomials = (polar_of_stack(name).multiplier_for(x) for name in ("rational", "three-step"))
        return None if rational is None or polynomials is None else partial(fastest, rational, polynomials)


@dataclasses.dataclass(frozen=True)
class PolarFactors:
    """Polar factors by these functions, one after the other."""

    steps: Steps
    scaling: Scaling
    arithmetic: Arithmetic

    @partial(jax.jit, static_argnums=0, inline=True)
    def __call__(self, x: Matrices) -> Matrices:
        y = x.astype(working_dtype(x.dtype))
        # 1e-25 squared is 0 in float32
        y = self.scaling.before(y / scale_of(y, (-2, -1)))
        if self._takes_gram_form(y):
            y = on_smaller_side(iterate_gram(gram_matrix(y), self.steps, self.scaling.bound)[0], y)
        else:
            y = _iterate(y, polynomials_of(self.steps), self.scaling.bound, self.arithmetic)
        return y.astype(x.dtype)

    def multiplier_for(self, x: Matrices) -> Multiplier | None:
        if not self._takes_gram_form(x) or self.scaling.before is not as_they_are:
            return None
        return lambda gram: iterate_gram(gram, self.steps, self.scaling.bound)

    def _takes_gram_form(self, x: Matrices) -> bool:
        return self.arithmetic is FULL and gram_form_pays(x, self.steps)


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
    x = arithmetic.step(first_multiplier(first, gram, square, scale), scale * first[0], x)
    if len(rest) >= _MANY and len(set(map(len, rest))) == 1:
        # a scan can be differentiated backwards
        x, _ = jax.lax.scan(lambda x, polynomial: (step(x, polynomial), None), x, jnp.asarray(rest, x.dtype))
    else:
        for polynomial in rest:
            x = step(x, polynomial)
    return x / arithmetic.excess


# Steps that are taken in a loop, to compile one of them. A loop copies what it carries, which for few steps is dearer.
_MANY = 6
