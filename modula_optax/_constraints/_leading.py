"""The leading singular value alone set or decayed, and the decay of the first Modula."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._canonical import Stack, spectral_gain
from modula_optax._checks import as_count, as_positive, set_fields
from modula_optax._constraints._constraint import (
    Constraint,
    Step,
    needs_matrices,
    needs_spectral,
)
from modula_optax._norms import Norm
from modula_optax._power import leading_direction, power_iteration


@dataclasses.dataclass(frozen=True)
class LeadingValue(Constraint):
    """The largest singular value beside a radius, by power iteration from a vector that is remembered."""

    radius: float = 1.0
    iterations: int = 2

    def __post_init__(self) -> None:
        set_fields(self, radius=as_positive("radius", self.radius), iterations=as_count("iterations", self.iterations))

    def misfit(self, norm: Norm, shape: tuple[int, int, int]) -> str | None:
        return needs_spectral(self, norm)

    def init(self, norm: Norm, w: Stack) -> Float[Array, "n taps fan_out"]:
        return leading_direction(w)


@dataclasses.dataclass(frozen=True)
class Hammer(LeadingValue):
    r"""Sets the largest singular value to `radius`, by power iteration, and touches no other.

    .. math:: W \mapsto W + (r - s_1) \, u_1 v_1^\top

    For updates of low rank, which raise few singular values in a step; it holds the norm only while no more than one
    is above the radius. The vector is remembered as by `SpectralNormalize`.

    Args:
      radius: the norm, in units of `Spectral`.
      iterations: power iterations at each step.

    Raises:
      ValueError: `radius` or `iterations` is not above 0.

    Example:
      >>> spec = NormSpec(Spectral(), constraint=Hammer(2.0))
      >>> project({"w": jnp.diag(jnp.array([4.0, 1.0]))}, spec)["w"].round(3)
      Array([[2., 0.],
             [0., 1.]], dtype=float32)

    References:
      Newhouse et al., Training Transformers with Enforced Lipschitz Constants, arXiv:2507.13338.
    """

    def retract(self, norm: Norm, w: Stack, memory: Array, step: Step) -> tuple[Stack, Array]:
        u, s, v = power_iteration(w, memory, self.iterations)
        return w + _outer(u, self.radius * spectral_gain(w) - s, v), v


@dataclasses.dataclass(frozen=True)
class SpectralDecay(Constraint):
    r"""Weight decay of the largest singular value alone, by power iteration.

    .. math:: W \mapsto W - \eta \lambda s_1 \, u_1 v_1^\top

    The vector is remembered as by `SpectralNormalize`. `project`, which follows no step, leaves weights as they are.

    Args:
      strength: decay :math:`\lambda`, multiplied with the learning rate.
      iterations: power iterations at each step.

    Raises:
      ValueError: `strength` or `iterations` is not above 0.

    Example:
      >>> spec, w = NormSpec(Spectral(), constraint=SpectralDecay(0.5)), jnp.diag(jnp.array([4.0, 1.0]))
      >>> tx = keep_params_projected(spec, learning_rate=0.5)
      >>> tx.update(jnp.zeros((2, 2)), tx.init(w), w)[0].round(3)
      Array([[-1.,  0.],
             [ 0.,  0.]], dtype=float32)

    References:
      Newhouse et al., Training Transformers with Enforced Lipschitz Constants, arXiv:2507.13338.
    """

    needs_learning_rate: ClassVar[bool] = True

    strength: float
    iterations: int = 2

    def __post_init__(self) -> None:
        set_fields(
            self, strength=as_positive("strength", self.strength), iterations=as_count("iterations", self.iterations)
        )

    def misfit(self, norm: Norm, shape: tuple[int, int, int]) -> str | None:
        return needs_matrices(self, norm)

    def init(self, norm: Norm, w: Stack) -> Float[Array, "n taps fan_out"]:
        return leading_direction(w)

    def retract(self, norm: Norm, w: Stack, memory: Array, step: Step) -> tuple[Stack, Array]:
        u, s, v = power_iteration(w, memory, self.iterations)
        lost = jnp.minimum(step.learning_rate * self.strength, 1.0)[:, None]
        return w - _outer(u, lost * s, v), v


@dataclasses.dataclass(frozen=True)
class Regularize(Constraint):
    r"""Regularisation of the first Modula: rows of tables on their unit sphere, other weights decay by their targets.

    .. math:: W \mapsto W \left(1 - \eta \lambda \tfrac{m}{s} \right)

    `project`, which follows no step, leaves all but tables as they are.

    Args:
      strength: decay :math:`\lambda`, multiplied with the learning rate and with mass over sensitivity.

    Raises:
      ValueError: `strength` is not a finite number above 0.

    Example:
      >>> tx = keep_params_projected(NormSpec(RMS(), mass=0.5, constraint=Regularize(0.1)), learning_rate=1.0)
      >>> b = jnp.array([4.0])
      >>> tx.update(jnp.zeros(1), tx.init(b), b)[0].round(3)
      Array([-0.2], dtype=float32)

    References:
      Large et al., Scalable Optimization in the Modular Norm, arXiv:2405.14813.
    """

    needs_learning_rate: ClassVar[bool] = True

    strength: float

    def __post_init__(self) -> None:
        set_fields(self, strength=as_positive("strength", self.strength))

    def retract(self, norm: Norm, w: Stack, memory: tuple[()], step: Step) -> tuple[Stack, tuple[()]]:
        if norm.looks_up_rows:
            return norm.project(w), memory
        kept = jnp.maximum(1.0 - step.learning_rate * self.strength * step.target, 0.0)
        return kept[:, None, None, None] * w, memory

    def is_expensive(self, norm: Norm) -> bool:
        return False


def _outer(u: Float[Array, "n taps m"], s: Float[Array, "n taps"], v: Float[Array, "n taps k"]) -> Stack:
    return (s[..., None] * u)[..., :, None] * v[..., None, :]
