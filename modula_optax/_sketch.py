"""The largest singular value and the sum of all, estimated from ten products with some vectors instead of an SVD."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from modula_optax._linalg import is_tall, length, matmul, one_where_zero, unit

Matrices = Float[Array, "*batch m n"]
# vectors of the shorter side of every matrix
Rows = Float[Array, "*batch k short"]

# vectors in leading directions, vectors in others, and steps of the iteration that each of them starts
_LEADING, _OTHERS, _STEPS = 8, 8, 4


def sketch_singular_values(x: Matrices) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    r"""Largest singular value and the sum of all singular values (nuclear norm) of every matrix.

    .. math:: \sum_i s_i = \text{tr} \, A \approx \sum_j q_j^\top A q_j + \frac{m - r}{p} \sum_k z_k^\top A z_k,
      \qquad A = (XX^\top)^{1/2}

    with orthonormal vectors: r of them in the leading directions, p at random in those that remain (Hutch++). Each
    term is four steps of Golub and Kahan's bidiagonalization, and the mean of Gauss's rule, which is never below the
    truth, and of Gauss and Radau's, which is never above it.

    Args:
      x: matrices of any scale.

    Returns:
      The largest singular value, never above the truth, and the sum, which may be some percent above or below.

    References:
      Meyer et al., Hutch++: Optimal Stochastic Trace Estimation, arXiv:2010.09649; Golub & Meurant, Matrices, Moments
      and Quadrature, 2010.
    """
    starts, counts = _starts(x)
    moments, largest = _moments(x, starts)
    return jnp.max(largest, axis=-1), matmul(moments, jnp.asarray(counts, x.dtype))


def _starts(x: Matrices) -> tuple[Rows, Float[np.ndarray, " k"]]:
    """Orthonormal vectors, and how often each of them counts in the trace."""
    to_long, to_short = _products(x)
    size = min(x.shape[-2:])
    leading = min(_LEADING, size)
    others = min(_OTHERS, size - leading)
    # constants: the random numbers of JAX would take longer to compile than all that follows
    random = jnp.asarray(np.random.default_rng(0).standard_normal((leading + others, size)), x.dtype)
    # for every matrix of its own: a product of one matrix with a stack would write the stack to memory, transposed
    random = jnp.broadcast_to(random, (*x.shape[:-2], leading + others, size))
    images = unit(to_short(unit(to_long(random[..., :leading, :]), -1)), -1)
    starts = _orthonormalized(jnp.concatenate([images, random[..., leading:, :]], axis=-2))
    return starts, np.repeat([1.0, (size - leading) / max(others, 1)], [leading, others])


def _orthonormalized(rows: Rows) -> Rows:
    """Gram and Schmidt's rows, which span the same; 0 where a row depends on those before it."""

    def step(i: Array, done: Rows) -> Rows:
        row = jax.lax.dynamic_slice_in_dim(rows, i, 1, axis=-2)
        # again, and again: of a row that depends on others rounding is left, and that lies along them, too
        for _ in range(3):
            row = unit(row - matmul(matmul(row, done.mT), done), -1)
        return jax.lax.dynamic_update_slice_in_dim(done, row, i, axis=-2)

    return jax.lax.fori_loop(0, rows.shape[-2], step, jnp.zeros_like(rows))


def _moments(x: Matrices, u: Rows) -> tuple[Float[Array, "*batch k"], Float[Array, "*batch k"]]:
    """Estimate of uᵀ(XXᵀ)^(1/2)u for every u, and the largest singular value that its iteration meets."""
    to_long, to_short = _products(x)

    def step(carry: tuple[Array, Array, Array], _: None):
        u, v, b = carry
        v = to_long(u) - b[..., None] * v
        a, v = length(v, -1), unit(v, -1)
        u = to_short(v) - a[..., None] * u
        b, u = length(u, -1), unit(u, -1)
        return (u, v, b), (a, b)

    start = (u, jnp.zeros_like(to_long(u)), jnp.zeros_like(u[..., 0]))
    _, columns = jax.lax.scan(step, start, length=_STEPS)
    diagonal, below = (jnp.moveaxis(entries, 0, -1) for entries in columns)
    # 1e-30 squared is 0 in float32: scale before the Gram matrix
    size = one_where_zero(jnp.max(jnp.maximum(diagonal, below), axis=-1))
    i = np.arange(_STEPS)
    bidiagonal = jnp.zeros((*size.shape, _STEPS + 1, _STEPS), x.dtype)
    bidiagonal = bidiagonal.at[..., i, i].set(diagonal / size[..., None])
    # Gauss's rule is without the last entry
    gauss = bidiagonal.at[..., i[1:], i[:-1]].set(below[..., :-1] / size[..., None])
    radau = gauss.at[..., _STEPS, _STEPS - 1].set(below[..., -1] / size)
    grams = jnp.stack([matmul(b, b.mT) for b in (gauss, radau)])
    squares, vectors = jnp.linalg.eigh(grams)
    values = jnp.sqrt(jnp.maximum(squares, 0.0))
    moments = jnp.mean(jnp.sum(vectors[..., 0, :] ** 2 * values, axis=-1), axis=0)
    return size * moments, size * values[1, ..., -1]


def _products(x: Matrices):
    """From rows of the shorter side to rows of the longer one, and back, without writing a transpose of `x`."""

    def left(rows: Array) -> Array:
        return matmul(rows, x)

    def right(rows: Array) -> Array:
        return matmul(x, rows.mT).mT

    return (right, left) if is_tall(x) else (left, right)
