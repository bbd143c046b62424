"""What an update adds to a training step, in floating-point operations, beside `optax.contrib.muon` and AdamW.

    python benchmarks/overhead.py            # GPT-2 small's layers: a minute to compile, nothing is run

A byte-level GPT of 12 layers of width 768 on sequences of 1,024: operations of matrix products in the gradient of one
sequence, and in one update by each optimizer, counted in the compiled programs. The gradient grows with the tokens of a
batch, the update does not. AdamW has no matrix products: its step is the floor that the others stand on. Writes
`overhead.json` and `overhead.png` to `benchmarks/results/`.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from counting import counted
from measure import machine

import modula_optax as mo

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from gpt.contenders import muon_dimension_numbers
from gpt.model import GPT, predict
from gpt.training import loss

RESULTS = Path(__file__).parent / "results"
LAYERS, WIDTH, HEADS, CONTEXT = 12, 768, 12, 1024
TOKENS = {"8k": 2**13, "64k": 2**16, "512k": 2**19}


def optimizers(model: GPT, params: Any) -> dict[str, optax.GradientTransformation]:
    """What is compared, with its defaults; norms by inference."""
    specs = mo.infer_specs(partial(predict, model), params, jax.ShapeDtypeStruct((2, 8), jnp.int32))
    return {
        "modula_optax.modular": mo.modular(0.02, specs, weight_decay=0.0),
        "optax.contrib.muon": optax.contrib.muon(0.02, muon_weight_dimension_numbers=muon_dimension_numbers),
        "optax.adamw": optax.adamw(1e-3),
    }


def gigaflops(function: Any, *arguments: Any) -> float:
    """Of the matrix products of one call, which is compiled and not run."""
    return counted(jax.jit(function).lower(*arguments).compile()).get("gigaflops", 0.0)


def main() -> None:
    """Counts, prints a table, and writes the results."""
    model = GPT(WIDTH, LAYERS, HEADS)
    sequence = jax.ShapeDtypeStruct((1, CONTEXT + 1), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.int32))
    per_token = gigaflops(jax.grad(partial(loss, model)), params, sequence) / CONTEXT
    updates = {
        name: gigaflops(tx.update, params, jax.eval_shape(tx.init, params), params)
        for name, tx in optimizers(model, params).items()
    }
    overheads = {
        name: {size: update / (per_token * tokens) for size, tokens in TOKENS.items()}
        for name, update in updates.items()
    }
    print(f"gradient: {per_token:.3f} GFLOP per token")
    print(f"{'':22}{'GFLOP an update':>17}" + "".join(f"{size + ' tokens':>14}" for size in TOKENS))
    for name, by_size in overheads.items():
        print(f"{name:22}{updates[name]:17.0f}" + "".join(f"{share:14.2%}" for share in by_size.values()))
    RESULTS.mkdir(exist_ok=True)
    config = {"layers": LAYERS, "width": WIDTH, "context": CONTEXT, "gigaflops_per_token": per_token}
    record = {"machine": machine(), "config": config, "gigaflops_per_update": updates, "overhead": overheads}
    (RESULTS / "overhead.json").write_text(json.dumps(record, indent=2) + "\n")
    draw(overheads, RESULTS / "overhead.png")


def draw(overheads: dict[str, dict[str, float]], path: Path) -> None:
    """Bars: the share of the gradient's work that an update adds, by tokens in a batch."""
    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    shown = {name: by_size for name, by_size in overheads.items() if any(by_size.values())}
    for i, (name, by_size) in enumerate(shown.items()):
        bars = axis.bar(np.arange(len(TOKENS)) + 0.4 * i, [100 * share for share in by_size.values()], 0.4, label=name)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set(yscale="log", ylabel="% of the gradient's operations", xlabel="tokens in a batch")
    axis.set_xticks(np.arange(len(TOKENS)) + 0.2, list(TOKENS))
    axis.set_title(f"what an update adds to AdamW's step: {LAYERS} layers of width {WIDTH}", fontsize=10)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
