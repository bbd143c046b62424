"""Norms that take the rows, or the columns, of a matrix one by one: tables, output layers."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp

from modula_optax._canonical import Canonical, PerAtom, inputs
from modula_optax._linalg import length, unit
from modula_optax._norms._norm import Norm


@dataclasses.dataclass(frozen=True)
class Embedding(Norm):
    r"""Operator norm from l1 to RMS, for lookup tables `[num, d]`: the largest RMS of a row.

    .. math:: \|W\| = \max_i \text{RMS}(w_i), \qquad \text{dualize}(G)_i = g_i / \text{RMS}(g_i)

    Rows that a batch did not look up have a zero gradient, and stay where they are.

    Example:
      >>> Embedding().dualize(jnp.array([[[0.2, -0.2], [0.0, 0.0]]])).round(3)
      Array([[[ 1., -1.],
              [ 0.,  0.]]], dtype=float32)

    References:
      Large et al., Scalable Optimization in the Modular Norm, arXiv:2405.14813.
    """

    looks_up_rows: ClassVar[bool] = True
    round_along: ClassVar[tuple[int, ...]] = (-1,)

    def norm(self, w: Canonical) -> PerAtom:
        return jnp.max(length(w, -1), axis=(-2, -1)) / math.sqrt(w.shape[-1])

    def dual_norm(self, g: Canonical) -> PerAtom:
        return jnp.sum(length(g, -1), axis=(-2, -1)) * math.sqrt(g.shape[-1])

    def dualize(self, g: Canonical) -> Canonical:
        return math.sqrt(g.shape[-1]) * unit(g, -1)

    def project(self, w: Canonical) -> Canonical:
        return self.dualize(w)


@dataclasses.dataclass(frozen=True)
class RowL2(Norm):
    r"""Operator norm from RMS to l-infinity, for output layers: every output unit gets its own unit step.

    .. math:: \|W\| = \sqrt{d_{in}} \max_j \|W_{:,j}\|_2, \qquad
      \text{dualize}(G)_{:,j} = G_{:,j} / (\sqrt{d_{in}} \|G_{:,j}\|_2)

    Taps count as inputs. The name is that of layouts with one row for each output unit.

    Example:
      >>> RowL2().norm(jnp.eye(4)[None])
      Array(2., dtype=float32)

    References:
      Pethick et al., Training Deep Learning Models with Norm-Constrained LMOs, arXiv:2502.07529.
    """

    round_along: ClassVar[tuple[int, ...]] = (-3, -2)

    def norm(self, w: Canonical) -> PerAtom:
        return math.sqrt(inputs(w)) * jnp.max(length(w, (-3, -2)), axis=-1)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return jnp.sum(length(g, (-3, -2)), axis=-1) / math.sqrt(inputs(g))

    def dualize(self, g: Canonical) -> Canonical:
        return unit(g, (-3, -2)) / math.sqrt(inputs(g))

    def project(self, w: Canonical) -> Canonical:
        return self.dualize(w)
