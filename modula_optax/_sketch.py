"""The largest singular value and the sum of all, estimated from ten products with some vectors instead of an SVD."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from modula_optax._linalg import is_tall, matmul, one_where_zero

Matrices = Float[Array, "n rows columns"]
PerMatrix = Float[Array, " n"]
# some vectors for every matrix, of its shorter side
Rows = Float[Array, "n k short"]

# vectors in leading directions, vectors in others, and steps of the iteration that each of them starts
_LEADING, _OTHERS, _STEPS = 8, 8, 4


def gram_products(x: Matrices, scales: Float[Array, "n 1 1"]) -> Callable[[Rows], Rows]:
    r"""Rows times :math:`XX^\top / \text{scale}^2` (of what is tall, :math:`X^\top X`), every matrix its own rows.

    Several of them: one alone would be multiplied, and summed, by loops that take as long to compile as all the rest.
    """
    # not a product with a transpose, which would be written to memory
    to_long, to_short = (2, 1) if is_tall(x) else (1, 2)

    def times(rows: Rows) -> Rows:
        # 1e-30 squared is 0 in float32: over the scale before and after
        image = rows / scales
        for contracted in (to_long, to_short):
            dimensions = ((2,), (contracted,)), ((0,), (0,))
            image = jax.lax.dot_general(image, x, dimensions, precision=jax.lax.Precision.HIGHEST)
        return image / scales

    return times


def sketch_singular_values(x: Matrices, scales: Float[Array, "n 1 1"]) -> tuple[PerMatrix, PerMatrix]:
    r"""Largest singular value and the sum of all singular values (nuclear norm) of every matrix, over its scale.

    .. math:: \sum_i s_i = \text{tr} \, A \approx \sum_j q_j^\top A q_j + \frac{m - r}{p} \sum_k z_k^\top A z_k,
      \qquad A = (XX^\top)^{1/2}

    with orthonormal vectors: r of them in the leading directions, p at random in those that remain (Hutch++). Each
    term is four steps of Lanczos' tridiagonalization, and the mean of Gauss's rule, which is never below the truth, and
    of Gauss and Radau's, which is never above it.

    Args:
      x: the matrices.
      scales: their largest entries.

    Returns:
      The largest singular value, never above the truth, and the sum, which may be some percent above or below.

    References:
      Meyer et al., Hutch++: Optimal Stochastic Trace Estimation, arXiv:2010.09649; Golub & Meurant, Matrices, Moments
      and Quadrature, 2010.
    """
    times, size = gram_products(x, scales), min(x.shape[1:])
    leading = min(_LEADING, size)
    others = min(_OTHERS, size - leading)
    random = random_rows(len(x), leading + others, size, x.dtype)
    images = times(random[:, :leading])
    images = images / one_where_zero(scaled_length(images))
    starts = _orthonormalized(jnp.concatenate([images, random[:, leading:]], axis=1))
    moments, largest = _moments(times, starts)
    counts = np.repeat([1.0, (size - leading) / max(others, 1)], [leading, others])
    return jnp.max(largest, axis=-1), matmul(moments, jnp.asarray(counts, moments.dtype))


def scaled_length(rows: Rows) -> Float[Array, "n k 1"]:
    """Euclidean length of what was multiplied over its scale, which neither overflows nor needs one of its own."""
    return jnp.sqrt(jnp.sum(rows * rows, axis=-1, keepdims=True))


def random_rows(count: int, k: int, size: int, dtype: DTypeLike) -> Rows:
    """The same random rows of length one for every matrix; they are fixed."""
    # constants: the random numbers of JAX would take longer to compile than all that follows
    rows = np.random.default_rng(0).standard_normal((k, size))
    rows = jnp.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype)
    return jnp.broadcast_to(rows, (count, k, size))


def _orthonormalized(rows: Rows) -> Rows:
    """Gram and Schmidt's rows, which span the same; 0 where a row depends on those before it."""
    # again, and again: of a row that depends on others rounding is left, and that lies along them, too
    order = jnp.asarray(np.repeat(np.arange(rows.shape[1], dtype=np.int32), 3))
    i, j = (np.arange(rows.shape[1], dtype=np.int32).reshape(shape) for shape in ((1, -1, 1), (1, 1, -1)))

    def step(done: Rows, now: Array) -> tuple[Rows, None]:
        # all rows, of which one changes: what is done to one alone takes more programs
        before = jnp.where((i == now) & (j < now), matmul(done, done.mT), 0.0)
        row = done - matmul(before, done)
        squares = jnp.sum(row * row, axis=-1, keepdims=True)
        return jnp.where(i == now, row * jax.lax.rsqrt(one_where_zero(squares)), done), None

    return jax.lax.scan(step, rows, order)[0]


def _moments(times: Callable[[Rows], Rows], u: Rows) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
    """Estimate of uᵀ(XXᵀ)^(1/2)u for every u, and the largest singular value that its iteration meets."""

    def step(carry: tuple[Rows, Rows, Array], _: None):
        u, before, b = carry
        onward = times(u) - b * before
        a = jnp.sum(onward * u, axis=-1, keepdims=True)
        onward = onward - a * u
        b = scaled_length(onward)
        return (onward / one_where_zero(b), u, b), (a, b)

    _, (a, b) = jax.lax.scan(step, (u, jnp.zeros_like(u), jnp.zeros_like(u[..., :1])), length=_STEPS)
    a, b = a[..., 0], b[..., 0]
    # Radau's last pivot is zero, and so is one eigenvalue
    last = b[-1] ** 2 / one_where_zero(_last_pivot(a, b))
    gauss = jnp.concatenate([a, jnp.zeros_like(a[:1]), b[:-1], jnp.zeros_like(a[:1])])
    radau = jnp.concatenate([a, last[None], b])
    # the upper half is read alone
    i = np.arange(_STEPS)
    places = np.zeros((2 * _STEPS + 1, _STEPS + 1, _STEPS + 1))
    places[np.arange(_STEPS + 1), np.arange(_STEPS + 1), np.arange(_STEPS + 1)] = 1.0
    places[_STEPS + 1 + i, i, i + 1] = 1.0
    entries = jnp.stack([gauss, radau])
    matrices = jnp.tensordot(entries, jnp.asarray(places, u.dtype), (1, 0), precision=jax.lax.Precision.HIGHEST)
    values, vectors = jnp.linalg.eigh(matrices, UPLO="U", symmetrize_input=False)
    values = jnp.sqrt(jnp.maximum(values, 0.0))
    moments = jnp.mean(jnp.sum(vectors[..., 0, :] ** 2 * values, axis=-1), axis=0)
    return moments, values[0, ..., -1]


def _last_pivot(a: Float[Array, "steps *n"], b: Float[Array, "steps *n"]) -> Float[Array, "*n"]:
    """Of the elimination of a positive definite tridiagonal matrix."""
    pivot = a[0]
    for diagonal, below in zip(a[1:], b[:-1], strict=True):
        pivot = jnp.maximum(diagonal - below**2 / one_where_zero(pivot), 0.0)
    return pivot
