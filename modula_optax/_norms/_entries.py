"""Norms of entries: signs, vectors, gains, and what has no norm."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import DTypeLike, PRNGKeyArray

from modula_optax._axes import Axes
from modula_optax._canonical import ATOM, Canonical, PerAtom, inputs
from modula_optax._linalg import largest_entry, length, unit
from modula_optax._norms._norm import Norm


@dataclasses.dataclass(frozen=True)
class Sign(Norm):
    r"""Largest entry in units of 1 / d_in, which bounds RMS to l-infinity: output layers and tied tables.

    .. math:: \|W\| = d_{in} \max_{ij} |w_{ij}|, \qquad \text{dualize}(G) = \text{sign}(G) / d_{in}

    Taps count as inputs. `project` scales the whole atom, since the signs alone would forget a weight.

    Example:
      >>> Sign().dualize(jnp.array([[[5.0], [-0.1]]]))
      Array([[[ 0.5],
              [-0.5]]], dtype=float32)

    References:
      Pethick et al., Training Deep Learning Models with Norm-Constrained LMOs, arXiv:2502.07529.
    """

    def norm(self, w: Canonical) -> PerAtom:
        return inputs(w) * _largest(w)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return jnp.sum(jnp.abs(g), axis=ATOM) / inputs(g)

    def dualize(self, g: Canonical) -> Canonical:
        return _sign(g) / inputs(g)

    def project(self, w: Canonical) -> Canonical:
        return w / largest_entry(w, ATOM) / inputs(w)


@dataclasses.dataclass(frozen=True)
class RMS(Norm):
    r"""Root mean square of all entries, for biases and other vectors.

    .. math:: \|b\| = \|b\|_2 / \sqrt{d}, \qquad \text{dualize}(g) = g / \text{RMS}(g)

    `axes=None` takes the whole parameter as one vector; a single number is a vector of one entry.

    Example:
      >>> RMS().norm(jnp.array([[[3.0, 3.0]]]))
      Array(3., dtype=float32)
    """

    takes_vectors: ClassVar[bool] = True
    round_along: ClassVar[tuple[int, ...]] = ATOM

    def norm(self, w: Canonical) -> PerAtom:
        return length(w, ATOM) / math.sqrt(_size(w))

    def dual_norm(self, g: Canonical) -> PerAtom:
        return length(g, ATOM) * math.sqrt(_size(g))

    def dualize(self, g: Canonical) -> Canonical:
        return math.sqrt(_size(g)) * unit(g, ATOM)

    def project(self, w: Canonical) -> Canonical:
        return self.dualize(w)


@dataclasses.dataclass(frozen=True)
class Diagonal(Norm):
    r"""Operator norm from RMS to RMS of a diagonal matrix, for gains: the largest entry.

    .. math:: \|w\| = \max_i |w_i|, \qquad \text{dualize}(g) = \text{sign}(g)

    `project` scales the whole gain, `initialize` gives the identity: all ones.

    Example:
      >>> Diagonal().dualize(jnp.array([[[0.3, -2.0, 0.0]]]))
      Array([[[ 1., -1.,  0.]]], dtype=float32)
    """

    takes_vectors: ClassVar[bool] = True

    def norm(self, w: Canonical) -> PerAtom:
        return _largest(w)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return jnp.sum(jnp.abs(g), axis=ATOM)

    def dualize(self, g: Canonical) -> Canonical:
        return _sign(g)

    def project(self, w: Canonical) -> Canonical:
        return w / largest_entry(w, ATOM)

    def initialize(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Canonical:
        return jnp.ones(shape, dtype)


@dataclasses.dataclass(frozen=True)
class Unnormed(Norm):
    """No norm: the updates of the parameter pass through unchanged, and it counts in no modular norm.

    `modular`, `whitened` and `scion` hand such parameters to their `fallback` transformation.

    Example:
      >>> tx = dualize(NormSpec(Unnormed()))
      >>> tx.update(jnp.array([3.0]), tx.init(jnp.array([0.0])))[0]
      Array([3.], dtype=float32)
    """

    def norm(self, w: Canonical) -> PerAtom:
        return jnp.zeros(w.shape[:-3], w.dtype)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return jnp.zeros(g.shape[:-3], g.dtype)

    def dualize(self, g: Canonical) -> Canonical:
        return g

    def project(self, w: Canonical) -> Canonical:
        return w

    def default_axes(self, ndim: int) -> Axes:
        return Axes(fan_in=(), fan_out=tuple(range(ndim)))


def _size(w: Canonical) -> int:
    return math.prod(w.shape[-3:])


def _largest(w: Canonical) -> PerAtom:
    return jnp.max(jnp.abs(w), axis=ATOM)


def _sign(g: Canonical) -> Canonical:
    # the sign of infinity is a plausible step: make it one that finiteness checks see
    return jnp.where(jnp.isfinite(g), jnp.sign(g), jnp.nan)
