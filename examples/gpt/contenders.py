"""The optimizers that are compared: each as its best user would set it up."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

import modula_optax as mo
from gpt.model import GPT, predict

# The best of 0.05, 0.075, 0.1 (modular, seed 3), of 0.02, 0.03, 0.045, 0.07 (muon, seed 0; 0.1 is worse on the mean of
# seeds 0, 1 and 3) and of 0.0035, 0.007, 0.01, 0.015 (adamw, seed 0), by the validation loss after the 300 default
# steps; whitened has the rate of modular. All start from Flax's own initialization.
LEARNING_RATES = {"modular": 0.1, "whitened": 0.1, "muon": 0.07, "adamw": 0.01}

# For so few steps short averages are better: 0.035 nats for Muon, against its 0.95; and the default of modular.
B1, ADAM_B2 = 0.9, 0.95


def norms(model: GPT, params: optax.Params) -> Any:
    """The norm of every parameter, read off the model's own computation: no rule is written by hand."""
    return mo.infer_specs(partial(predict, model), params, jax.ShapeDtypeStruct((2, 8), jnp.int32))


def start_modular(model: GPT, params: optax.Params, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Modular duality: the learning rate is how far each parameter moves, in its own norm; with a monitor around it."""
    specs = norms(model, params)
    return mo.monitor(specs, mo.modular(learning_rate, specs))


def start_whitened(model: GPT, params: optax.Params, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """The same in a metric that is learned from the gradients; see `docs/choose/whitening.md` for when."""
    specs = norms(model, params)
    return mo.monitor(specs, mo.whitened(learning_rate, specs))


def start_muon(model: GPT, params: optax.Params, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Optax's Muon for the matrices of the blocks; its Adam for embedding, head and gains, at half the rate."""
    del model, params
    return optax.contrib.muon(
        learning_rate,
        beta=B1,
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


def start_adamw(model: GPT, params: optax.Params, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """AdamW for everything."""
    del model, params
    return optax.adamw(learning_rate, b1=B1, b2=ADAM_B2)


CONTENDERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "modular": start_modular,
    "muon": start_muon,
    "adamw": start_adamw,
    "whitened": start_whitened,
}

# those of `--optimizer all`
COMPARED = ("modular", "muon", "adamw")


# what reads the monitor of an optimizer, for those that have one
READERS = {"modular": mo.read_monitor, "whitened": mo.read_monitor}


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
    params = model.init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))
    return params, CONTENDERS[name](model, params, schedule(learning_rate, steps))


def schedule(peak: float, steps: int) -> optax.Schedule:
    """Learning rate over the steps: up for the first tenth, which AdamW needs, then linearly down to zero."""
    warmup = max(1, steps // 10)
    rise = optax.linear_schedule(peak / warmup, peak, warmup)
    fall = optax.linear_schedule(peak, 0.0, max(1, steps - warmup))
    return optax.join_schedules([rise, fall], [warmup])
