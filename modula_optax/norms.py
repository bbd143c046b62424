"""Norms, and what one of your own is written with; see `examples/extend.py`.

`Norm` is what a norm must know. Its arrays are canonical, `[*batch, taps, fan_in, fan_out]`, and these helpers take and
return such arrays: lengths and units that neither overflow nor underflow, singular values, the polar factor.
"""

from modula_optax._axes import Axes as Axes
from modula_optax._canonical import ATOM as ATOM, Canonical as Canonical, PerAtom as PerAtom, inputs as inputs
from modula_optax._canonical import singular_values as singular_values, spectral_gain as spectral_gain
from modula_optax._linalg import length as length, unit as unit
from modula_optax._norms import RMS as RMS, Blocks as Blocks, Diagonal as Diagonal, Embedding as Embedding
from modula_optax._norms import Frobenius as Frobenius, Norm as Norm, RowL2 as RowL2, Sign as Sign, Spectral as Spectral
from modula_optax._norms import SpectralNormalized as SpectralNormalized, Unnormed as Unnormed
from modula_optax._norms import orthogonalized as orthogonalized
from modula_optax._polar import polar as polar
from modula_optax._power import leading_direction as leading_direction, power_iteration as power_iteration
from modula_optax._serialize import register as register
