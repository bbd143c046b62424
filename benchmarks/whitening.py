"""What a learned metric is worth: a byte-level GPT under momentum, and under whitened momentum of several kinds.

    python benchmarks/whitening.py                            # all of them, seed 0: half an hour on two cores
    python benchmarks/whitening.py momentum whitened --seeds 0 1
    python benchmarks/whitening.py momentum whitened --batch 64

Everything but the first link is the same: the norms and masses of the recipe, its decay, one learning rate. Runs are
kept in `benchmarks/results/whitening.jsonl`, a line for each; what is there is not trained again.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from sweeps.problem import TASKS, Problem
from sweeps.run import Setting

import modula_optax as mo

RESULTS = Path(__file__).parent / "results" / "whitening.jsonl"
RATE, WARM_UP, DECAY, B1 = 0.042, 0.05, 0.03, 0.9
MASSES = {"head": 8.0, "embedding": 1.0, "gain": 0.1, "hidden": 1.0}

whitened = mo.scale_by_whitened_momentum
LINKS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "momentum": lambda specs: mo.scale_by_momentum(B1),
    "whitened": lambda specs: whitened(specs, B1, eps=1e-6),
    "eps 1e-8": lambda specs: whitened(specs, B1, eps=1e-8),
    "b2 .95": lambda specs: whitened(specs, B1, eps=1e-6, b2=0.95),
    "every 2, b2 .95": lambda specs: whitened(specs, B1, eps=1e-6, b2=0.95, every=2),
    "shorter side only": lambda specs: whitened(specs, B1, eps=1e-6, max_size=64),
    "no side: entry by entry": lambda specs: whitened(specs, B1, eps=1e-6, max_size=1),
}


def specs_of(problem: Problem) -> Any:
    """The recipe's norms and masses; a matrix that narrows by r has sqrt(r)."""
    params = jax.eval_shape(problem.init, jax.random.key(0))
    specs = mo.infer_specs(problem.predict, params, problem.inputs, head=mo.RowL2(), masses=MASSES)

    def recipe(spec: mo.NormSpec, leaf: Any) -> mo.NormSpec:
        if not is_hidden(spec):
            return spec
        axes = spec.axes or mo.Axes()
        fan_in, fan_out = (math.prod(leaf.shape[i] for i in fan) for fan in (axes.fan_in, axes.fan_out))
        return dataclasses.replace(spec, mass=math.sqrt(max(1.0, fan_in / fan_out)))

    return jax.tree.map(recipe, specs, params)


def is_hidden(spec: mo.NormSpec) -> bool:
    """Whether it is a hidden matrix, which is what decays."""
    return spec.role == "linear" and spec.place == "hidden"


def train(name: str, setting: Setting, seed: int) -> list[float]:
    """Validation losses, ten of them."""
    problem = TASKS["gpt"](setting)
    specs, rise = specs_of(problem), round(WARM_UP * setting.steps)
    rate = optax.join_schedules(
        [optax.linear_schedule(RATE / rise, RATE, rise), optax.linear_schedule(RATE, 0.0, setting.steps - rise)], [rise]
    )
    tx = optax.chain(
        LINKS[name](specs),
        mo.dualize(specs),
        optax.add_decayed_weights(DECAY, jax.tree.map(is_hidden, specs)),
        optax.scale_by_learning_rate(rate),
    )

    def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        updates, state = tx.update(jax.grad(problem.loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = problem.init(jax.random.key(seed))
    carry, losses = (params, tx.init(params)), []
    many, evaluate = jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches)[0]), jax.jit(problem.loss)
    every = setting.steps // 10
    for start in range(0, setting.steps, every):
        carry = many(carry, jnp.stack([problem.batch(seed, i) for i in range(start, start + every)]))
        losses.append(round(float(evaluate(carry[0], problem.held_out)), 4))
    return losses


def main() -> None:
    """Trains what is asked for and not there yet, and prints the last losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("links", nargs="*", metavar="link", help=", ".join(LINKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16, help="sequences of 64 bytes (16)")
    arguments = parser.parse_args()
    done = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for name in arguments.links or LINKS:
        for seed in arguments.seeds:
            run = {"link": name, "steps": arguments.steps, "batch": arguments.batch, "seed": seed}
            found = next((line["losses"] for line in done if {key: line[key] for key in run} == run), None)
            losses = found or train(name, Setting(64, 4, arguments.steps, arguments.batch), seed)
            if found is None:
                with RESULTS.open("a") as file:
                    file.write(json.dumps(run | {"losses": losses}) + "\n")
            print(f"{name}, seed {seed}: {losses[-1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
