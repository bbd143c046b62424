"""The polar factor of a stack of matrices, by odd polynomials that need matrix products only."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from modula_optax._coefficients import Coefficients, Triple, resolve_coefficients


def polar(
    x: Float[Array, "*batch m n"],
    coefficients: Coefficients = "six-step",
    *,
    steps: int | None = None,
    scaling: str = "frobenius",
) -> Float[Array, "*batch m n"]:
    r"""Polar factor of every matrix of a stack: its nearest (semi-)orthogonal matrix.

    .. math:: X = U S V^\top \mapsto U V^\top, \qquad X \leftarrow a X + b (XX^\top) X + c (XX^\top)^2 X

    Args:
      x: matrices, `[*batch, m, n]`; any scale from 1e-30 to 1e30 gives the same result, 0 gives 0.
      coefficients: name of a table (`"six-step"`, `"five-step"`, `"muon"`, `"classical"`), or one
        triple (a, b, c) for each step, such as those of `polar_express`.
      steps: how many steps to take; the last triple repeats past the end. `None`: one for each triple.
      scaling: the bound on the largest singular value that `x` is divided by first:
        `"frobenius"`, `"schatten"` (of order four), `"spectral"` (exact) or `"aol"` (row by row).

    Returns:
      An array of the shape and dtype of `x`; half precision is iterated in float32.
      A matrix with a NaN or an infinity comes back as NaN, other matrices of the stack are not touched.

    Raises:
      ValueError: unknown name of coefficients or of scaling, or fewer than one step.

    Example:
      >>> polar(jnp.diag(jnp.array([3.0, 0.1])), "classical").round(3)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Jordan et al., Muon, 2024. Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265.
    """
    triples = resolve_coefficients(coefficients, steps)
    rescale = resolve_scaling(scaling)
    y = x.astype(working_dtype(x.dtype))
    tall = y.shape[-2] > y.shape[-1]
    # (XXᵀ) is as small as it can be when the rows are the smaller side
    y = y.mT if tall else y
    # 1e-25 squared is 0 in float32: scale before anything is squared
    y = rescale(y / largest_entry(y, (-2, -1)))
    y = _iterate_gram(y, triples) if _gram_form_pays(y, triples) else _iterate(y, triples)
    return (y.mT if tall else y).astype(x.dtype)


def _iterate(x: Float[Array, "*batch m n"], triples: Sequence[Triple]) -> Float[Array, "*batch m n"]:
    for triple in triples:
        x = matmul(_polynomial(triple, matmul(x, x.mT)), x)
    return x


def _gram_form_pays(x: Float[Array, "*batch m n"], triples: Sequence[Triple]) -> bool:
    # The Gram matrix knows small singular values only to the square root of the rounding, and the iteration amplifies
    # that error like their square: beyond this, noise would grow to singular values of its own.
    noise = float(jnp.finfo(x.dtype).eps) * math.prod(a for a, _, _ in triples) ** 2
    return x.shape[-1] >= 2 * x.shape[-2] and noise < 0.5


def _iterate_gram(x: Float[Array, "*batch m n"], triples: Sequence[Triple]) -> Float[Array, "*batch m n"]:
    """The same polynomials of the same matrix, on the m × m side alone but for the first and the last product.

    With R = XXᵀ a step is X ← p(R) X, and so R ← p(R) R p(R). For a 1:4 matrix and five steps this takes 50 m³
    multiplications instead of 90 m³.
    """
    gram = matmul(x, x.mT)
    step = _polynomial(triples[0], gram)
    product = step
    for triple in triples[1:]:
        gram = matmul(matmul(step, gram), step)
        step = _polynomial(triple, gram)
        product = matmul(step, product)
    return matmul(product, x)


def _polynomial(triple: Triple, gram: Float[Array, "*batch m m"]) -> Float[Array, "*batch m m"]:
    """What a step multiplies by: a + b XXᵀ + c (XXᵀ)²."""
    a, b, c = triple
    identity = jnp.broadcast_to(jnp.eye(gram.shape[-1], dtype=gram.dtype), gram.shape)
    return a * identity + b * gram + c * matmul(gram, gram)


def working_dtype(dtype: DTypeLike) -> DTypeLike:
    """What norms and polynomials are computed in: float32, or float64 where the array is."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def resolve_scaling(scaling: str) -> Callable[[Array], Array]:
    """The function that brings the singular values of a matrix into [0, 1]."""
    if scaling not in _SCALINGS:
        names = ", ".join(repr(name) for name in _SCALINGS)
        raise ValueError(f"Unknown scaling {scaling!r}. Write one of {names}.")
    return _SCALINGS[scaling]


def largest_entry(x: Float[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """Largest absolute entry over `axes` (kept, of size one); 1 where all are zero, so that it can divide."""
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0.0)
    return jnp.where(largest == 0.0, jnp.ones_like(largest), largest)


# The default precision of accelerators rounds float32 to 10 bits and less, too few for singular values near 1.
matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _divide(x: Array, norm: Array) -> Array:
    return x / jnp.where(norm == 0.0, jnp.ones_like(norm), norm)


def _frobenius(x: Array) -> Array:
    return _divide(x, jnp.sqrt(jnp.sum(x * x, axis=(-2, -1), keepdims=True)))


def _schatten(x: Array) -> Array:
    gram = matmul(x, x.mT)
    return _divide(x, jnp.sqrt(jnp.sqrt(jnp.sum(gram * gram, axis=(-2, -1), keepdims=True))))


def _spectral(x: Array) -> Array:
    return _divide(x, jnp.max(jnp.linalg.svdvals(x), axis=-1, initial=0.0)[..., None, None])


def _aol(x: Array) -> Array:
    gram = matmul(x, x.mT)
    return _divide(x, jnp.sqrt(jnp.sum(jnp.abs(gram), axis=-1, keepdims=True)))


_SCALINGS = {"frobenius": _frobenius, "schatten": _schatten, "spectral": _spectral, "aol": _aol}
