"""The atomic norms: what each is, its dual, its steepest direction, its unit sphere.

Arrays here are canonical, `[*batch, taps, fan_in, fan_out]`, in float32 or float64; every index into the batch is
an atom. Paths, trees and half precision are the business of the files that follow.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike, PRNGKeyArray

from modula_optax._axes import Axes
from modula_optax._bounds import resolve_scaling
from modula_optax._canonical import (
    ATOM,
    Canonical,
    PerAtom,
    identity_like,
    leading_direction,
    length,
    power_iteration,
    singular_values,
    spectral_gain,
    unit,
)
from modula_optax._checks import check_count
from modula_optax._coefficients import Coefficients, inverse_root, polar_express, resolve_coefficients
from modula_optax._polar import (
    gram_matrix,
    is_tall,
    largest_entry,
    matmul,
    matrix_polynomial,
    one_where_zero,
    polar,
    polar_factors,
    resolve_products,
)


@runtime_checkable
class Norm(Protocol):
    """What a norm must know; write your own by giving these methods to a frozen, hashable dataclass."""

    # whether dual maps are so much work that, on several devices, each has an atom to itself
    expensive: ClassVar[bool] = False

    def norm(self, w: Canonical) -> PerAtom:
        """Norm of every atom."""
        ...

    def dual_norm(self, g: Canonical) -> PerAtom:
        """Largest inner product of `g` with an atom of norm one."""
        ...

    def dualize(self, g: Canonical) -> Canonical:
        """The atom of norm one with the largest inner product with `g`; 0 for 0."""
        ...

    def dualize_all(self, gs: Sequence[Canonical]) -> list[Canonical]:
        """`dualize` of arrays of several shapes; for norms to which together means faster."""
        return [self.dualize(g) for g in gs]

    def project(self, w: Canonical) -> Canonical:
        """A retraction to the unit sphere: same direction where the norm leaves a choice; 0 for 0."""
        ...

    def initialize(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Canonical:
        """A random atom of norm one."""
        return self.project(jax.random.normal(key, shape, dtype))

    def default_axes(self, ndim: int) -> Axes:
        """What `axes=None` means: here the last two axes, as `[fan_in, fan_out]`."""
        if ndim < 2:
            raise ValueError("needs at least two axes, [fan_in, fan_out]")
        return Axes(fan_in=ndim - 2, fan_out=ndim - 1)


@dataclasses.dataclass(frozen=True)
class Spectral(Norm):
    r"""Operator norm from RMS to RMS, for linear layers and, with K taps, for convolutions.

    .. math:: \|W\| = K \sqrt{d_{in} / d_{out}} \max_t s_1(W_t), \qquad
      \text{dualize}(G)_t = \tfrac{1}{K} \sqrt{d_{out} / d_{in}} \; U_t V_t^\top

    Args:
      coefficients: what the polar factor of a gradient is computed with: the name of a table, or polynomials;
        see `polar`. `"six-step"` gives Modula's numbers.
      steps: how many steps of it; `None`: all.
      scaling: the bound that a gradient is divided by first, `None` for the one that suits the coefficients; see
        `polar`.
      products: `Spectral("six-step", products="bfloat16")` is many times as fast on accelerators, and good to 2 %;
        `None`: all in float32.

    Raises:
      ValueError: unknown coefficients, scaling or products, or coefficients that these do not suit.

    Example:
      >>> Spectral().dualize(3.0 * jnp.eye(2)[None]).round(2)
      Array([[[1., 0.],
              [0., 1.]]], dtype=float32)

    References:
      Large et al., Scalable Optimization in the Modular Norm, arXiv:2405.14813; Bernstein & Newhouse,
      Modular Duality in Deep Learning, arXiv:2410.21265.
    """

    expensive: ClassVar[bool] = True

    coefficients: Coefficients = "four-step"
    steps: int | None = None
    scaling: str | None = None
    products: str | None = None

    def __post_init__(self):
        polynomials = resolve_coefficients(self.coefficients, self.steps)
        resolve_scaling(self.scaling, self.coefficients)
        resolve_products(self.products, polynomials)
        if not isinstance(self.coefficients, str):
            # a list from the user would make the norm unhashable
            object.__setattr__(self, "coefficients", polynomials)

    def norm(self, w: Canonical) -> PerAtom:
        return jnp.max(singular_values(w), axis=(-2, -1)) / spectral_gain(w)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return spectral_gain(g) * jnp.sum(singular_values(g), axis=(-2, -1))

    def dualize(self, g: Canonical) -> Canonical:
        return self.dualize_all([g])[0]

    def dualize_all(self, gs: Sequence[Canonical]) -> list[Canonical]:
        options = {"steps": self.steps, "scaling": self.scaling, "products": self.products}
        factors = polar_factors(gs, self.coefficients, **options)
        return [spectral_gain(g) * factor for g, factor in zip(gs, factors, strict=True)]

    def project(self, w: Canonical) -> Canonical:
        return spectral_gain(w) * orthogonalized(w / spectral_gain(w))


# weights must land on the sphere: exact to rounding for singular values above 1e-4 of the Frobenius norm
_EXACT = polar_express(9, 1e-4)


def orthogonalized(x: Canonical) -> Canonical:
    """Polar factor of every tap, to rounding; after a step from orthogonal matrices in few products."""
    if is_tall(x):
        return orthogonalized(x.mT).mT
    excess = gram_matrix(x)
    excess = excess - identity_like(excess)
    square = matmul(excess, excess)
    fourth = matmul(square, square)
    # the Schatten norm of order 16 is never below the largest eigenvalue
    nearly = jnp.all(length(matmul(fourth, fourth), (-2, -1)) ** (1 / 8) <= _NEARLY)

    def refined(x: Canonical) -> Canonical:
        coefficients = _INVERSE_ROOT[jnp.finfo(x.dtype).bits]
        return matmul(matrix_polynomial(coefficients, excess, square), x)

    return jax.lax.cond(nearly, refined, lambda x: polar(x, _EXACT), x)


# singular values from 0.8 to 1.17
_NEARLY = 0.36
# to rounding, by the bits that there are
_INVERSE_ROOT = {32: inverse_root(-_NEARLY, _NEARLY, 8), 64: inverse_root(-_NEARLY, _NEARLY, 20)}


@dataclasses.dataclass(frozen=True)
class SpectralNormalized(Norm):
    r"""`Spectral`, but its direction is the gradient itself over its largest singular value: cheaper, and less steep.

    .. math:: \text{dualize}(G)_t = \tfrac{1}{K} \sqrt{d_{out} / d_{in}} \; G_t / s_1(G_t)

    By power iteration, two products with a vector each. Its estimate of :math:`s_1` is never above the truth: a step
    is longer than 1 by what it misses, some percent where the largest singular values are close.

    Args:
      iterations: how many power iterations, at least 1.

    Raises:
      ValueError: fewer than one iteration.

    Example:
      >>> SpectralNormalized().dualize(jnp.diag(jnp.array([4.0, 1.0]))[None]).round(3)
      Array([[[1.  , 0.  ],
              [0.  , 0.25]]], dtype=float32)

    References:
      Large et al., Scalable Optimization in the Modular Norm, arXiv:2405.14813.
    """

    iterations: int = 16

    def __post_init__(self):
        check_count("iterations", self.iterations)

    def norm(self, w: Canonical) -> PerAtom:
        return Spectral().norm(w)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return Spectral().dual_norm(g)

    def dualize(self, g: Canonical) -> Canonical:
        s = power_iteration(g, leading_direction(g, self.iterations), 0)[1][..., None, None]
        return spectral_gain(g) * g / one_where_zero(s)

    def project(self, w: Canonical) -> Canonical:
        return Spectral().project(w)


@dataclasses.dataclass(frozen=True)
class Frobenius(Norm):
    r"""Frobenius norm in the units of `Spectral`, which it bounds from above without an SVD.

    .. math:: \|W\| = K \sqrt{d_{in} / d_{out}} \max_t \|W_t\|_F, \qquad
      \text{dualize}(G)_t = \tfrac{1}{K} \sqrt{d_{out} / d_{in}} \; G_t / \|G_t\|_F

    Example:
      >>> Frobenius().norm(jnp.eye(4)[None])
      Array(2., dtype=float32)

    References:
      Bernstein & Newhouse, Old Optimizer, New Norm, arXiv:2409.20325.
    """

    def norm(self, w: Canonical) -> PerAtom:
        return jnp.max(length(w, (-2, -1)), axis=-1) / spectral_gain(w)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return spectral_gain(g) * jnp.sum(length(g, (-2, -1)), axis=-1)

    def dualize(self, g: Canonical) -> Canonical:
        return spectral_gain(g) * unit(g, (-2, -1))

    def project(self, w: Canonical) -> Canonical:
        return self.dualize(w)


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

    def norm(self, w: Canonical) -> PerAtom:
        return math.sqrt(_inputs(w)) * jnp.max(length(w, (-3, -2)), axis=-1)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return jnp.sum(length(g, (-3, -2)), axis=-1) / math.sqrt(_inputs(g))

    def dualize(self, g: Canonical) -> Canonical:
        return unit(g, (-3, -2)) / math.sqrt(_inputs(g))

    def project(self, w: Canonical) -> Canonical:
        return self.dualize(w)


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
        return _inputs(w) * _largest(w)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return jnp.sum(jnp.abs(g), axis=ATOM) / _inputs(g)

    def dualize(self, g: Canonical) -> Canonical:
        return _sign(g) / _inputs(g)

    def project(self, w: Canonical) -> Canonical:
        return w / largest_entry(w, ATOM) / _inputs(w)


@dataclasses.dataclass(frozen=True)
class RMS(Norm):
    r"""Root mean square of all entries, for biases and other vectors.

    .. math:: \|b\| = \|b\|_2 / \sqrt{d}, \qquad \text{dualize}(g) = g / \text{RMS}(g)

    `axes=None` takes the whole parameter as one vector; a single number is a vector of one entry.

    Example:
      >>> RMS().norm(jnp.array([[[3.0, 3.0]]]))
      Array(3., dtype=float32)
    """

    def norm(self, w: Canonical) -> PerAtom:
        return length(w, ATOM) / math.sqrt(_size(w))

    def dual_norm(self, g: Canonical) -> PerAtom:
        return length(g, ATOM) * math.sqrt(_size(g))

    def dualize(self, g: Canonical) -> Canonical:
        return math.sqrt(_size(g)) * unit(g, ATOM)

    def project(self, w: Canonical) -> Canonical:
        return self.dualize(w)

    def default_axes(self, ndim: int) -> Axes:
        return _one_vector(ndim)


@dataclasses.dataclass(frozen=True)
class Diagonal(Norm):
    r"""Operator norm from RMS to RMS of a diagonal matrix, for gains: the largest entry.

    .. math:: \|w\| = \max_i |w_i|, \qquad \text{dualize}(g) = \text{sign}(g)

    `project` scales the whole gain, `initialize` gives the identity: all ones.

    Example:
      >>> Diagonal().dualize(jnp.array([[[0.3, -2.0, 0.0]]]))
      Array([[[ 1., -1.,  0.]]], dtype=float32)
    """

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

    def default_axes(self, ndim: int) -> Axes:
        return _one_vector(ndim)


@dataclasses.dataclass(frozen=True)
class Unnormed(Norm):
    """No norm: the updates of the parameter pass through unchanged, and it counts in no modular norm.

    `modular` and `scion` hand such parameters to their `fallback` transformation.
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
        return _one_vector(ndim)


def _one_vector(ndim: int) -> Axes:
    return Axes(fan_in=(), fan_out=tuple(range(ndim)))


def _inputs(w: Canonical) -> int:
    return w.shape[-3] * w.shape[-2]


def _size(w: Canonical) -> int:
    return math.prod(w.shape[-3:])


def _largest(w: Canonical) -> PerAtom:
    return jnp.max(jnp.abs(w), axis=ATOM)


def _sign(g: Canonical) -> Canonical:
    # the sign of infinity is a plausible step: make it one that finiteness checks see
    return jnp.where(jnp.isfinite(g), jnp.sign(g), jnp.nan)
