"""Bases that follow symmetric matrices: eigenvectors once, then orthogonal iteration by products of matrices."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._linalg import matmul, one_where_zero, unit

Symmetric = Float[Array, "n k k"]
Columns = Float[Array, "n k _"]

# columns that are made orthogonal to each other one by one; blocks of them are by products of matrices
_BLOCK = 32


def eigenbasis(a: Symmetric) -> Symmetric:
    """Eigenvectors as columns, those of the largest eigenvalue first."""
    return jnp.linalg.eigh(a)[1][..., ::-1]


def orthogonal_iteration(a: Symmetric, basis: Symmetric) -> Symmetric:
    r"""One step towards the eigenvectors of positive semi-definite matrices, from an orthonormal basis.

    .. math:: P \leftarrow \text{qr}(A P)

    A basis stays as it is for a matrix of zeros.
    """
    trace = jnp.trace(a, axis1=-2, axis2=-1)[:, None, None]
    # any vector is the identity's eigenvector: it keeps directions of which the matrix says nothing but rounding
    rounding = float(jnp.finfo(a.dtype).eps)
    return orthonormalized(matmul(a / one_where_zero(trace), basis) + rounding * basis)


def orthonormalized(columns: Columns) -> Columns:
    r"""Gram and Schmidt's columns, Q of QR, block by block, by products of matrices.

    .. math:: Z_i \leftarrow Z_i - Q_{<i} Q_{<i}^\top Z_i, \qquad Q_i = \text{qr}(Z_i)

    twice, since of columns that nearly depend on those before them rounding is left after the first time. LAPACK's QR
    would go through a stack one by one on GPUs, and on CPUs take threads that spin when they are done.
    """
    count = columns.shape[-1]
    columns = jnp.pad(unit(columns, -2), ((0, 0), (0, 0), (0, -count % _BLOCK)))

    def step(i: Array, done: Columns) -> Columns:
        start = i * _BLOCK
        block = jax.lax.dynamic_slice_in_dim(columns, start, _BLOCK, axis=-1)
        for _ in range(2):
            block = _one_by_one(_without(block, done))
        return jax.lax.dynamic_update_slice_in_dim(done, block, start, axis=-1)

    return jax.lax.fori_loop(0, columns.shape[-1] // _BLOCK, step, jnp.zeros_like(columns))[..., :count]


def _one_by_one(block: Columns) -> Columns:
    """The same within one block, by products with vectors."""

    def step(i: Array, done: Columns) -> Columns:
        column = jax.lax.dynamic_slice_in_dim(block, i, 1, axis=-1)
        for _ in range(2):
            column = unit(_without(column, done), -2)
        return jax.lax.dynamic_update_slice_in_dim(done, column, i, axis=-1)

    return jax.lax.fori_loop(0, block.shape[-1], step, jnp.zeros_like(block))


def _without(columns: Columns, basis: Columns) -> Columns:
    """What of columns is orthogonal to a basis."""
    inner = jnp.einsum("nkb,nkc->nbc", basis, columns, precision=jax.lax.Precision.HIGHEST)
    return columns - matmul(basis, inner)
