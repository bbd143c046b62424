"""Caps on singular values: those above the radius come down to it."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._canonical import PerTap, Stack, gram_is_within, spectral_gain
from modula_optax._cap import capped_at
from modula_optax._checks import as_positive, set_fields
from modula_optax._constraints._constraint import Constraint, Step, needs_spectral
from modula_optax._linalg import (
    commuting_product,
    gram_matrix,
    identity_like,
    is_tall,
    length,
    matmul,
    on_smaller_side,
    one_where_zero,
    unit,
)
from modula_optax._norms import Norm

Grams = Float[Array, "*batch taps k k"]


@dataclasses.dataclass(frozen=True)
class SpectralCap(Constraint):
    r"""Matrices with no singular value above `radius`; those below stay as they are.

    .. math:: W = U S V^\top \mapsto U \min(S, r) V^\top

    The nearest such matrix in Frobenius norm, by matrix products and no decomposition: to rounding of the largest
    singular value, or, where none is more than 5 % above the radius, to 7e-5 of the radius and never above it.
    Matrices in the set come back unchanged; where all are, a Cholesky factor is the price.

    Args:
      radius: largest norm, in units of `Spectral`.

    Raises:
      ValueError: `radius` is not a finite number above 0.

    Example:
      >>> spec = NormSpec(Spectral(), constraint=SpectralCap(2.0))
      >>> project({"w": jnp.diag(jnp.array([3.0, 0.2]))}, spec)["w"].round(3)
      Array([[2. , 0. ],
             [0. , 0.2]], dtype=float32)

    References:
      Newhouse et al., Training Transformers with Enforced Lipschitz Constants, arXiv:2507.13338.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        set_fields(self, radius=as_positive("radius", self.radius))

    def misfit(self, norm: Norm, shape: tuple[int, int, int]) -> str | None:
        return needs_spectral(self, norm)

    def retract(self, norm: Norm, w: Stack, memory: tuple[()], step: Step) -> tuple[Stack, tuple[()]]:
        return capped_at(w, self.radius * spectral_gain(w)), memory


@dataclasses.dataclass(frozen=True)
class SoftCap(Constraint):
    r"""Matrices with no singular value above `radius`, by an odd polynomial: four matrix products and no polar factor.

    .. math:: p(s) = q + \alpha q^3, \quad q = s - \alpha s^3

    :math:`\alpha` is as small as it can be: p takes to the radius what a step from inside can at most reach,
    :math:`k = r (1 - \eta \lambda) + \eta m / s`, with the learning rate, the weight decay and the target norm of that
    step. It is 0 where the decay alone holds the weights, and where the weights are inside: they come back unchanged.
    Weights that are outside do lose some of their smaller singular values, too. Weights beyond k, such as those that
    `project` finds, come inside at once, by their Schatten norm of order 128.

    Args:
      radius: largest norm, in units of `Spectral`.

    Raises:
      ValueError: `radius` is not a finite number above 0.

    Example:
      >>> tx = keep_params_projected(NormSpec(Spectral(), constraint=SoftCap(1.0)), learning_rate=0.1)
      >>> w = jnp.diag(jnp.array([1.0, 0.1]))
      >>> (w + tx.update(0.1 * w, tx.init(w), w)[0]).round(2)
      Array([[1.  , 0.  ],
             [0.  , 0.11]], dtype=float32)

    References:
      Newhouse et al., Training Transformers with Enforced Lipschitz Constants, arXiv:2507.13338.
    """

    needs_learning_rate: ClassVar[bool] = True

    radius: float = 1.0

    def __post_init__(self) -> None:
        set_fields(self, radius=as_positive("radius", self.radius))

    def misfit(self, norm: Norm, shape: tuple[int, int, int]) -> str | None:
        return needs_spectral(self, norm)

    def retract(self, norm: Norm, w: Stack, memory: tuple[()], step: Step) -> tuple[Stack, tuple[()]]:
        x = w / (self.radius * spectral_gain(w))
        gram = gram_matrix(x)
        growth = step.learning_rate * (step.target / self.radius - step.weight_decay)
        reach = jnp.broadcast_to(1.0 + jnp.maximum(growth, 0.0)[:, None], x.shape[:2])
        beyond = ~gram_is_within(gram, reach)

        def brought_near() -> tuple[PerTap, Grams]:
            far = jnp.where(beyond, _largest_singular_bound(x), reach)
            return far, gram_matrix(x / _excess(far))

        # rare once training runs: the bound costs as much as everything else
        reach, near = jax.lax.cond(jnp.any(beyond), brought_near, lambda: (reach, gram / _excess(reach) ** 2))
        inside = gram_is_within(gram)[..., None, None]
        return jnp.where(inside, w, on_smaller_side(_softly_capping_factor(near, reach) / _excess(reach), w)), memory


def _softly_capping_factor(a: Grams, reach: PerTap) -> Grams:
    """Odd polynomial that takes `reach` to 1 and [0, reach] into [0, 1], over X, from A = XXᵀ: C + C³ - C⁴."""
    reach = jnp.minimum(reach, _MONOTONE)
    c = identity_like(a) - (_strength(reach) / reach**2)[..., None, None] * a
    square = commuting_product(c, c)
    return c + commuting_product(square, c - square)


def _excess(reach: PerTap) -> Float[Array, "*batch taps 1 1"]:
    """What matrices are divided by first: beyond this ratio the polynomial is no longer largest at its end."""
    return jnp.maximum(reach / _MONOTONE, 1.0)[..., None, None]


_MONOTONE = 1.3


def _strength(reach: PerTap) -> PerTap:
    """The t = α k² at which p(k) = k (1 - 3 t² + 3 t³ - t⁴) is 1, for k up to 1.3."""
    drop = 1.0 - 1.0 / reach
    # Newton's method from below, where it cannot overshoot by much; t is 0.33 at most. It forgets where it started,
    # where the root of zero has no derivative.
    t = jax.lax.stop_gradient(jnp.sqrt(drop / 3))
    for _ in range(5):
        t = t - (3 * t**2 - 3 * t**3 + t**4 - drop) / jnp.maximum(6 * t - 9 * t**2 + 4 * t**3, 1e-10)
    return t


def _largest_singular_bound(x: Stack) -> PerTap:
    """Schatten norm of order 128: never below the largest singular value, at most rank^(1/128) times above it."""
    power = x.mT if is_tall(x) else x
    bound, root = length(power, (-2, -1)), 1.0
    power = unit(power, (-2, -1))
    for _ in range(6):
        root /= 2
        power = matmul(power, power.mT)
        # the root of zero has no derivative
        bound = bound * one_where_zero(length(power, (-2, -1))) ** root
        power = unit(power, (-2, -1))
    return bound
