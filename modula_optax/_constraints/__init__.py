"""Constraints: where the weights of a parameter are put back after a step, and the steepest way along a set of them."""

from modula_optax._constraints._constraint import Constraint as Constraint
from modula_optax._constraints._constraint import Manifold as Manifold
from modula_optax._constraints._constraint import Step as Step
from modula_optax._constraints._spheres import UnitSphere as UnitSphere
from modula_optax._constraints._spheres import UnitRows as UnitRows
from modula_optax._constraints._spheres import Orthogonal as Orthogonal
from modula_optax._constraints._balls import NormBall as NormBall
from modula_optax._constraints._balls import SpectralNormalize as SpectralNormalize
from modula_optax._constraints._caps import SpectralCap as SpectralCap
from modula_optax._constraints._caps import SoftCap as SoftCap
from modula_optax._constraints._leading import Hammer as Hammer
from modula_optax._constraints._leading import SpectralDecay as SpectralDecay
from modula_optax._constraints._leading import Regularize as Regularize
from modula_optax._constraints._manifolds import Hypersphere as Hypersphere
from modula_optax._constraints._manifolds import FixedNorm as FixedNorm
from modula_optax._constraints._manifolds import Stiefel as Stiefel
from modula_optax._constraints._spectral_sphere import SpectralSphere as SpectralSphere
