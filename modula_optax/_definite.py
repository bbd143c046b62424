"""Whether symmetric matrices are positive definite."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt

from modula_optax._linalg import matmul

Symmetric = Float[Array, "n n"]


def is_positive_definite(a: Symmetric) -> Bool[Array, ""]:
    r"""Whether there is a Cholesky factor, found block by block.

    .. math:: A_{22} \leftarrow A_{22} - P P^\top, \qquad P = A_{21} L_{11}^{-\top}, \quad L_{11} L_{11}^\top = A_{11}

    For a whole matrix of more than some 200 rows LAPACK takes threads, which on CPUs go on to spin for a tenth of a
    second, where those of matrix products should run.
    """
    if len(a) <= 2 * _BLOCK:
        return jnp.all(jnp.isfinite(_cholesky_factor(a)))
    a = jax.scipy.linalg.block_diag(a, jnp.eye(-len(a) % _BLOCK, dtype=a.dtype))
    half = len(a) // _BLOCK // 2

    def goes_on(carry: _Elimination) -> Array:
        return (carry.done < half) & jnp.isfinite(carry.rest[-1, -1])

    rest = jax.lax.while_loop(goes_on, _eliminate, _Elimination(jnp.uint32(0), a)).rest
    # of a matrix half as large every step takes a quarter
    smaller = partial(is_positive_definite, rest[half * _BLOCK :, half * _BLOCK :])
    return jax.lax.cond(jnp.isfinite(rest[-1, -1]), smaller, lambda: jnp.bool_(False))


_BLOCK = 96


class _Elimination(NamedTuple):
    """How many blocks are eliminated, and what is left; all of it is NaN once a block had no factor."""

    done: UInt[Array, ""]
    rest: Symmetric


def _eliminate(carry: _Elimination) -> _Elimination:
    start, rest = carry.done * jnp.uint32(_BLOCK), carry.rest
    columns = jax.lax.dynamic_slice(rest, (jnp.uint32(0), start), (len(rest), _BLOCK))
    pivot = jax.lax.dynamic_slice(columns, (start, jnp.uint32(0)), (_BLOCK, _BLOCK))
    identity = jnp.eye(_BLOCK, dtype=rest.dtype)
    # its lower left is the inverse of the pivot's factor, transposed; solving with a factor would take threads, too
    # where what stands below the identity is larger than the inverse of any pivot that is definite to rounding
    large = float(jnp.finfo(rest.dtype).eps) ** -2
    factor = _cholesky_factor(jnp.block([[pivot, identity], [identity, large * identity]]))
    eliminated = matmul(columns, factor[_BLOCK:, :_BLOCK])
    return _Elimination(carry.done + jnp.uint32(1), rest - matmul(eliminated, eliminated.mT))


def _cholesky_factor(a: Symmetric) -> Symmetric:
    return jnp.linalg.cholesky(a, symmetrize_input=False)
