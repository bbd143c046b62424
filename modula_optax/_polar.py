"""The polar factors of stacks of matrices, by odd polynomials that need matrix products only."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from modula_optax._coefficients import Coefficients, Polynomial, resolve_coefficients
from modula_optax._slices import map_slices

Matrices = Float[Array, "*batch m n"]
Gram = Float[Array, "*batch k k"]
Bound = Callable[[Gram, Gram], Float[Array, "*batch 1 1"]]


def polar(
    x: Matrices,
    coefficients: Coefficients = "four-step",
    *,
    steps: int | None = None,
    scaling: str | None = None,
) -> Matrices:
    r"""Polar factor of every matrix of a stack: its nearest (semi-)orthogonal matrix.

    .. math:: X = U S V^\top \mapsto U V^\top, \qquad X \leftarrow a X + b (XX^\top) X + c (XX^\top)^2 X + \dots

    Args:
      x: matrices, `[*batch, m, n]`; any scale from 1e-30 to 1e30 gives the same result, 0 gives 0.
      coefficients: name of a table (`"four-step"`, `"six-step"`, `"five-step"`, `"muon"`, `"classical"`), or one
        tuple (a, b, c, ...) for each step, such as those of `polar_express`.
      steps: how many steps to take; the last tuple repeats past the end. `None`: one for each tuple.
      scaling: the bound on the largest singular value that `x` is divided by first: `"frobenius"`, `"schatten"` (of
        order four), `"schatten-eight"`, `"spectral"` (exact) or `"aol"` (row by row). `None`: `"schatten-eight"` for
        the four steps that are designed for it, `"frobenius"` otherwise.

    Returns:
      An array of the shape and dtype of `x`; half precision is iterated in float32. With the default, singular values
      above 1 % of the Frobenius norm come out within [0.999, 1], smaller ones multiplied by up to 258.
      A matrix with a NaN or an infinity comes back as NaN, other matrices of the stack are not touched.

    Raises:
      ValueError: unknown name of coefficients or of scaling, or fewer than one step.

    Example:
      >>> polar(jnp.diag(jnp.array([3.0, 0.1])), "classical").round(3)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Jordan et al., Muon, 2024. Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265. Amsel et
      al., The Polar Express, arXiv:2505.16932.
    """
    return polar_factors([x], coefficients, steps=steps, scaling=scaling)[0]


def polar_factors(
    xs: Sequence[Matrices],
    coefficients: Coefficients = "four-step",
    *,
    steps: int | None = None,
    scaling: str | None = None,
) -> list[Matrices]:
    """`polar` of several stacks, whose Gram matrices of equal size share one iteration, whatever the longer sides."""
    polynomials = resolve_coefficients(coefficients, steps)
    bound = resolve_scaling(scaling, coefficients)
    ys = [x.astype(working_dtype(x.dtype)) for x in xs]
    # 1e-25 squared is 0 in float32: scale before anything is squared
    sizes = [largest_entry(y, (-2, -1)) for y in ys]
    if scaling == "aol":
        ys, sizes = [_equalized(y / size) for y, size in zip(ys, sizes, strict=True)], [1.0] * len(ys)

    results = list(ys)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, y in enumerate(ys):
        if y.size and _gram_form_pays(y, polynomials):
            groups[y.dtype.itemsize, math.prod(y.shape[:-2]), min(y.shape[-2:])].append(i)
        else:
            results[i] = _iterate(y / sizes[i], polynomials, bound)
    for members in groups.values():
        grams = [gram_matrix(ys[i] / sizes[i]) for i in members]
        stacks = [gram.reshape(-1, *gram.shape[-2:]) for gram in grams]
        products = map_slices(partial(_iterate_gram, polynomials=polynomials, bound=bound), stacks)
        for i, product in zip(members, products, strict=True):
            y = ys[i]
            # half of the scale on either side of the product: of 1e-37 the reciprocal, times the product, is infinite
            half = jnp.sqrt(sizes[i])
            q = product.reshape(*y.shape[:-2], *product.shape[-2:]) / half
            results[i] = on_smaller_side(q, y) / half
    return [result.astype(x.dtype) for x, result in zip(xs, results, strict=True)]


def _iterate(x: Matrices, polynomials: Sequence[Polynomial], bound: Bound) -> Matrices:
    """The polynomials of the matrices themselves."""
    if is_tall(x):
        return _iterate(x.mT, polynomials, bound).mT
    gram, square, largest = _normalized(gram_matrix(x), bound)
    x = matmul(matrix_polynomial(polynomials[0], gram, square), x / largest)
    for polynomial in polynomials[1:]:
        gram = gram_matrix(x)
        x = matmul(matrix_polynomial(polynomial, gram, matmul(gram, gram)), x)
    return x


def _iterate_gram(gram: Gram, polynomials: Sequence[Polynomial], bound: Bound) -> Gram:
    """What the same polynomials multiply the matrices by, from their Gram matrices alone.

    With R = XXᵀ a step is X ← p(R) X, and so R ← p(R) R p(R). Only Q = …p₂(R₂) p₁(R₁) is ever applied to the longer
    side.
    """
    gram, square, largest = _normalized(gram, bound)
    product = step = matrix_polynomial(polynomials[0], gram, square)
    for polynomial in polynomials[1:]:
        gram = matmul(matmul(step, gram), step)
        step = matrix_polynomial(polynomial, gram, matmul(gram, gram))
        product = matmul(step, product)
    return product / largest


def _gram_form_pays(x: Matrices, polynomials: Sequence[Polynomial]) -> bool:
    # The Gram matrix knows small singular values only to the square root of the rounding, and the iteration amplifies
    # that error like their square: beyond 1/2, noise would grow to singular values of its own. Quintics of matrices
    # that are nearly square gain nothing for that loss.
    noise = float(jnp.finfo(x.dtype).eps) * math.prod(p[0] for p in polynomials) ** 2
    return noise < (0.5 if max(x.shape[-2:]) >= 2 * min(x.shape[-2:]) else 0.02)


def _normalized(gram: Gram, bound: Bound) -> tuple[Gram, Gram, Float[Array, "*batch 1 1"]]:
    """Gram matrix and its square for singular values in [0, 1], and what these were divided by."""
    square = matmul(gram, gram)
    largest = one_where_zero(bound(gram, square))
    return gram / largest**2, square / largest**4, largest


def matrix_polynomial(coefficients: Polynomial, gram: Gram, square: Gram) -> Gram:
    """What a step multiplies by, a + b R + c R² + …, by Horner's rule in R²."""
    # a mask, since XLA would keep every multiple of an identity matrix in memory
    diagonal = jnp.eye(gram.shape[-1], dtype=bool)
    *lower, a, b, c = coefficients
    result = b * gram + c * square
    while lower:
        result = matmul(square, jnp.where(diagonal, result + a, result))
        *lower, a, b = lower
        result = b * gram + result
    return jnp.where(diagonal, result + a, result)


