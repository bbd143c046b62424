"""Constraints: where the weights of a parameter are put back after a step, and the steepest way along a set of them."""

from modula_optax._constraints._constraint import Constraint as Constraint, Manifold as Manifold, Step as Step
from modula_optax._constraints._spheres import UnitSphere as UnitSphere, UnitRows as UnitRows, Orthogonal as Orthogonal
from modula_optax._constraints._balls import NormBall as NormBall, SpectralNormalize as SpectralNormalize
from modula_optax._constraints._caps import SpectralCap as SpectralCap, SoftCap as SoftCap
from modula_optax._constraints._leading import Hammer as Hammer, SpectralDecay as SpectralDecay
from modula_optax._constraints._leading import Regularize as Regularize
from modula_optax._constraints._manifolds import Hypersphere as Hypersphere, FixedNorm as FixedNorm, Stiefel as Stiefel
from modula_optax._constraints._spectral_sphere import SpectralSphere as SpectralSphere
