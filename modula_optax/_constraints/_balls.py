"""Balls: atoms that are too long are scaled down as a whole, others stay as they are."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._canonical import Stack, spectral_gain
from modula_optax._checks import as_positive, set_fields
from modula_optax._constraints._constraint import Constraint, Step
from modula_optax._constraints._leading import LeadingValue
from modula_optax._norms import Norm
from modula_optax._power import power_iteration


@dataclasses.dataclass(frozen=True)
class NormBall(Constraint):
    r"""Weights of atomic norm at most `radius`, of any norm.

    .. math:: W \mapsto W / \max(1, \|W\| / r)

    The norm is measured to rounding, which under `Spectral` takes all singular values of every matrix at every step:
    `SpectralCap` and `SpectralNormalize` are faster.

    Args:
      radius: largest norm, in units of the parameter's own norm.

    Raises:
      ValueError: `radius` is not a finite number above 0.

    Example:
      >>> project({"b": jnp.array([3.0, -3.0])}, NormSpec(RMS(), constraint=NormBall(2.0)))["b"].round(3)
      Array([ 2., -2.], dtype=float32)

    References:
      Newhouse et al., Training Transformers with Enforced Lipschitz Constants, arXiv:2507.13338.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        set_fields(self, radius=as_positive("radius", self.radius))

    def retract(self, norm: Norm, w: Stack, memory: tuple[()], step: Step) -> tuple[Stack, tuple[()]]:
        return _shrunk(w, norm.norm(w) / self.radius), memory


@dataclasses.dataclass(frozen=True)
class SpectralNormalize(LeadingValue):
    r"""Matrices of spectral norm at most `radius`, by power iteration, in few products with a vector.

    .. math:: W \mapsto W / \max(1, s_1 / r)

    The vector is remembered from step to step, so that it keeps up with weights that change little; `project`, which
    remembers nothing, takes 32 iterations. What the estimate of :math:`s_1` misses, the weights may exceed.

    Args:
      radius: largest norm, in units of `Spectral`.
      iterations: power iterations at each step.

    Raises:
      ValueError: `radius` or `iterations` is not above 0.

    Example:
      >>> spec = NormSpec(Spectral(), constraint=SpectralNormalize(1.0))
      >>> project({"w": jnp.diag(jnp.array([4.0, 1.0]))}, spec)["w"].round(3)
      Array([[1.  , 0.  ],
             [0.  , 0.25]], dtype=float32)

    References:
      Miyato et al., Spectral Normalization for Generative Adversarial Networks, arXiv:1802.05957.
    """

    def retract(self, norm: Norm, w: Stack, memory: Array, step: Step) -> tuple[Stack, Array]:
        _, s, v = power_iteration(w, memory, self.iterations)
        return _shrunk(w, jnp.max(s, axis=-1) / (self.radius * spectral_gain(w))), v


def _shrunk(w: Stack, length: Float[Array, " n"]) -> Stack:
    return w / jnp.maximum(length, 1.0)[:, None, None, None]
