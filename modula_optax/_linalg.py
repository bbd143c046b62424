"""Linear algebra at full precision, and lengths that stay finite from 1e-30 to 1e30 and have derivatives at zero."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from modula_optax._coefficients import Polynomial, in_two_products

Matrices = Float[Array, "*batch m n"]
Gram = Float[Array, "*batch k k"]
Scale = float | Float[Array, "*batch 1 1"]


# The default precision of accelerators rounds float32 to 10 bits and less, too few for singular values near 1.
matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

# From here on it pays: on CPUs an eighth of the time of a product at 1024, a fifth at 1536. By fours it would be three
# eighths of the operations, but no more of the time, and a polar factor would take thrice as long to compile. Where a
# Gram matrix sums over more than its size it pays at half of that: 0.8 of the time for 768 x 3072.
_LARGE = 1024


def between(left: Gram | None, x: Matrices, right: Gram | None) -> Matrices:
    """The product of all three; `None` is an identity."""
    if left is not None:
        x = matmul(left, x)
    return x if right is None else matmul(x, right)


def gram_matrix(x: Matrices) -> Gram:
    """XXᵀ or XᵀX, whichever is smaller."""
    return gram_along(x, -1 if is_tall(x) else -2)


def gram_along(x: Matrices, axis: int) -> Gram:
    """XXᵀ along axis -2, XᵀX along -1."""
    summed = -3 - axis
    return by_halves(
        partial(_over, summed), x, x, axis, axis, _LARGE if x.shape[summed] <= x.shape[axis] else _LARGE // 2
    )


def commuting_product(a: Gram, b: Gram) -> Gram:
    """The product of symmetric matrices that commute, such as polynomials of one: it is symmetric, too."""
    return by_halves(matmul, a, b, -2, -1)


def by_halves(
    product: Callable[..., Gram], x: Matrices, y: Matrices, rows: int, columns: int, large: int = _LARGE
) -> Gram:
    """`product(x, y)`, with a row for each index of an axis of x and a column for each of y, where it is symmetric.

    Of large ones three quarters are computed, and the block that is the mirror image of another is copied.
    """
    size = x.shape[rows]
    if size < large:
        return product(x, y)
    half = size // 2
    x_first, x_last = (jax.lax.slice_in_dim(x, *ends, axis=rows) for ends in ((0, half), (half, size)))
    lower = product(x_last, y)
    upper_left = product(x_first, jax.lax.slice_in_dim(y, 0, half, axis=columns))
    upper = jnp.concatenate([upper_left, lower[..., :half].mT], axis=-1)
    return jnp.concatenate([upper, lower], axis=-2)


def _over(axis: int, x: Float[Array, "*batch _ _"], y: Float[Array, "*batch _ _"]) -> Float[Array, "*batch _ _"]:
    """The products of all with all, summed over one of the last two axes of both."""
    # a product with a transpose would write it to memory first
    summed, batch = (x.ndim + axis,), tuple(range(x.ndim - 2))
    return jax.lax.dot_general(x, y, ((summed, summed), (batch, batch)), precision=jax.lax.Precision.HIGHEST)


def on_smaller_side(q: Gram, x: Matrices) -> Matrices:
    """Product with a symmetric matrix that is as large as `gram_matrix(x)`."""
    return matmul(x, q) if is_tall(x) else matmul(q, x)


def along_smaller_side(factor: Float[Array, "*batch k k"], x: Matrices) -> Matrices:
    """The same with any matrix as large: F X of wide ones, X Fᵀ of tall ones."""
    return matmul(x, factor.mT) if is_tall(x) else matmul(factor, x)


def is_tall(x: Matrices) -> bool:
    """Whether columns are the smaller side."""
    return x.shape[-2] > x.shape[-1]


def matrix_polynomial(coefficients: Polynomial | Array, gram: Gram, square: Gram) -> Gram:
    """What a step multiplies by, a + b R + c R² + …, by Horner's rule in R²."""
    # a mask, since XLA would keep every multiple of an identity matrix in memory
    diagonal = jnp.eye(gram.shape[-1], dtype=bool)
    *lower, a, b, c = coefficients
    result = b * gram + c * square
    while lower:
        result = commuting_product(square, jnp.where(diagonal, result + a, result))
        *lower, a, b = lower
        result = b * gram + result
    return jnp.where(diagonal, result + a, result)


