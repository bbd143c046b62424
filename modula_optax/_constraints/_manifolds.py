"""Manifolds: sets of weights that steps are taken along, not only put back to."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._canonical import ATOM, Stack, spectral_gain
from modula_optax._cap import capped
from modula_optax._checks import as_count, as_positive, set_fields
from modula_optax._constraints._constraint import Manifold, Step
from modula_optax._linalg import length, matmul, unit
from modula_optax._norms import Norm, Spectral, orthogonalized


@dataclasses.dataclass(frozen=True)
class Hypersphere(Manifold):
    r"""Vectors of norm `radius`, and steps along their sphere.

    The vectors are those of the norm: rows under `Embedding`, columns under `RowL2`, everything under `RMS` and (for
    each tap) under `Frobenius`.

    .. math:: \text{tangent}(G) = \text{dualize}\left( G - \frac{\langle G, w \rangle}{\|w\|_2^2} w \right), \qquad
      w \mapsto r \, w / \|w\|

    Args:
      radius: the norm, in units of the parameter's own norm.

    Raises:
      ValueError: `radius` is not a finite number above 0.

    Example:
      >>> spec = NormSpec(RMS(), constraint=Hypersphere(2.0))
      >>> project({"b": jnp.array([3.0, -3.0])}, spec)["b"].round(3)
      Array([ 2., -2.], dtype=float32)

    References:
      Bernstein, Modular Manifolds, 2025. Loshchilov et al., nGPT, arXiv:2410.01131.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        set_fields(self, radius=as_positive("radius", self.radius))

    def misfit(self, norm: Norm, shape: tuple[int, int, int]) -> str | None:
        if norm.round_along:
            return None
        names = "RMS()" if norm.takes_vectors else "Frobenius(), Embedding(), RowL2(), RMS()"
        return f"{self!r} is round, and the unit ball of {norm!r} is not; write {names}, or UnitSphere()"

    def retract(self, norm: Norm, w: Stack, memory: tuple[()], step: Step) -> tuple[Stack, tuple[()]]:
        return self.radius * norm.project(w), memory

    def tangent(self, norm: Norm, w: Stack, g: Stack) -> Stack:
        return norm.dualize(_without(g, w, norm.round_along))


@dataclasses.dataclass(frozen=True)
class FixedNorm(Manifold):
    r"""Every atom keeps the Euclidean length that it had at initialisation; steps of any norm go along that sphere.

    .. math:: \text{tangent}(G) = \text{dualize}\left( G - \frac{\langle G, w \rangle}{\|w\|_2^2} w \right), \qquad
      w \mapsto \|w_0\|_2 \, w / \|w\|_2

    Of all steps of norm one, that is the steepest before the return to the sphere. Euclidean whatever the norm, so
    that no singular values are computed. `project`, which remembers nothing, leaves weights as they are.

    Example:
      >>> tx = keep_params_projected(NormSpec(Spectral(), constraint=FixedNorm()))
      >>> w = jnp.array([[3.0, 0.0], [0.0, 4.0]])
      >>> after = w + tx.update(jnp.ones((2, 2)), tx.init(w), w)[0]
      >>> jnp.linalg.norm(after).round(2)
      Array(5., dtype=float32)

    References:
      Wen et al., Fantastic Pretraining Optimizers and Where to Find Them II (Hyperball), 2025.
    """

    def init(self, norm: Norm, w: Stack) -> Float[Array, " n"]:
        return length(w, ATOM)

    def retract(self, norm: Norm, w: Stack, memory: Array, step: Step) -> tuple[Stack, Array]:
        return memory[:, None, None, None] * unit(w, ATOM), memory

    def is_expensive(self, norm: Norm) -> bool:
        return False

    def tangent(self, norm: Norm, w: Stack, g: Stack) -> Stack:
        return norm.dualize(_without(g, w, ATOM))


