"""The optimizers that are compared: each as its best user would set it up."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray
from optax.contrib import MuonDimensionNumbers

import modula_optax as mo
from gpt.model import GPT

# filled in after tuning
LEARNING_RATES = {"modular": 0.04, "muon": 0.02, "adamw": 0.005}


def norms() -> mo.NormRegistry:
    """The norm of every parameter, by what it does: the only thing that modular duality asks of a model."""
    return mo.NormRegistry(
        mo.Rule(r".*/embedding", mo.Embedding()),
        # kernels of the projections to and from the heads have three axes
        mo.Rule(r".*/(query|key|value)/kernel", mo.Spectral(), axes=mo.Axes(fan_in=0, fan_out=(1, 2))),
        mo.Rule(r".*/out/kernel", mo.Spectral(), axes=mo.Axes(fan_in=(0, 1), fan_out=2)),
        mo.Rule(r".*/kernel", mo.Spectral()),
        mo.Rule(r".*/scale", mo.Diagonal()),
    )


def start_modular(params: optax.Params, learning_rate: optax.Schedule, key: PRNGKeyArray):
    """Modular duality: weights of norm one, and steps whose norm is the learning rate."""
    specs = norms().resolve(params)
    return mo.initialize(key, params, specs), mo.modular(learning_rate, specs)


def start_muon(params: optax.Params, learning_rate: optax.Schedule, key: PRNGKeyArray):
    """Optax's Muon for the matrices of the blocks; its Adam for embedding, head and gains."""
    del key
    return params, optax.contrib.muon(learning_rate, muon_weight_dimension_numbers=muon_dimension_numbers)


def muon_dimension_numbers(params: optax.Params) -> Any:
    """Which axes of a kernel are inputs and outputs; `None` for what goes to Adam."""

    def numbers(path: jax.tree_util.KeyPath, _: jax.Array) -> MuonDimensionNumbers | None:
        match [entry.key for entry in path]:
            case [*_, "query" | "key" | "value", "kernel"]:
                return MuonDimensionNumbers(reduction_axis=0, output_axis=(1, 2))
            case [*_, "out", "kernel"]:
                return MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=2)
            case [*_, "up" | "down", "kernel"]:
                return MuonDimensionNumbers(reduction_axis=0, output_axis=1)
            case _:
                return None

    return jax.tree_util.tree_map_with_path(numbers, params)


def start_adamw(params: optax.Params, learning_rate: optax.Schedule, key: PRNGKeyArray):
    """AdamW for everything."""
    del key
    return params, optax.adamw(learning_rate)


CONTENDERS: dict[str, Callable[..., tuple[optax.Params, optax.GradientTransformation]]] = {
    "modular": start_modular,
    "muon": start_muon,
    "adamw": start_adamw,
}


def start(
    name: str, model: GPT, learning_rate: float, steps: int, seed: int
) -> tuple[optax.Params, optax.GradientTransformation]:
    """Initial parameters and optimizer of a run.

    Args:
      name: a key of `CONTENDERS`.
      model: the network, which is the same for all.
      learning_rate: of the first step; it falls linearly to zero.
      steps: how many there will be.
      seed: of the weights.

    Returns:
      The parameters and the transformation.
    """
    key = jax.random.key(seed)
    params = model.init(key, jnp.zeros((1, 1), jnp.int32))
    return CONTENDERS[name](params, optax.linear_schedule(learning_rate, 0.0, steps), key)