def polynomial_of(
    coefficients: Polynomial | Array, gram: Gram, product: Callable[[Gram, Gram], Gram] = commuting_product
) -> Gram:
    """The same of the matrix alone, in fewer products where there is a way."""
    if isinstance(coefficients, tuple) and (fewer := in_two_products(coefficients)):
        c1, c2, c3, c4, c5, c6, c7, c8, c9 = fewer
        diagonal = jnp.eye(gram.shape[-1], dtype=bool)
        t = jnp.where(diagonal, gram - 1, gram)
        t2 = product(t, t)
        y = product(t2, c1 * t2 + c2 * t)
        result = product(y + c3 * t2 + c4 * t, y + c5 * t2) + c6 * y + c7 * t2 + c8 * t
        return jnp.where(diagonal, result + c9, result)
    return matrix_polynomial(coefficients, gram, product(gram, gram))


def identity_like(a: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """As many identity matrices of the same dtype."""
    return jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)


def working_dtype(dtype: DTypeLike) -> DTypeLike:
    """What norms and polynomials are computed in: float32, or float64 where the array is."""
    # NumPy's arrays may be wider than JAX allows
    return jnp.float64 if dtype == jnp.float64 == jnp.result_type(float) else jnp.float32


def largest_entry(x: Float[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """Largest absolute entry over `axes` (kept, of size one); 1 where all are zero, so that it can divide.

    Subnormal numbers, where an average of zeros ends, count as zero: accelerators flush them at one place or another.
    """
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0.0)
    return jnp.where(largest < jnp.finfo(x.dtype).tiny, jnp.ones_like(largest), largest)


def scale_of(x: Float[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """`largest_entry` as a constant, for results that do not depend on it: derivatives need not go through it."""
    return jax.lax.stop_gradient(largest_entry(x, axes))


def one_where_zero(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """What zeros can be divided by, too."""
    return jnp.where(x == 0.0, jnp.ones_like(x), x)


def length(x: Float[Array, "..."], axes: int | tuple[int, ...]) -> Float[Array, "..."]:
    r"""Euclidean length over `axes`, without overflow or underflow of the squares.

    .. math:: \sqrt{\textstyle\sum_i x_i^2}

    Args:
      x: an array of any shape.
      axes: what is summed over; these axes are gone from the result.

    Returns:
      The lengths. Where one is 0, its derivative is 0, too.

    Example:
      >>> norms.length(jnp.array([[3e-25, 4e-25], [0.0, 0.0]]), -1)
      Array([5.e-25, 0.e+00], dtype=float32)
    """
    axes = (axes,) if isinstance(axes, int) else axes
    scale = scale_of(x, axes)
    squares = jnp.sum((x / scale) ** 2, axis=axes, keepdims=True)
    # a root of zero has no derivative, and must not be one of the branches
    return jnp.squeeze(jnp.where(squares == 0.0, squares, scale * jnp.sqrt(one_where_zero(squares))), axes)


def unit(x: Float[Array, "..."], axes: int | tuple[int, ...]) -> Float[Array, "..."]:
    r"""Vectors over `axes` of Euclidean length one; 0 for 0.

    .. math:: x / |x|_2

    Args:
      x: an array of any shape and scale.
      axes: the axes of one vector.

    Returns:
      An array of the same shape.

    Example:
      >>> norms.unit(jnp.array([[3e-25, 4e-25], [0.0, 0.0]]), -1).round(3)
      Array([[0.6, 0.8],
             [0. , 0. ]], dtype=float32)
    """
    axes = (axes,) if isinstance(axes, int) else axes
    x = x / scale_of(x, axes)
    squares = jnp.sum(x * x, axis=axes, keepdims=True)
    # a non-zero vector has an entry of ±1 by now: 1 stands in for the squares of a zero one only
    return x / jnp.sqrt(jnp.maximum(squares, 1.0))
