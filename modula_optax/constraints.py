"""Constraints, and what one of your own is written with; see `examples/extend.py`.

`Constraint` is what a set of weights must know, `Manifold` what one that steps are taken along must know besides. Their
methods work on stacks of atoms, `[n, taps, fan_in, fan_out]`; the helpers of `modula_optax.norms` take these, too.
"""

from modula_optax._canonical import Stack as Stack
from modula_optax._constraints import Constraint as Constraint, FixedNorm as FixedNorm, Hammer as Hammer
from modula_optax._constraints import Hypersphere as Hypersphere, Manifold as Manifold, NormBall as NormBall
from modula_optax._constraints import Orthogonal as Orthogonal, Regularize as Regularize, SoftCap as SoftCap
from modula_optax._constraints import SpectralCap as SpectralCap, SpectralDecay as SpectralDecay
from modula_optax._constraints import SpectralNormalize as SpectralNormalize, Step as Step, Stiefel as Stiefel
from modula_optax._constraints import UnitRows as UnitRows, UnitSphere as UnitSphere
from modula_optax._constraints._constraint import needs_matrices as needs_matrices, needs_spectral as needs_spectral
from modula_optax._serialize import register as register
