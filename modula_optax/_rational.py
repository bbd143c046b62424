"""The first step of a polar factor by a rational function, whose inverses are found by loops of matrix products."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from modula_optax._coefficients import Polynomial, Rational
from modula_optax._linalg import Gram, Scale, commuting_product, identity_like, matmul

Symmetric = Float[Array, "n k k"]
_Result = TypeVar("_Result")


def fastest(
    rational: Callable[[Array], _Result], polynomials: Callable[[Array], _Result], x: Float[Array, "*batch m n"]
) -> _Result:
    """One of two functions of matrices, by what is faster where it is computed.

    A rational function takes half of the products, but its inverses take loops over columns: accelerators are kept busy
    by large products alone, and so are CPUs where matrices are small.
    """
    if min(x.shape[-2:]) < _LARGE:
        return polynomials(x)
    return jax.lax.platform_dependent(x, cpu=rational, default=polynomials)


# the shorter side from which on a rational function is faster on CPUs, in programs that compile in about the same time
_LARGE = 256


def rational_multiplier(step: Rational, gram: Gram, scale: Scale) -> tuple[Gram, Gram]:
    r"""What takes X to the step of scale · X, and its product with R = XXᵀ, which costs nothing more.

    .. math:: P = M \Big(1 + \sum_j a_j (R + p_j)^{-1}\Big),
      \qquad P R = M \Big(R + \sum_j a_j (1 - p_j (R + p_j)^{-1})\Big)
    """
    gram = gram * scale**2
    identity = identity_like(gram)
    # side by side, so that one loop is compiled for all poles
    inverses = inverse_of_definite(jnp.stack([gram + pole * identity for _, pole in step.terms], axis=-3))
    terms = [(residue, pole, inverses[..., j, :, :]) for j, (residue, pole) in enumerate(step.terms)]
    multiplier = sum((residue * inverse for residue, _, inverse in terms), start=identity)
    image = sum((residue * (identity - pole * inverse) for residue, pole, inverse in terms), start=gram)
    return step.gain * scale * multiplier, step.gain / scale * image


def squares_after(polynomial: Polynomial, gram: Gram) -> Float[Array, "*batch k"]:
    r"""The squares of X after a last step X ← (a + b R + c R²) X, summed over its larger side, from R = XXᵀ.

    .. math:: \text{diag} \; R (a + b R + c R^2)^2

    Of the powers the fifth would take another product. In its place is the polynomial of degree four that agrees with
    it at 0 and at four points of the interval which the rational function leaves: 4e-5 off there, and 1 % of a square
    where singular values do not reach it.
    """
    a, b, c = polynomial
    # a product that the step itself needs: compilers find it once
    square = commuting_product(gram, gram)
    pairs = (gram, gram), (gram, square), (square, square)
    powers = [jnp.diagonal(gram, axis1=-2, axis2=-1), *(jnp.sum(x * y, axis=-1) for x, y in pairs)]
    weights = np.array([a * a, 2 * a * b, b * b + 2 * a * c, 2 * b * c]) - c * c * np.poly(_LEFT)[:0:-1]
    return jnp.tensordot(jnp.stack(powers, -1), jnp.asarray(weights, gram.dtype), 1)


# Chebyshev's points of [0.67, 1], where the squares of singular values lie after the first step
_LEFT = 0.835 + 0.165 * np.cos(np.pi * (2 * np.arange(4) + 1) / 8)


@jax.custom_jvp
def inverse_of_definite(a: Float[Array, "*batch k k"]) -> Float[Array, "*batch k k"]:
    r"""The inverse of every symmetric positive definite matrix of a stack, by sweeps of blocks (Beaton, 1964).

    .. math:: A \leftarrow A_0 - T^\top T, \qquad T = L^{-1} A_{k \cdot}, \quad L L^\top = A_{kk}

    for block after block k, where the pivot's columns of :math:`A_{k \cdot}` are -1 instead, and :math:`A_0` is A
    without the rows and columns of the block; -A⁻¹ is what is left. With the inverse of a pivot in place of its factor,
    nothing would keep A symmetric, and rounding would grow with the condition of A. LAPACK on CPUs takes threads that
    go on to spin, for a thousand times as long where another program needs the core.
    """
    size = a.shape[-1]
    missing = -size % _BLOCK
    stack = a.reshape(-1, size, size)
    padded = jnp.pad(stack, ((0, 0), (0, missing), (0, missing)))
    place = np.arange(size + missing)
    identity = jnp.asarray(np.diag(place >= size), a.dtype)[None]
    inverse = _negative_inverse(padded + identity if missing else stack)
    return -inverse[:, :size, :size].reshape(a.shape)


@inverse_of_definite.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inverse = inverse_of_definite(*primals)
    return inverse, -matmul(matmul(inverse, *tangents), inverse)


# Whose factor is found column by column: products of thin matrices get slower below, loops over columns above.
_BLOCK = 32


def _negative_inverse(a: Symmetric) -> Symmetric:
    size = a.shape[-1]
    place = np.arange(size, dtype=np.uint32)
    block = place // _BLOCK

    def sweep(k: Array, a: Symmetric) -> Symmetric:
        # signed ones would be asked whether they count from the end
        zero, k = jnp.uint32(0), jnp.uint32(k)
        start = k * jnp.uint32(_BLOCK)
        rows = jax.lax.dynamic_slice(a, (zero, start, zero), (len(a), _BLOCK, size))
        pivot = jax.lax.dynamic_slice(a, (zero, start, start), (len(a), _BLOCK, _BLOCK))
        identity = (place[None, None, :] == start + place[None, :_BLOCK, None]).astype(a.dtype)
        t = matmul(_inverse_factor(pivot), jnp.where((block == k)[None, None, :], -identity, rows))
        outside = (block != k)[None, :, None] & (block != k)[None, None, :]
        return jnp.where(outside, a, jnp.zeros_like(a)) - matmul(t.mT, t)

    return jax.lax.fori_loop(0, size // _BLOCK, sweep, a)


def _inverse_factor(a: Symmetric) -> Symmetric:
    """L⁻¹ of A = L Lᵀ, column by column, in the place of the columns of A that are done with."""
    size = a.shape[-1]
    i = np.arange(size, dtype=np.uint32)[None, :, None]
    j = i.mT

    def eliminate(k: Array, a: Symmetric) -> Symmetric:
        zero, k = jnp.uint32(0), jnp.uint32(k)
        scale = jax.lax.rsqrt(jax.lax.dynamic_slice(a, (zero, k, k), (len(a), 1, 1)))
        row = scale * jax.lax.dynamic_slice(a, (zero, k, zero), (len(a), 1, size))
        # what stands below the diagonal is the mirror image of what stands beside it
        multiples = jnp.where(i > k, row.mT, jnp.zeros_like(row.mT))
        row = jnp.where(j == k, scale, row)
        rest = jnp.where((i > k) & (j == k), jnp.zeros_like(a), a)
        # what stands beside the diagonal is done with, too
        return jnp.where(i == k, jnp.where(j > k, jnp.zeros_like(row), row), rest - multiples * row)

    return jax.lax.fori_loop(0, size, eliminate, a)
