"""The transformations of this package, the parameters that they are tried on, and rules for these.

`WAYS` is the table that situations are claimed over: whoever adds a norm to `tests.cases` or a constraint to
`tests.trees` adds it to the tree that every way is tried on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import modula_optax as mo
from tests.cases import MATRIX_NORMS, VECTOR_NORMS, random_like
from tests.trees import CONSTRAINTS

REGISTRY = mo.NormRegistry(
    mo.Rule(r"embed", mo.Embedding()),
    mo.Rule(r".*/kernel", mo.Spectral(), constraint=mo.UnitSphere()),
    mo.Rule(r".*/bias", mo.Unnormed()),
    mo.Rule(r"gain", mo.Diagonal()),
)
FREE = mo.NormRegistry(mo.Rule(r"embed|.*/kernel", mo.Spectral()), default=mo.RMS())


def parameters(seed=0, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "embed": random_like(keys[0], (5, 4), dtype),
        "dense": {"kernel": random_like(keys[1], (4, 3), dtype), "bias": random_like(keys[2], (3,), dtype)},
        "gain": random_like(keys[3], (), dtype),
        "static": None,
    }


PARAMS = parameters()
GRADS = parameters(1)

# what inject_hyperparams and others make of a factory and its arguments
FACTORIES = {
    "dualize": (mo.dualize, {"specs": REGISTRY}),
    "modular": (mo.modular, {"learning_rate": 0.1, "specs": REGISTRY, "weight_decay": 0.1}),
    "whitened": (mo.whitened, {"learning_rate": 0.1, "specs": REGISTRY, "weight_decay": 0.1, "every": 2}),
    "scion": (mo.scion, {"learning_rate": 0.1, "specs": REGISTRY}),
    "scion, constrained": (mo.scion, {"learning_rate": 0.1, "specs": REGISTRY, "constrained": True}),
    "muon": (mo.muon, {"learning_rate": 0.1, "weight_decay": 0.1}),
    "keep_params_projected": (mo.keep_params_projected, {"specs": REGISTRY, "learning_rate": 0.1}),
    "scale_by_momentum": (mo.scale_by_momentum, {}),
    "scale_by_whitened_momentum": (mo.scale_by_whitened_momentum, {"specs": REGISTRY, "every": 2}),
    "scale_by_output_moments": (mo.scale_by_output_moments, {"specs": REGISTRY, "rms": 0.2}),
    "floor_relative_update": (mo.floor_relative_update, {"specs": REGISTRY, "per_output": 0.5}),
    "brake_growth": (mo.brake_growth, {"specs": REGISTRY}),
    "add_cautious_decay": (mo.add_cautious_decay, {"specs": REGISTRY}),
    "keep_lengths_fixed": (mo.keep_lengths_fixed, {}),
    "average_params": (mo.average_params, {}),
    "look_along_average": (mo.look_along_average, {}),
}
TRANSFORMATIONS = {name: factory(**arguments) for name, (factory, arguments) in FACTORIES.items()} | {
    "dualize_whitened": optax.chain(mo.dualize_whitened(REGISTRY, every=2), optax.scale_by_learning_rate(0.1)),
    "chain": optax.chain(
        optax.ema(0.95), mo.dualize(REGISTRY), optax.scale_by_learning_rate(0.1), mo.keep_params_projected(REGISTRY)
    ),
}


def assert_close(a, b, atol=5e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


SHAPE = (5, 4)
BLOCKS = mo.Blocks(mo.Spectral(), (3, 1))


def _norm_for(constraint):
    """The first norm that a constraint suits."""
    norms = (*MATRIX_NORMS, *VECTOR_NORMS)
    return next(norm for norm in norms if constraint.misfit(norm, (1, *SHAPE)) is None)


NORMED = {
    type(norm).__name__: mo.NormSpec(norm) for norm in (*MATRIX_NORMS, BLOCKS, mo.SpectralNormalized(), *VECTOR_NORMS)
} | {"rational": mo.NormSpec(mo.Spectral("rational"))}
HELD = {
    type(constraint).__name__: mo.NormSpec(_norm_for(constraint), constraint=constraint) for constraint in CONSTRAINTS
}


class Way(NamedTuple):
    """A way to use the package: new parameters, from parameters, gradients and a learning rate."""

    specs: dict[str, mo.NormSpec]
    call: Callable[[Any, Any, Any], Any]
    transformation: Callable[[Any], optax.GradientTransformation] | None = None

    def parameters(self, seed, dtype=jnp.float32):
        """One for each spec, made by NumPy so that nothing is compiled."""
        rng = np.random.default_rng(seed)
        return {name: jnp.asarray(rng.standard_normal(SHAPE), dtype) for name in self.specs}


def trained(specs: dict[str, mo.NormSpec], factory: Callable[[Any], optax.GradientTransformation]) -> Way:
    """One step."""

    def call(params, grads, rate):
        tx = factory(rate)
        updates, _ = tx.update(grads, tx.init(params), params)
        return optax.apply_updates(params, updates)

    return Way(specs, call, factory)


MATRICES = {"first": mo.NormSpec(mo.Spectral()), "second": mo.NormSpec(mo.Spectral())}
WAYS = {
    "dualize": trained(NORMED, lambda rate: optax.chain(mo.dualize(NORMED), optax.scale_by_learning_rate(rate))),
    "modular": trained(HELD, lambda rate: mo.modular(rate, HELD, weight_decay=0.1, fallback=optax.sgd(rate))),
    # every link that a chain of one's own may have, one after the other
    "whitened": trained(
        MATRICES,
        lambda rate: optax.chain(
            mo.scale_by_whitened_momentum(MATRICES, every=2, max_size=4),
            mo.whitened(rate, MATRICES, every=2, max_size=4, weight_decay=0.0, fallback=optax.sgd(rate)),
            mo.scale_by_output_moments(MATRICES),
            mo.floor_relative_update(MATRICES, 0.01),
            mo.add_cautious_decay(MATRICES),
            mo.brake_growth(MATRICES),
            mo.keep_lengths_fixed(),
            mo.average_params(),
            mo.look_along_average(),
        ),
    ),
    "scion": trained(NORMED, lambda rate: mo.scion(rate, NORMED, constrained=True, fallback=optax.sgd(rate))),
    "muon": trained(MATRICES, mo.muon),
    "muon, adaptive": trained(MATRICES, lambda rate: mo.muon(rate, adaptive=True)),
    "monitor": trained(NORMED, lambda rate: mo.monitor(NORMED, optax.sgd(rate))),
    "project": Way(HELD, lambda params, grads, rate: mo.project(optax.apply_updates(params, grads), HELD)),
    "initialize": Way(NORMED, lambda params, grads, rate: mo.initialize(jax.random.key(0), params, NORMED)),
}
