"""The spectral sphere: the largest singular value stays where it is, and steps leave it there."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._canonical import Stack, spectral_gain
from modula_optax._checks import as_count, as_positive, set_fields
from modula_optax._constraints._constraint import Manifold, Step
from modula_optax._linalg import length, one_where_zero
from modula_optax._norms import Norm, Spectral, orthogonalized
from modula_optax._power import leading_direction, power_iteration


@dataclasses.dataclass(frozen=True)
class SpectralSphere(Manifold):
    r"""Matrices whose largest singular value is `radius`, scaled as a whole; steps are the steepest that keep it.

    .. math:: \text{tangent}(G) = \sqrt{d_{out} / d_{in}} \; \text{polar}(G + \lambda \, u_1 v_1^\top), \qquad
      W \mapsto r \, W / \|W\|

    with the number :math:`\lambda` for which the direction has no part along :math:`u_1 v_1^\top`, found by bisection:
    a polar factor for each halving. With taps, each is a matrix by itself. Power iteration is never above the truth:
    weights are never inside the sphere, and some percent outside where leading singular values are close.

    Args:
      radius: the norm, in units of `Spectral`.
      iterations: power iterations at each step, from a vector that is remembered.
      halvings: of the interval that :math:`\lambda` is in.

    Raises:
      ValueError: `radius`, `iterations` or `halvings` is not above 0.

    Example:
      >>> spec = NormSpec(Spectral(), constraint=SpectralSphere(2.0))
      >>> project({"w": jnp.diag(jnp.array([4.0, 1.0]))}, spec)["w"].round(3)
      Array([[2. , 0. ],
             [0. , 0.5]], dtype=float32)

    References:
      Xie et al., Controlled LLM Training on Spectral Sphere, arXiv:2601.08393.
    """

    radius: float = 1.0
    iterations: int = 4
    halvings: int = 16

    def __post_init__(self) -> None:
        counts = {name: as_count(name, getattr(self, name)) for name in ("iterations", "halvings")}
        set_fields(self, radius=as_positive("radius", self.radius), **counts)

    def misfit(self, norm: Norm, shape: tuple[int, int, int]) -> str | None:
        del shape
        if isinstance(norm, Spectral):
            return None
        return f"{self!r} steps under the norm of Spectral(), not under {norm!r}; write Spectral() or FixedNorm()"

    def init(self, norm: Norm, w: Stack) -> Float[Array, "n taps fan_out"]:
        del norm
        return leading_direction(w)

    def retract(self, norm: Norm, w: Stack, memory: Array, step: Step) -> tuple[Stack, Array]:
        del norm, step
        _, s, v = power_iteration(w, memory, self.iterations)
        return self.radius * spectral_gain(w) * w / one_where_zero(s)[..., None, None], v

    def tangent(self, norm: Norm, w: Stack, g: Stack) -> Stack:
        del norm
        u, _, v = power_iteration(w, leading_direction(w), 1)
        leading = u[..., :, None] * v[..., None, :]
        g = g / one_where_zero(length(g, (-2, -1)))[..., None, None]
        # beyond, the sign of what is along the leading direction is that of the number: twice the nuclear norm; under
        # `shard_map` it must vary over devices as the gradient may, since a loop carries it
        bound = 2 * math.sqrt(min(g.shape[-2:])) * jnp.ones_like(g, shape=g.shape[:-2])

        def direction(number: Array) -> Stack:
            return orthogonalized(g + number[..., None, None] * leading)

        def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            is_above = jnp.sum(direction(middle) * leading, axis=(-2, -1)) > 0.0
            return jnp.where(is_above, low, middle), jnp.where(is_above, middle, high)

        low, high = jax.lax.fori_loop(0, self.halvings, halve, (-bound, bound))
        steepest = direction((low + high) / 2)
        # what bisection leaves
        rest = jnp.sum(steepest * leading, axis=(-2, -1), keepdims=True)
        is_zero = jnp.all(g == 0.0, axis=(-2, -1), keepdims=True)
        return spectral_gain(w) * jnp.where(is_zero, 0.0, steepest - rest * leading)
