"""Random trees of parameters, and the specs that may go with them; what fits what is said here a second time."""

import dataclasses
import math
from typing import NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax

import modula_optax as mo

# few of them, so that what is compiled for one tree serves the next
SHAPES = (
    *((), (3,), (1,), (2, 3), (3, 2), (4, 1), (1, 1)),
    *((2, 2, 3), (2, 1, 2, 3), (1, 2, 2, 1, 3)),
)
EMPTY_SHAPES = ((0,), (0, 3), (2, 0, 3))
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64)
OTHER_DTYPES = (jnp.int32, jnp.bool_, jnp.complex64)

MATRIX_NORMS = (
    *(mo.Spectral(), mo.Spectral("six-step"), mo.SpectralNormalized(), mo.Frobenius()),
    *(mo.Embedding(), mo.RowL2(), mo.Sign()),
)
VECTOR_NORMS = (mo.RMS(), mo.Diagonal())
NORMS = (*MATRIX_NORMS, *VECTOR_NORMS, mo.Unnormed())
# what `project` puts any weights back to, under every norm
SETS = (mo.UnitSphere(), mo.NormBall(0.5), mo.UnitRows())
CONSTRAINTS = (
    *(*SETS, mo.Orthogonal(), mo.SpectralCap(0.5), mo.SoftCap(0.5), mo.SpectralNormalize(0.5), mo.Hammer(2.0)),
    *(
        mo.SpectralDecay(0.1),
        mo.Regularize(0.1),
        mo.Hypersphere(2.0),
        mo.FixedNorm(),
        mo.Stiefel(),
        mo.SpectralSphere(2.0),
    ),
)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A leaf of a tree that is not yet one of arrays."""

    shape: tuple[int, ...]
    dtype: type
    spec: mo.NormSpec

    @property
    def fits(self) -> bool:
        """Whether the spec, but for its constraint, can be that of such an array."""
        if isinstance(self.spec.norm, mo.Unnormed):
            return self.spec.constraint is None
        if self.dtype not in DTYPES or 0 in self.shape:
            return False
        ndim, axes = len(self.shape), self.spec.axes
        if axes is None:
            return ndim >= 2 or self.spec.norm in VECTOR_NORMS
        named = [*axes.fan_in, *axes.fan_out, *axes.taps]
        if any(not -ndim <= i < ndim for i in named) or len({i % ndim for i in named}) < len(named):
            return False
        fan_out = math.prod(self.shape[i] for i in axes.fan_out)
        return (ndim == 0 or bool(axes.fan_in + axes.fan_out)) and fan_out % axes.groups == 0


class Pair(NamedTuple):
    left: object
    right: object


@st.composite
def fitting_parameters(draw, constraints=(None,)):
    """Parameters whose spec fits."""
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES))
    norms = [norm for norm in NORMS if len(shape) >= 2 or norm not in MATRIX_NORMS]
    norm = draw(st.sampled_from(norms))
    constraint = None if isinstance(norm, mo.Unnormed) else draw(st.sampled_from(constraints))
    axes = draw(st.none() | _fitting_axes(shape)) if shape else None
    return Parameter(shape, dtype, mo.NormSpec(norm, axes, draw(_masses), draw(_sensitivities), constraint))


_masses = st.sampled_from((1.0, 1.0, 0.5, 3.0, 0.0))
_sensitivities = st.sampled_from((1.0, 2.0))


@st.composite
def _fitting_axes(draw, shape):
    order = draw(st.permutations(range(len(shape))))
    cuts = sorted(draw(st.tuples(*[st.integers(0, len(shape) - 1)] * 2)))
    # the last part, fan-out, is never empty
    taps, fan_in, fan_out = order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :]
    batch = draw(st.integers(0, len(taps)))
    size = math.prod(shape[i] for i in fan_out)
    groups = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    return mo.Axes(fan_in, fan_out, taps[batch:], groups)


@st.composite
def any_parameters(draw):
    """Parameters that their spec may not fit."""
    shape = draw(st.sampled_from(SHAPES + EMPTY_SHAPES))
    dtype = draw(st.sampled_from(DTYPES + OTHER_DTYPES))
    axes = draw(st.none() | _any_axes())
    constraint = draw(st.none() | st.sampled_from(CONSTRAINTS))
    return Parameter(shape, dtype, mo.NormSpec(draw(st.sampled_from(NORMS)), axes, constraint=constraint))


@st.composite
def _any_axes(draw):
    named = draw(st.lists(st.integers(-3, 3), unique=True, max_size=4))
    cuts = sorted(draw(st.tuples(*[st.integers(0, len(named))] * 2)))
    return mo.Axes(named[cuts[0] : cuts[1]], named[cuts[1] :], named[: cuts[0]], draw(st.integers(1, 3)))


# "value" and slashes are what frameworks add; "a/b" may be the path of another parameter, too
KEYS = ("kernel", "bias", "value", "0", "a", "b", "a/b", "/a")


def trees(parameters, keys=KEYS[:6]):
    """Nested trees of parameters, with holes of every kind."""
    absent = st.sampled_from((None, optax.MaskedNode(), {}, [], ()))

    def nested(children):
        return (
            st.dictionaries(st.sampled_from(keys), children, max_size=4)
            | st.lists(children, max_size=3)
            | st.tuples(children, children)
            | st.builds(Pair, children, children)
        )

    return st.recursive(parameters | absent, nested, max_leaves=6)


def specs_of(tree):
    return jax.tree.map(lambda parameter: parameter.spec, tree)


def shapes_of(tree):
    return jax.tree.map(lambda parameter: jax.ShapeDtypeStruct(parameter.shape, parameter.dtype), tree)


def arrays_of(tree, seed):
    """Normal numbers, made by NumPy so that nothing is compiled."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape).astype(p.dtype)), tree)
