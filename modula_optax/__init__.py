"""Modular duality for any JAX model, as ordinary Optax gradient transformations.

    specs = mo.infer_specs(apply_fn, params, *example_inputs)   # the norm of every parameter, read off the model
    tx = mo.modular(0.05, specs)                                # steepest descent under these norms

Optimizers: `modular`, `whitened`, `muon`, `scion`.

Links of a chain: `scale_by_momentum`, `scale_by_whitened_momentum`, `look_along_average`, `dualize`,
`dualize_whitened`, `scale_by_output_moments`, `floor_relative_update`, `add_cautious_decay`, `brake_growth`,
`keep_lengths_fixed`, `average_params`, `keep_params_projected`; and, outside of one, `project`, `averaged_params`,
`params_behind`, `ParamsAverageState`.

Specs: `infer_specs`, `NormRegistry` of `Rule`, `NormSpec`, `Axes`; `tare`, `summarize`, `specs_to_json`,
`specs_from_json`; `register_primitive` for kernels of your own.

Norms: `Spectral`, `Embedding`, `RowL2`, `Sign`, `RMS`, `Diagonal`, `Frobenius`, `SpectralNormalized`, `Blocks`,
`Unnormed`; of your own: `Norm` and the helpers in `norms`. What they are made of: `polar`, `polar_express`.

Constraints: `UnitSphere`, `Orthogonal`, `UnitRows`, `NormBall`, `SpectralCap`, `SoftCap`, `SpectralNormalize`,
`Hammer`, `SpectralSphere`, `SpectralDecay`, `Regularize`, `Hypersphere`, `FixedNorm`, `Stiefel`; of your own:
`Constraint`, `Manifold`, `Step`, and the helpers in `constraints`.

Measuring: `modular_norm`, `dual_norm`, `leaf_norms`, `initialize`, `monitor`, `read_monitor`, `plot_norms`,
`lipschitz_bound`.
"""

from modula_optax import constraints as constraints, norms as norms
from modula_optax._coefficients import polar_express as polar_express
from modula_optax._polar import polar as polar
from modula_optax._axes import Axes as Axes
from modula_optax._norms import Norm as Norm, Spectral as Spectral, SpectralNormalized as SpectralNormalized
from modula_optax._norms import Frobenius as Frobenius, Embedding as Embedding, RowL2 as RowL2, Sign as Sign, RMS as RMS
from modula_optax._norms import Diagonal as Diagonal, Unnormed as Unnormed, Blocks as Blocks
from modula_optax._constraints import Constraint as Constraint, Manifold as Manifold, Step as Step
from modula_optax._constraints import UnitSphere as UnitSphere, UnitRows as UnitRows, Orthogonal as Orthogonal
from modula_optax._constraints import NormBall as NormBall, SpectralNormalize as SpectralNormalize
from modula_optax._constraints import SpectralCap as SpectralCap, SoftCap as SoftCap, Hammer as Hammer
from modula_optax._constraints import SpectralDecay as SpectralDecay, Regularize as Regularize
from modula_optax._constraints import Hypersphere as Hypersphere, FixedNorm as FixedNorm, Stiefel as Stiefel
from modula_optax._constraints import SpectralSphere as SpectralSphere
from modula_optax._specs import NormSpec as NormSpec, tare as tare
from modula_optax._registry import NormRegistry as NormRegistry, Rule as Rule
from modula_optax._infer import infer_specs as infer_specs
from modula_optax._jaxpr import register_primitive as register_primitive
from modula_optax._modular_norm import dual_norm as dual_norm, leaf_norms as leaf_norms, modular_norm as modular_norm
from modula_optax._dualize import dualize as dualize
from modula_optax._project import keep_params_projected as keep_params_projected, project as project
from modula_optax._initialize import initialize as initialize
from modula_optax._momentum import scale_by_momentum as scale_by_momentum
from modula_optax._whiten import scale_by_whitened_momentum as scale_by_whitened_momentum
from modula_optax._dualize_whitened import dualize_whitened as dualize_whitened
from modula_optax._per_output import scale_by_output_moments as scale_by_output_moments
from modula_optax._size import floor_relative_update as floor_relative_update, add_cautious_decay as add_cautious_decay
from modula_optax._size import brake_growth as brake_growth, keep_lengths_fixed as keep_lengths_fixed
from modula_optax._averages import average_params as average_params, averaged_params as averaged_params
from modula_optax._averages import look_along_average as look_along_average, params_behind as params_behind
from modula_optax._averages import ParamsAverageState as ParamsAverageState
from modula_optax._optimizers import modular as modular, whitened as whitened, scion as scion
from modula_optax._muon import muon as muon
from modula_optax._monitor import monitor as monitor, read_monitor as read_monitor
from modula_optax._plot import plot_norms as plot_norms
from modula_optax._lipschitz import lipschitz_bound as lipschitz_bound
from modula_optax._report import summarize as summarize
from modula_optax._serialize import specs_from_json as specs_from_json, specs_to_json as specs_to_json

# what was imported above, each name written once, and nothing that an import hook of others puts here
__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    name
    for name, value in globals().items()
    if not name.startswith("_") and getattr(value, "__module__", value.__name__).startswith(__name__)
]
__version__ = "0.2.0"
