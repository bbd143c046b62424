"""Polar factors from Gram matrices alone: what multiplies the smaller side, found without the larger one."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._bounds import Bound
from modula_optax._coefficients import Polynomial, Rational, Steps, polynomials_of
from modula_optax._linalg import Gram, Matrices, Scale, commuting_product, matrix_polynomial, polynomial_of
from modula_optax._rational import rational_multiplier, squares_after

Squares = Float[Array, "*batch k"]
# from Gram matrices of the smaller side: what matrices are multiplied by there, and the squares of what comes of it,
# summed over the larger side
Multiplier = Callable[[Gram], tuple[Gram, Squares]]


# traced once for matrices of all lengths that have the same shorter side
@partial(jax.jit, static_argnums=(1, 2))
def iterate_gram(gram: Gram, steps: Steps, bound: Bound) -> tuple[Gram, Squares]:
    """What steps multiply matrices by, from their Gram matrices alone, and the squares of what comes of it.

    With R = XXᵀ a step is X ← p(R) X, and so R ← p(R) R p(R). Only Q = …p₂(R₂) p₁(R₁) is ever applied to the longer
    side.
    """
    # what is not used, such as the last `image`, is not compiled
    square = commuting_product(gram, gram)
    first = steps[0]
    scale = 1 / bound(gram, square)
    if isinstance(first, Rational):
        step, image = rational_multiplier(first, gram, scale)
    else:
        step = first_multiplier(first, gram, square, scale)
        image = commuting_product(step, gram)
    product = step
    for polynomial in polynomials_of(steps[1:]):
        gram = commuting_product(image, step)
        step = polynomial_of(polynomial, gram)
        product = commuting_product(step, product)
        image = commuting_product(step, gram)
    if isinstance(first, Rational) and len(steps) > 1:
        return product, squares_after(polynomials_of(steps)[-1], gram)
    return product, jnp.sum(image * step, axis=-1)


def first_multiplier(polynomial: Polynomial | Array, gram: Gram, square: Gram, scale: Scale) -> Gram:
    """What takes X to the polynomial of scale · X, so that neither X nor R needs to be scaled."""
    return scale * matrix_polynomial(polynomial, gram * scale**2, square * scale**4)


def gram_form_pays(x: Matrices, steps: Steps) -> bool:
    """Whether this takes fewer products than the steps of matrices of such a shape and dtype, at no loss."""
    # inverses are of a Gram matrix, and the next one comes with them
    if isinstance(steps[0], Rational):
        return True
    short, long = sorted(x.shape[-2:])
    # squares go without their Gram matrices, in 13 products instead of 15
    if short == long:
        return False
    # The Gram matrix knows small singular values only to the square root of the rounding, and the iteration amplifies
    # that error like their square: beyond 1/2, noise would grow to singular values of its own. Quintics of matrices
    # that are nearly square gain nothing for that loss.
    noise = float(jnp.finfo(x.dtype).eps) * math.prod(p[0] for p in polynomials_of(steps)) ** 2
    return noise < (0.5 if long >= 2 * short else 0.02)
