"""Matrices put back on the unit sphere of the spectral norm."""

import jax
import jax.numpy as jnp

from modula_optax._canonical import Canonical
from modula_optax._coefficients import inverse_root, polar_express
from modula_optax._linalg import (
    commuting_product,
    gram_matrix,
    identity_like,
    is_tall,
    length,
    matmul,
    matrix_polynomial,
)
from modula_optax._polar import polar_of_stack

# weights must land on the sphere: exact to rounding for singular values above 1e-4 of the Frobenius norm
_EXACT = polar_express(9, 1e-4)


def orthogonalized(x: Canonical) -> Canonical:
    r"""Polar factor of every tap, to rounding; after a step from orthogonal matrices in few products.

    .. math:: U S V^\top \mapsto U V^\top

    Args:
      x: canonical array, `[*batch, taps, fan_in, fan_out]`.

    Returns:
      An array of the same shape; 0 for 0.

    Example:
      >>> norms.orthogonalized(jnp.diag(jnp.array([3.0, 0.1]))[None]).round(3)
      Array([[[1., 0.],
              [0., 1.]]], dtype=float32)
    """
    if is_tall(x):
        return orthogonalized(x.mT).mT
    excess = gram_matrix(x)
    excess = excess - identity_like(excess)
    square = commuting_product(excess, excess)
    fourth = commuting_product(square, square)
    # the Schatten norm of order 16 is never below the largest eigenvalue
    close = length(commuting_product(fourth, fourth), (-2, -1)) <= _NEARLY**8
    # zeros are multiplied by anything, and fill up stacks
    nearly = jnp.all(close | ~jnp.any(x, axis=(-2, -1)))

    def refined(x: Canonical) -> Canonical:
        coefficients = _INVERSE_ROOT[jnp.finfo(x.dtype).bits]
        return matmul(matrix_polynomial(coefficients, excess, square), x)

    return jax.lax.cond(nearly, refined, orthogonalized_anew, x)


def orthogonalized_anew(x: Canonical) -> Canonical:
    """The same of matrices that are known to be far from orthogonal."""
    return polar_of_stack(_EXACT)(x)


# singular values from 0.8 to 1.17
_NEARLY = 0.36
# to rounding, by the bits that there are
_INVERSE_ROOT = {32: inverse_root(-_NEARLY, _NEARLY, 8), 64: inverse_root(-_NEARLY, _NEARLY, 20)}
