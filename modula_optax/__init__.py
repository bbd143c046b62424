"""Modular duality for any JAX model, as ordinary Optax gradient transformations."""

from modula_optax._coefficients import polar_express as polar_express
from modula_optax._polar import polar as polar
from modula_optax._axes import Axes as Axes
from modula_optax._norms import Norm as Norm
from modula_optax._norms import Spectral as Spectral
from modula_optax._norms import Frobenius as Frobenius
from modula_optax._norms import Embedding as Embedding
from modula_optax._norms import RowL2 as RowL2
from modula_optax._norms import Sign as Sign
from modula_optax._norms import RMS as RMS
from modula_optax._norms import Diagonal as Diagonal
from modula_optax._norms import Unnormed as Unnormed
from modula_optax._constraints import Constraint as Constraint
from modula_optax._constraints import UnitSphere as UnitSphere
from modula_optax._specs import NormSpec as NormSpec
from modula_optax._specs import tare as tare
from modula_optax._registry import NormRegistry as NormRegistry
from modula_optax._registry import Rule as Rule
from modula_optax._infer import infer_specs as infer_specs
from modula_optax._modular_norm import dual_norm as dual_norm
from modula_optax._modular_norm import leaf_norms as leaf_norms
from modula_optax._modular_norm import modular_norm as modular_norm
from modula_optax._dualize import dualize as dualize
from modula_optax._project import keep_params_projected as keep_params_projected
from modula_optax._project import project as project
from modula_optax._initialize import initialize as initialize
from modula_optax._momentum import scale_by_momentum as scale_by_momentum
from modula_optax._optimizers import modular as modular
from modula_optax._optimizers import scion as scion
from modula_optax._muon import muon as muon
from modula_optax._report import summarize as summarize
from modula_optax._serialize import specs_from_json as specs_from_json
from modula_optax._serialize import specs_to_json as specs_to_json

__version__ = "0.1.0"
