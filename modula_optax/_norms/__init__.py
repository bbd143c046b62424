"""The atomic norms: what each is, its dual, its steepest direction, its unit sphere.

Arrays here are canonical, `[*batch, taps, fan_in, fan_out]`, in float32 or float64; every index into the batch is
an atom. Paths, trees and half precision are the business of the files that follow.
"""

from modula_optax._norms._norm import Norm as Norm
from modula_optax._norms._orthogonal import orthogonalized as orthogonalized
from modula_optax._norms._matrices import Spectral as Spectral, SpectralNormalized as SpectralNormalized
from modula_optax._norms._matrices import Frobenius as Frobenius
from modula_optax._norms._rows import Embedding as Embedding, RowL2 as RowL2
from modula_optax._norms._entries import Sign as Sign, RMS as RMS, Diagonal as Diagonal, Unnormed as Unnormed
from modula_optax._norms._blockwise import Blocks as Blocks
