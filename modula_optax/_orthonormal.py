"""Bases that follow symmetric matrices: eigenvectors once, then orthogonal iteration by products of matrices."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from modula_optax._linalg import identity_like, matmul, one_where_zero, unit

Symmetric = Float[Array, "*batch k k"]
Columns = Float[Array, "*batch k _"]

# reflections that are found one by one; what they do to others is done by products of matrices
_BLOCK = 32


def eigenbasis(a: Symmetric) -> Symmetric:
    """Eigenvectors as columns, those of the largest eigenvalue first."""
    return jnp.linalg.eigh(a)[1][..., ::-1]


def orthogonal_iteration(a: Symmetric, basis: Symmetric) -> Symmetric:
    r"""One step towards the eigenvectors of positive semi-definite matrices, from an orthonormal basis.

    .. math:: P \leftarrow \text{qr}(A P)

    A basis stays as it is for a matrix of zeros.
    """
    trace = jnp.trace(a, axis1=-2, axis2=-1)[..., None, None]
    # any vector is the identity's eigenvector: it keeps directions of which the matrix says nothing but rounding
    rounding = float(jnp.finfo(a.dtype).eps)
    return orthonormalized(matmul(a / one_where_zero(trace), basis) + rounding * basis)


def orthonormalized(columns: Columns) -> Columns:
    r"""Q of QR by Householder's reflections, a block of them at a time by products of matrices.

    .. math:: H_1 \dots H_b = I - V T V^\top, \qquad T^{-1} = \text{striu}(V^\top V) + \tfrac{1}{2} I

    with unit vectors as the columns of V. Q is orthonormal to rounding whatever the columns are, and of zeros any.
    LAPACK's QR would go through a stack one by one on GPUs, and on CPUs take threads that spin when they are done.
    """
    # vectors as rows lie together in memory
    rows = unit(columns, -2).mT
    count, k = rows.shape[-2:]
    block = min(_BLOCK, count)
    rows = jnp.pad(rows, (*[(0, 0)] * (rows.ndim - 2), (0, -count % block), (0, 0)))

    def step(i: Array, carry: tuple[Columns, Symmetric]) -> tuple[Columns, Symmetric]:
        rows, q = carry
        start = i * block
        v = _reflections(jax.lax.dynamic_slice_in_dim(rows, start, block, axis=-2), start)
        w = matmul(_product_of(v).mT, v)
        return rows - matmul(matmul(rows, w.mT), v), q - matmul(matmul(q, w.mT), v)

    # inside `shard_map` it varies over devices as columns do
    zeros = jnp.zeros_like(rows, shape=(*rows.shape[:-2], k, k))
    rows, q = jax.lax.fori_loop(0, rows.shape[-2] // block, step, (rows, zeros + identity_like(zeros)))
    # Gram and Schmidt's, which point to where columns did
    return q[..., :count] * jnp.where(jnp.diagonal(rows, axis1=-2, axis2=-1) < 0.0, -1.0, 1.0)[..., None, :count]


def _product_of(v: Columns) -> Symmetric:
    """T of the product of reflections, by products: the inverse of ever larger blocks along the diagonal."""
    inner = matmul(v, v.mT)
    count, size, t = inner.shape[-1], 1, 2 * identity_like(inner)
    while size < count:
        part = np.arange(count) // size
        # the upper right corners of blocks of twice the size
        corners = (part[:, None] % 2 == 0) & (part[:, None] + 1 == part)
        corners = corners.reshape(*[1] * (inner.ndim - 2), count, count)
        t = t - matmul(matmul(t, jnp.where(corners, inner, jnp.zeros_like(inner))), t)
        size = 2 * size
    return t


def _reflections(rows: Columns, first: Array) -> Columns:
    """Unit vectors of the reflections that leave nothing of these vectors behind entry `first`, `first` + 1, ..."""
    place = jnp.arange(rows.shape[-1]).reshape(*[1] * (rows.ndim - 1), -1)
    # squares of less vanish, and so does what is left of a vector that depends on those before it
    least = float(jnp.finfo(rows.dtype).tiny / jnp.finfo(rows.dtype).eps)

    def step(i: Array, carry: tuple[Columns, Columns]) -> tuple[Columns, Columns]:
        rows, vectors = carry
        x = jax.lax.dynamic_slice_in_dim(rows, i, 1, axis=-2)
        x = jnp.where(place >= first + i, x, jnp.zeros_like(x))
        squares = jnp.sum(x * x, axis=-1, keepdims=True)
        x = jnp.where(squares > least, x / jnp.sqrt(jnp.maximum(squares, least)), jnp.zeros_like(x))
        at = place == first + i
        pivot = jnp.sum(jnp.where(at, x, jnp.zeros_like(x)), axis=-1, keepdims=True)
        turned = x + jnp.where(at & (squares > least), jnp.where(pivot < 0.0, -1.0, 1.0).astype(x.dtype), 0.0)
        vector = turned / jnp.sqrt(2 + 2 * jnp.abs(pivot))
        rows = rows - 2 * matmul(matmul(rows, vector.mT), vector)
        return rows, jax.lax.dynamic_update_slice_in_dim(vectors, vector, i, axis=-2)

    return jax.lax.fori_loop(0, rows.shape[-2], step, (rows, jnp.zeros_like(rows)))[1]