def _without(g: Stack, w: Stack, axes: tuple[int, ...]) -> Stack:
    """What of `g` is orthogonal to `w`."""
    normal = unit(w, axes)
    return g - jnp.sum(g * normal, axis=axes, keepdims=True) * normal


@dataclasses.dataclass(frozen=True)
class Stiefel(Manifold):
    r"""Orthogonal matrices, and tall and wide ones with orthonormal columns or rows, in the scale of `Spectral`.

    .. math:: \text{tangent}(G) = \text{argmax} \left\{ \langle G, A \rangle : \|A\| \le 1, \;
      Q^\top A + A^\top Q = 0 \right\}, \qquad W \mapsto \sqrt{d_{out} / d_{in}} \; U V^\top

    with :math:`Q` the polar factor of :math:`W`, or of its transpose if that is tall. Square matrices have a closed
    form: one polar factor, of :math:`Q^\top G - G^\top Q`. Others are solved by alternating directions, two polar
    factors for each iteration: 10 of them come within some percent of the best slope, 40 within some thousandths.

    Args:
      iterations: how long to solve for directions at matrices that are not square.

    Raises:
      ValueError: `iterations` is not above 0.

    Example:
      >>> spec = NormSpec(Spectral(), constraint=Stiefel())
      >>> project({"w": jnp.diag(jnp.array([3.0, 0.2]))}, spec)["w"].round(3)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Bernstein, Modular Manifolds, 2025. Buchanan, Manifold Muon with ADMM, 2025.
    """

    iterations: int = 10

    def __post_init__(self) -> None:
        set_fields(self, iterations=as_count("iterations", self.iterations))

    def misfit(self, norm: Norm, shape: tuple[int, int, int]) -> str | None:
        _, fan_in, fan_out = shape
        if min(fan_in, fan_out) == 1 < max(fan_in, fan_out):
            return f"{self!r} is about matrices, and this is vectors (axes say); write UnitSphere()"
        if not isinstance(norm, Spectral):
            instead = "UnitSphere()" if norm.takes_vectors else "Spectral() or Orthogonal()"
            return f"{self!r} steps under the norm of Spectral(), not under {norm!r}; write {instead}"
        return None

    def retract(self, norm: Norm, w: Stack, memory: tuple[()], step: Step) -> tuple[Stack, tuple[()]]:
        return norm.project(w), memory

    def tangent(self, norm: Norm, w: Stack, g: Stack) -> Stack:
        q = orthogonalized(w / spectral_gain(w))
        fan_in, fan_out = w.shape[-2:]
        if fan_in < fan_out:
            return spectral_gain(w) * _steepest_tangent(q.mT, g.mT, self.iterations).mT
        return spectral_gain(w) * _steepest_tangent(q, g, self.iterations)


def _steepest_tangent(q: Stack, g: Stack, iterations: int) -> Stack:
    """The steepest direction of spectral norm one along the matrices with orthonormal columns, at `q`."""
    rows, columns = q.shape[-2:]
    ascent = math.sqrt(columns) * unit(_tangential(q, g), (-2, -1))
    inner = orthogonalized(ascent)
    if rows == columns:
        return inner

    # A along the manifold = Z of norm one, with multipliers U; steps along `ascent` by 1 / ρ at each iteration
    def iterate(_: int, carry: tuple[Stack, Stack]) -> tuple[Stack, Stack]:
        z, u = carry
        a = _tangential(q, z - u + ascent / _RHO)
        z = capped(a + u)
        return z, u + a - z

    return jax.lax.fori_loop(0, iterations, iterate, (inner, jnp.zeros_like(inner)))[0]


# the fastest of 0.3, 1 and 3 within ten iterations, on gradients of flat and of steep spectrum
_RHO = 3.0


def _tangential(q: Stack, g: Stack) -> Stack:
    product = matmul(q.mT, g)
    return g - matmul(q, product + product.mT) / 2
