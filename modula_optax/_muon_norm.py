"""The norm whose dual map is Muon's: of complex matrices, too, and of coefficients and step counts that are traced."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from modula_optax._arguments import holds_specs, in_words
from modula_optax._axes import Axes
from modula_optax._bounds import resolve_scaling
from modula_optax._canonical import Canonical, spectral_gain
from modula_optax._checks import as_count, is_traced
from modula_optax._coefficients import COEFFICIENTS
from modula_optax._linalg import commuting_product, gram_matrix, matrix_polynomial, on_smaller_side
from modula_optax._norms import Spectral
from modula_optax._polar import polar_of_stack

_PRESETS = {"standard": COEFFICIENTS["muon"][0], "dion": COEFFICIENTS["five-step"]}


class MuonNorms(NamedTuple):
    """The norm of real matrices, and that of the real matrices which stand for complex ones."""

    real: Spectral
    embedded: Spectral

    def of(self, x: Any, axes: Axes) -> tuple[Spectral, Axes]:
        """Norm and axes of a parameter, whose own axes are counted from the front; as `real_shape` shows it."""
        if not _is_complex(x):
            return self.real, axes
        fan_in, fan_out = (tuple(i + 2 for i in named) for named in (axes.fan_in, axes.fan_out))
        return self.embedded, Axes((0, *fan_in), (1, *fan_out))


def muon_norms(ns_coeffs: Any, ns_steps: Any, preconditioning: str) -> MuonNorms:
    """Norms for Muon's arguments.

    Raises:
      ValueError: an unknown name, a number of steps below 1, or more triples than steps.
    """
    if isinstance(ns_coeffs, str):
        if ns_coeffs not in _PRESETS:
            raise ValueError(f"Unknown ns_coeffs {ns_coeffs!r}. Write 'standard', 'dion', or triples (a, b, c).")
        ns_coeffs = _PRESETS[ns_coeffs]
    if holds_specs(ns_coeffs):
        raise ValueError(
            "muon takes no specs, it finds matrices by their shapes; got some as ns_coeffs. "
            "Write mo.modular(0.05, specs)."
        )
    try:
        shape = np.shape(ns_coeffs)
    except ValueError:
        shape = ()
    if len(shape) not in (1, 2) or shape[-1:] != (3,):
        raise ValueError(
            "ns_coeffs must be 'standard', 'dion', a triple (a, b, c), or a sequence of triples; got "
            f"{in_words(ns_coeffs)}."
        )
    if len(shape) == 2:
        # several triples are one for each step
        if not is_traced(ns_steps) and len(ns_coeffs) > as_count("ns_steps", ns_steps):
            raise ValueError(f"{len(ns_coeffs)} triples in ns_coeffs need as many ns_steps; got ns_steps={ns_steps}.")
        triples, steps = ns_coeffs, len(ns_coeffs)
    else:
        triples, steps = (ns_coeffs,), ns_steps
    if any(map(is_traced, jax.tree.leaves((triples, steps)))):
        real = _Loop(scaling=preconditioning, triples=triples, count=steps)
    else:
        real = Spectral(triples, as_count("ns_steps", steps), preconditioning)
    return MuonNorms(real, _Loop(scaling=preconditioning, triples=triples, count=steps, copies=2))


@dataclasses.dataclass(frozen=True, eq=False)
class _Loop(Spectral):
    """`Spectral` by a loop over what may be traced; equal to itself alone, since traced values cannot be compared."""

    triples: Any = None
    count: Any = None
    copies: int = 1

    __repr__ = object.__repr__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __post_init__(self) -> None:
        # refuses an unknown name
        resolve_scaling(self.scaling, self.coefficients)

    def dualize(self, g: Canonical) -> Canonical:
        triples: Any = jnp.asarray(self.triples, g.dtype).reshape(-1, 3)

        def step(i: Any, x: Canonical) -> Canonical:
            a, b, c = triples[jnp.minimum(i, len(triples) - 1)]
            gram = gram_matrix(x)
            return on_smaller_side(matrix_polynomial((a, b, c), gram, commuting_product(gram, gram)), x)

        # the polynomial that changes nothing leaves what goes before all others: division by a bound
        bounded = polar_of_stack(((1.0, 0.0, 0.0),), None, self.scaling, None)(g)
        # which sees every number as often as there are copies
        bounded = self.copies ** _POWER.get(self.scaling, 0.0) * bounded
        if not is_traced(self.count):
            return spectral_gain(g) * jax.lax.fori_loop(0, self.count, step, bounded)

        # a loop of unknown length has no derivative backwards: steps that are not taken are passed over
        def perhaps(x: Canonical, i: Any) -> tuple[Canonical, None]:
            return jax.lax.cond(i < self.count, step, lambda i, x: x, i, x), None

        return spectral_gain(g) * jax.lax.scan(perhaps, bounded, jnp.arange(MOST_STEPS))[0]


# how many steps of a traced number are taken at the most
MOST_STEPS = 64


# how a bound grows with the number of copies of a matrix on the diagonal of a larger one
_POWER: dict[str | None, float] = {"frobenius": 1 / 2, "schatten": 1 / 4}


def copies(norm: Any) -> int:
    """How many times the real matrices of a norm hold every number of a parameter."""
    return norm.copies if isinstance(norm, _Loop) else 1


def on_real_matrices(link: optax.GradientTransformation) -> optax.GradientTransformation:
    """A transformation of real matrices, of complex ones as well.

    A + iB goes as [[A, -B], [B, A]]: sums and products of such matrices are those of complex ones, so that a
    polynomial, and with it the polar factor, is, too.
    """

    def init(params: optax.Params) -> optax.OptState:
        return link.init(jax.tree.map(real_shape, params))

    def update(updates: optax.Updates, state: optax.OptState, params: Any = None):
        # directions of matrices alone need no parameters, which would be complex
        del params
        changed, state = link.update(jax.tree.map(_to_real, updates), state)
        return jax.tree.map(_from_real, changed, updates), state

    return optax.GradientTransformation(init, update)


def real_shape(x: Any) -> Any:
    """The array itself, or the shape of the real one that stands for it."""
    if not _is_complex(x):
        return x
    return jax.ShapeDtypeStruct((2, 2, *x.shape), jnp.finfo(x.dtype).dtype)


def _to_real(x: Array) -> Array:
    if not _is_complex(x):
        return x
    return jnp.stack([jnp.stack([x.real, -x.imag]), jnp.stack([x.imag, x.real])])


def _from_real(x: Array, like: Array) -> Array:
    return jax.lax.complex(x[0, 0], x[1, 0]) if _is_complex(like) else x


def _is_complex(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.complexfloating)