def gram_matrix(x: Matrices) -> Gram:
    """XXᵀ or XᵀX, whichever is smaller."""
    # a product with x.mT would write the transpose to memory first
    longer = (x.ndim - 2 if is_tall(x) else x.ndim - 1,)
    batch = tuple(range(x.ndim - 2))
    return jax.lax.dot_general(x, x, ((longer, longer), (batch, batch)), precision=jax.lax.Precision.HIGHEST)


def on_smaller_side(q: Gram, x: Matrices) -> Matrices:
    """Product with a symmetric matrix that is as large as `gram_matrix(x)`."""
    return matmul(x, q) if is_tall(x) else matmul(q, x)


def is_tall(x: Matrices) -> bool:
    """Whether columns are the smaller side."""
    return x.shape[-2] > x.shape[-1]


def working_dtype(dtype: DTypeLike) -> DTypeLike:
    """What norms and polynomials are computed in: float32, or float64 where the array is."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def largest_entry(x: Float[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """Largest absolute entry over `axes` (kept, of size one); 1 where all are zero, so that it can divide.

    Subnormal numbers, where an average of zeros ends, count as zero: accelerators flush them at one place or another.
    """
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0.0)
    return jnp.where(largest < jnp.finfo(x.dtype).tiny, jnp.ones_like(largest), largest)


def one_where_zero(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """What zeros can be divided by, too."""
    return jnp.where(x == 0.0, jnp.ones_like(x), x)


# The default precision of accelerators rounds float32 to 10 bits and less, too few for singular values near 1.
matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def resolve_scaling(scaling: str | None, coefficients: Coefficients) -> Bound:
    """The bound on the largest singular value, from the Gram matrix and its square."""
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


def _largest_singular_value(gram: Gram) -> Float[Array, "*batch 1 1"]:
    return jnp.sqrt(jnp.max(jnp.abs(jnp.linalg.eigvalsh(gram)), axis=-1, initial=0.0))[..., None, None]


def _equalized(x: Matrices) -> Matrices:
    """Every row, along the shorter side, divided by a bound of its own ("almost orthogonal layers")."""
    if is_tall(x):
        return _equalized(x.mT).mT
    return x / one_where_zero(jnp.sqrt(jnp.sum(jnp.abs(gram_matrix(x)), axis=-1, keepdims=True)))


_BOUNDS: dict[str, Bound] = {
    "frobenius": lambda gram, square: jnp.sqrt(_trace(gram)),
    "schatten": lambda gram, square: _sum_of_squares(gram) ** 0.25,
    "schatten-eight": lambda gram, square: _sum_of_squares(square) ** 0.125,
    "spectral": lambda gram, square: _largest_singular_value(gram),
    # `_equalized` has done it
    "aol": lambda gram, square: jnp.ones_like(_trace(gram)),
}
