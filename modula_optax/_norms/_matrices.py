"""Norms of matrices as operators from RMS to RMS: hidden layers, convolutions."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import DTypeLike, PRNGKeyArray

from modula_optax._canonical import Canonical, PerAtom, singular_values, spectral_gain
from modula_optax._checks import as_count, brief_repr, set_fields
from modula_optax._coefficients import Coefficients, resolve_coefficients
from modula_optax._gram_form import Multiplier, Squares
from modula_optax._linalg import Gram, length, one_where_zero, unit
from modula_optax._norms._norm import Norm, made_of_gaussian
from modula_optax._norms._orthogonal import orthogonalized, orthogonalized_anew
from modula_optax._polar import Factors, polar_of_stack
from modula_optax._power import leading_direction, power_iteration


@dataclasses.dataclass(frozen=True)
class Spectral(Norm):
    r"""Operator norm from RMS to RMS, for linear layers and, with K taps, for convolutions.

    .. math:: \|W\| = K \sqrt{d_{in} / d_{out}} \max_t s_1(W_t), \qquad
      \text{dualize}(G)_t = \tfrac{1}{K} \sqrt{d_{out} / d_{in}} \; U_t V_t^\top

    Args:
      coefficients: what the polar factor of a gradient is computed with: the name of a table, or polynomials;
        see `polar`. `"auto"` is what is fastest where it runs; `"six-step"` gives Modula's numbers.
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
    measures_singular_values: ClassVar[bool] = True
    is_largest_singular_value: ClassVar[bool] = True

    coefficients: Coefficients = "auto"
    steps: int | None = None
    scaling: str | None = None
    products: str | None = None

    __repr__ = brief_repr

    def __post_init__(self) -> None:
        if self.steps is not None:
            set_fields(self, steps=as_count("steps", self.steps))
        # refuses what does not suit
        _ = self._factors
        if not isinstance(self.coefficients, str):
            # a list from the user would make the norm unhashable
            set_fields(self, coefficients=resolve_coefficients(self.coefficients, self.steps))

    def norm(self, w: Canonical) -> PerAtom:
        return jnp.max(singular_values(w), axis=(-2, -1)) / spectral_gain(w)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return spectral_gain(g) * jnp.sum(singular_values(g), axis=(-2, -1))

    def dualize(self, g: Canonical) -> Canonical:
        return spectral_gain(g) * self._factors(g)

    def multiplier_for(self, g: Canonical) -> Multiplier | None:
        multiplier, gain = self._factors.multiplier_for(g), spectral_gain(g)
        # a norm derived from this one may have a dual map of its own
        if multiplier is None or type(self).dualize is not Spectral.dualize:
            return None

        def scaled(gram: Gram) -> tuple[Gram, Squares]:
            q, squares = multiplier(gram)
            return gain * q, gain**2 * squares

        return scaled

    @property
    def _factors(self) -> Factors:
        return polar_of_stack(self.coefficients, self.steps, self.scaling, self.products)

    def project(self, w: Canonical) -> Canonical:
        return spectral_gain(w) * orthogonalized(w / spectral_gain(w))

    def initialize(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Canonical:
        return made_of_gaussian(_orthogonal, key, shape, dtype)


def _orthogonal(x: Canonical) -> Canonical:
    """The atom of norm one that lies in the direction of random ones."""
    return spectral_gain(x) * orthogonalized_anew(x)


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

    measures_singular_values: ClassVar[bool] = True
    is_largest_singular_value: ClassVar[bool] = True

    iterations: int = 16

    def __post_init__(self) -> None:
        set_fields(self, iterations=as_count("iterations", self.iterations))

    def norm(self, w: Canonical) -> PerAtom:
        return Spectral().norm(w)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return Spectral().dual_norm(g)

    def dualize(self, g: Canonical) -> Canonical:
        s = power_iteration(g, leading_direction(g, self.iterations), 0)[1][..., None, None]
        return spectral_gain(g) * g / one_where_zero(s)

    def project(self, w: Canonical) -> Canonical:
        return Spectral().project(w)

    def initialize(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Canonical:
        return Spectral().initialize(key, shape, dtype)


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

    round_along: ClassVar[tuple[int, ...]] = (-2, -1)

    def norm(self, w: Canonical) -> PerAtom:
        return jnp.max(length(w, (-2, -1)), axis=-1) / spectral_gain(w)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return spectral_gain(g) * jnp.sum(length(g, (-2, -1)), axis=-1)

    def dualize(self, g: Canonical) -> Canonical:
        return spectral_gain(g) * unit(g, (-2, -1))

    def project(self, w: Canonical) -> Canonical:
        return self.dualize(w)
