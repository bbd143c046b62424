"""A whole training run as one compiled program, the tuned numbers among its arguments."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import modula_optax as mo
from sweeps.entrants import PANEL, warmed_up
from sweeps.panel import TASKS, Task
from sweeps.run import Curve, Hyper, Run, Setting


@cache
def task_of(setting: Setting, data: Path | None) -> Task:
    """The network and the data of a setting."""
    return TASKS[setting.task](setting, data)


@cache
def specs_of(setting: Setting, contender: str, data: Path | None) -> Any:
    """What the norm of each parameter is under a contender; inferred by the defaults for those without norms."""
    task = task_of(setting, data)
    params = jax.eval_shape(task.network.init, jax.random.key(0))
    inputs = task.held_out[0][:2]
    return PANEL[contender].specs(task.network.predict, params, jax.ShapeDtypeStruct(inputs.shape, inputs.dtype))


def norms_of(setting: Setting, contender: str, data: Path | None) -> str:
    """Text of norms, axes and targets, which make two contenders of one name different; empty for those without."""
    if not PANEL[contender].has_norms:
        return ""
    flat, _ = jax.tree_util.tree_flatten_with_path(specs_of(setting, contender, data))
    return "\n".join(
        f"{jax.tree_util.keystr(path)} {type(spec.norm).__name__} {spec.axes} {spec.target:.6g}" for path, spec in flat
    )


@cache
def compiled(setting: Setting, contender: str, data: Path | None) -> Any:
    """The program of a run: validation losses from numbers, initial weights, data and what is drawn of them."""
    task, specs = task_of(setting, data), specs_of(setting, contender, data)

    def train(hyper: Hyper, params: Any, data: Any, drawn: Any, held_out: Any) -> jax.Array:
        tx = PANEL[contender].transform(warmed_up(hyper.learning_rate, setting.steps), hyper, specs)

        def step(carry: Any, row: Any) -> tuple[Any, None]:
            params, state = carry
            grads = jax.grad(task.loss)(params, task.batch(data, row))
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        def stretch(carry: Any, rows: Any) -> tuple[Any, jax.Array]:
            carry, _ = jax.lax.scan(step, carry, rows)
            return carry, task.loss(carry[0], held_out)

        rows = jax.tree.map(lambda x: x.reshape(setting.evaluations, -1, *x.shape[1:]), drawn)
        return jax.lax.scan(stretch, (params, tx.init(params)), rows)[1]

    return jax.jit(train)


def arguments_of(run: Run, data: Path | None) -> tuple[Any, ...]:
    """What the program of a run is called with."""
    setting, task = run.setting, task_of(run.setting, data)
    params = task.network.init(jax.random.key(run.seed))
    if PANEL[run.optimizer].start_at_norm_one:
        params = mo.initialize(jax.random.key(run.seed), params, specs_of(setting, run.optimizer, data))
    return jax.tree.map(jnp.float32, run.hyper), params, task.data, task.draw(run.seed, setting.steps), task.held_out


def train(run: Run, data: Path | None) -> Curve:
    """Trains, and gives the validation loss at intervals; infinite from where it is no number any more."""
    setting = run.setting
    losses = compiled(setting, run.optimizer, data)(*arguments_of(run, data))
    every = setting.steps // setting.evaluations
    finite = [float(loss) if math.isfinite(loss) else math.inf for loss in losses]
    return Curve([every * (i + 1) for i in range(setting.evaluations)], finite)
