"""Norms, and what one of your own is written with; see `examples/extend.py`.

`Norm` is what a norm must know. Its arrays are canonical, `[*batch, taps, fan_in, fan_out]`, and these helpers take and
return such arrays: lengths and units that neither overflow nor underflow, singular values, the polar factor.
"""

from modula_optax._axes import Axes as Axes
from modula_optax._canonical import ATOM as ATOM
from modula_optax._canonical import Canonical as Canonical
from modula_optax._canonical import PerAtom as PerAtom
from modula_optax._canonical import inputs as inputs
from modula_optax._canonical import singular_values as singular_values
from modula_optax._canonical import spectral_gain as spectral_gain
from modula_optax._linalg import length as length
from modula_optax._linalg import unit as unit
from modula_optax._norms import RMS as RMS
from modula_optax._norms import Blocks as Blocks
from modula_optax._norms import Diagonal as Diagonal
from modula_optax._norms import Embedding as Embedding
from modula_optax._norms import Frobenius as Frobenius
from modula_optax._norms import Norm as Norm
from modula_optax._norms import RowL2 as RowL2
from modula_optax._norms import Sign as Sign
from modula_optax._norms import Spectral as Spectral
from modula_optax._norms import SpectralNormalized as SpectralNormalized
from modula_optax._norms import Unnormed as Unnormed
from modula_optax._norms import orthogonalized as orthogonalized
from modula_optax._polar import polar as polar
from modula_optax._power import leading_direction as leading_direction
from modula_optax._power import power_iteration as power_iteration
from modula_optax._serialize import register as register
