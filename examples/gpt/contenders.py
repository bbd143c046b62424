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

# The best of 0.035, 0.05, 0.075 (modular), 0.02, 0.03, 0.045, 0.07 (muon), 0.0035, 0.007, 0.01, 0.015 (adamw), by the
# validation loss after the 300 default steps with seed 0. Muon and AdamW start from Flax's own initialization, which
# suited AdamW better than weights of norm one; all masses are one, and nothing but the head's norm was chosen by trial.
LEARNING_RATES = {"modular": 0.05, "muon": 0.07, "adamw": 0.01}

# better than 0.999 for so few steps
ADAM_B2 = 0.95


def norms() -> mo.NormRegistry:
    """The norm of every parameter, by what it does: the only thing that modular duality asks of a model."""
    return mo.NormRegistry(
        mo.Rule(r".*/embedding", mo.Embedding()),
        # kernels of the projections to and from the heads have three axes
        mo.Rule(r".*/(query|key|value)/kernel", mo.Spectral(), axes=mo.Axes(fan_in=0, fan_out=(1, 2))),
        mo.Rule(r".*/out/kernel", mo.Spectral(), axes=mo.Axes(fan_in=(0, 1), fan_out=2)),
        mo.Rule(r".*/(up|down)/kernel", mo.Spectral()),
        # every byte's logit gets a step of its own; 0.02 nats better here than one spectral step for all
        mo.Rule(r".*/head/kernel", mo.RowL2()),
        mo.Rule(r".*/scale", mo.Diagonal()),
    )


def start_modular(params: optax.Params, learning_rate: optax.Schedule, key: PRNGKeyArray):
    """Modular duality: weights of norm one, and steps whose norm is the learning rate."""
    specs = norms().resolve(params)
    return mo.initialize(key, params, specs), mo.modular(learning_rate, specs)


def start_muon(params: optax.Params, learning_rate: optax.Schedule, key: PRNGKeyArray):
    """Optax's Muon for the matrices of the blocks; its Adam for embedding, head and gains, at half the rate."""
    del key
    return params, optax.contrib.muon(
        learning_rate,
        muon_weight_dimension_numbers=muon_dimension_numbers,
        adam_learning_rate=lambda step: 0.5 * learning_rate(step),
        adam_b2=ADAM_B2,
    )


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
    return params, optax.adamw(learning_rate, b2=ADAM_B2)


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
      learning_rate: the highest of the schedule.
      steps: how many there will be.
      seed: of the weights.

    Returns:
      The parameters and the transformation.
    """
    key = jax.random.key(seed)
    params = model.init(key, jnp.zeros((1, 1), jnp.int32))
    return CONTENDERS[name](params, schedule(learning_rate, steps), key)


def schedule(peak: float, steps: int) -> optax.Schedule:
    """Learning rate over the steps: up for the first tenth, which AdamW needs, then linearly down to zero."""
    warmup = max(1, steps // 10)
    rise = optax.linear_schedule(peak / warmup, peak, warmup)
    fall = optax.linear_schedule(peak, 0.0, max(1, steps - warmup))
    return optax.join_schedules([rise, fall], [warmup])
