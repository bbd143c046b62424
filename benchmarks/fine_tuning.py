"""At which rate a pretrained network is trained further: one GPT on addresses, then on Python's own standard library.

    python benchmarks/fine_tuning.py               # six minutes on one core, results to benchmarks/results/
    python benchmarks/fine_tuning.py --steps 20    # quickly, to see that it runs

A byte-level GPT of width 64 and depth 4 first learns State of the Union addresses, then some hundred steps of another
text, here the source of Python's standard library. Of every learning rate of a grid come the loss on the new text and
that on the old one, before and after: what was gained, and what was forgotten.
"""

import argparse
import json
import statistics
import sysconfig
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measure import machine
from sweeps.entrants import warmed_up
from sweeps.networks import GPT
from sweeps.panel import text

import modula_optax as mo

RESULTS = Path(__file__).parent / "results" / "fine_tuning.json"
NETWORK = GPT(width=64, depth=4)
BATCH, CONTEXT, HELD_OUT = 16, 64, 256
PRETRAINING = 0.063  # the learning rate that the panel found
GRIDS = {
    "mo.modular": (0.002, 0.004, 0.008, 0.016, 0.032, 0.063),
    "optax.adamw": (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016),
}
Optimizer = Callable[[optax.Schedule], optax.GradientTransformation]


def standard_library(characters: int = 4_000_000) -> np.ndarray:
    """Bytes of the modules that come with Python, in the order of their names."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return np.frombuffer(b"".join(file.read_bytes() for file in files)[:characters], np.uint8)


def split(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All but the last tenth, and that."""
    cut = len(data) // 10 * 9
    return data[:cut], data[cut:]


def drawn(data: np.ndarray, seed: int, *shape: int) -> jax.Array:
    """Sequences from random places of a text, with the byte that follows each."""
    starts = np.random.default_rng(seed).integers(len(data) - CONTEXT - 1, size=shape)
    return jnp.asarray(data[starts[..., None] + np.arange(CONTEXT + 1)], jnp.int32)


def loss(params: Any, batch: jax.Array) -> jax.Array:
    """Mean cross-entropy of the next byte, in nats."""
    logits = NETWORK.predict(params, batch[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()


@partial(jax.jit, static_argnums=0)
def train(optimizer: Optimizer, rate: jax.Array, params: Any, batches: jax.Array) -> Any:
    """All steps in one program, the rate up for a twentieth of them and then down to zero."""
    tx = optimizer(warmed_up(rate, len(batches)))

    def step(carry: Any, batch: jax.Array) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), batches)[0][0]


def optimizers() -> dict[str, Optimizer]:
    """The defaults, and AdamW."""
    params = jax.eval_shape(NETWORK.init, jax.random.key(0))
    specs = mo.infer_specs(NETWORK.predict, params, jax.ShapeDtypeStruct((BATCH, CONTEXT), jnp.int32))
    return {
        "mo.modular": lambda rate: mo.modular(rate, specs),
        "optax.adamw": lambda rate: optax.adamw(rate, b2=0.95, weight_decay=0.1),
    }


def tuned_further(seeds: Sequence[int], pretraining: int, steps: int) -> dict[str, Any]:
    """Losses on the new and on the old text, for each optimizer and rate the mean over seeds and their spread."""
    old, (new, new_held_out) = text(None), split(standard_library())
    old_test, new_test = drawn(old.validation, 0, HELD_OUT), drawn(new_held_out, 0, HELD_OUT)
    measure = jax.jit(lambda params: {"new text": loss(params, new_test), "old text": loss(params, old_test)})
    contenders = optimizers()
    starts = {
        seed: train(
            contenders["mo.modular"],
            jnp.float32(PRETRAINING),
            NETWORK.init(jax.random.key(seed)),
            drawn(old.training, seed, pretraining, BATCH),
        )
        for seed in seeds
    }
    found: dict[str, Any] = {"before": summary([measure(params) for params in starts.values()])}
    for name, optimizer in contenders.items():
        for rate in GRIDS[name]:
            ends = [
                train(optimizer, jnp.float32(rate), params, drawn(new, 1000 + seed, steps, BATCH))
                for seed, params in starts.items()
            ]
            found.setdefault(name, {})[f"{rate:g}"] = summary([measure(params) for params in ends])
            print(name, rate, found[name][f"{rate:g}"], flush=True)
    return found


def summary(losses: Sequence[dict[str, jax.Array]]) -> dict[str, list[float]]:
    """Mean and standard deviation of each loss."""
    by_name = {name: [float(of[name]) for of in losses] for name in losses[0]}
    return {
        name: [round(statistics.fmean(values), 4), round(statistics.pstdev(values), 4)]
        for name, values in by_name.items()
    }


def main() -> None:
    """Trains once on addresses for each seed, then further at every rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="on the new text (200)")
    parser.add_argument("--pretraining", type=int, help="steps on the old text (five times as many)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (3)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the numbers go")
    arguments = parser.parse_args()
    pretraining = arguments.pretraining or 5 * arguments.steps
    found = tuned_further(range(arguments.seeds), pretraining, arguments.steps)
    numbers = {"steps": arguments.steps, "pretraining": pretraining, "seeds": arguments.seeds, "losses": found}
    arguments.results.write_text(json.dumps({"machine": machine(), **numbers}, indent=1) + "\n")


if __name__ == "__main__":
    main()
