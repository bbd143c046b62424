"""The transformations of this package, the parameters that they are tried on, and rules for these."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import modula_optax as mo
from tests.cases import random_like

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

# the aliases, and the dual map alone: what inject_hyperparams and others make of a factory and its arguments
FACTORIES = {
    "dualize": (mo.dualize, {"specs": REGISTRY}),
    "modular": (mo.modular, {"learning_rate": 0.1, "specs": REGISTRY, "weight_decay": 0.1}),
    "whitened": (mo.whitened, {"learning_rate": 0.1, "specs": REGISTRY, "weight_decay": 0.1, "every": 2}),
    "scion": (mo.scion, {"learning_rate": 0.1, "specs": REGISTRY}),
    "scion, constrained": (mo.scion, {"learning_rate": 0.1, "specs": REGISTRY, "constrained": True}),
    "muon": (mo.muon, {"learning_rate": 0.1, "weight_decay": 0.1}),
}
TRANSFORMATIONS = {name: factory(**arguments) for name, (factory, arguments) in FACTORIES.items()} | {
    "keep_params_projected": mo.keep_params_projected(REGISTRY),
    "scale_by_momentum": mo.scale_by_momentum(),
    "scale_by_whitened_momentum": mo.scale_by_whitened_momentum(REGISTRY, every=1),
    "scale_by_output_moments": mo.scale_by_output_moments(REGISTRY),
    "floor_relative_update": mo.floor_relative_update(REGISTRY, per_output=0.5),
    "brake_growth": mo.brake_growth(REGISTRY),
    "add_cautious_decay": mo.add_cautious_decay(REGISTRY),
    "keep_lengths_fixed": mo.keep_lengths_fixed(),
    "average_params": mo.average_params(),
    "look_along_average": mo.look_along_average(),
    "chain": optax.chain(
        optax.ema(0.95), mo.dualize(REGISTRY), optax.scale_by_learning_rate(0.1), mo.keep_params_projected(REGISTRY)
    ),
}


def assert_close(a, b, atol=5e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)
