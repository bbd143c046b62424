"""Updates of GPT-2's matrices on an accelerator: checked, timed beside `optax.contrib.muon`, as a share of its peak.

    python benchmarks/gpu.py                                   # small, medium and XL, float32 and bfloat16
    python benchmarks/gpu.py --trees tiny --repeats 1          # a look, on any machine

The peak is that of a large matrix product measured here, in the dtype that an optimizer multiplies in. The overhead is
the time of an update over that of the gradient of 512k tokens, which is taken to reach 40 % of the bfloat16 peak at 6
operations per weight and token. Writes `gpu-<device>.json` and `gpu-<device>.png` to `benchmarks/results/`.
"""

import argparse
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from counting import counted
from measure import gpt2, in_turn, machine, ratio

import modula_optax as mo

RESULTS = Path(__file__).parent / "results"
# layers and width
TREES = {"tiny": (2, 64), "small": (12, 768), "medium": (24, 1024), "xl": (48, 1600)}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
OURS, IN_BFLOAT16, THEIRS = "modula_optax.modular", "the same, products in bfloat16", "optax.contrib.muon"
TOKENS, GRADIENT_SHARE = 2**19, 0.4


def check() -> float:
    """Largest error of a polar factor against NumPy's decomposition; refuses to go on if it is no polar factor."""
    x = np.random.default_rng(0).standard_normal((4, 256, 1024)).astype(np.float32)
    u, _, v = np.linalg.svd(x, full_matrices=False)
    error = float(np.linalg.norm(np.asarray(jax.jit(mo.polar)(x)) - u @ v, 2, axis=(-2, -1)).max())
    if error > 2e-3:
        raise SystemExit(f"The polar factor is off by {error:.1e} on this device: its matrix products are not float32.")
    return error


def peak(dtype: Any, size: int) -> float:
    """Operations per second of a large matrix product, at the default precision."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    seconds = in_turn({"product": lambda: jax.block_until_ready(product(x, x))}, 10)["product"]
    return 2 * size**3 / min(seconds)


def costs(tree: str, dtype: Any, repeats: int) -> dict[str, dict[str, Any]]:
    """Time and work of an update by both optimizers."""
    rng = np.random.default_rng(0)
    grads = {
        name: jnp.asarray(rng.standard_normal(x.shape, np.float32), dtype) for name, x in gpt2(*TREES[tree]).items()
    }
    optimizers = {
        OURS: mo.modular(0.02, mo.NormSpec(mo.Spectral()), weight_decay=0.0),
        IN_BFLOAT16: mo.modular(0.02, mo.NormSpec(mo.Spectral("six-step", products="bfloat16")), weight_decay=0.0),
        THEIRS: optax.contrib.muon(0.02),
    }
    programs = {
        name: (jax.jit(tx.update).lower(grads, tx.init(grads), grads).compile(), tx.init(grads))
        for name, tx in optimizers.items()
    }
    runs = {
        name: lambda program=program, state=state: jax.block_until_ready(program(grads, state, grads))
        for name, (program, state) in programs.items()
    }
    seconds = in_turn(runs, repeats)
    return {
        name: {
            "seconds": seconds[name],
            "time": ratio(seconds[name], seconds[THEIRS]),
            "gigaflops": counted(programs[name][0]).get("gigaflops", math.nan),
        }
        for name in optimizers
    }


def main() -> None:
    """Runs the benchmark, prints its table, and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", nargs="+", choices=list(TREES), default=["small", "medium", "xl"])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=10, help="timed updates of each optimizer (10)")
    arguments = parser.parse_args()

    size = 1024 if jax.default_backend() == "cpu" else 8192
    peaks = {name: peak(dtype, size) for name, dtype in DTYPES.items()}
    error, results = check(), {}
    print(
        f"{machine()['device']}: polar factor to {error:.1e}; "
        + ", ".join(f"{n} {p / 1e12:.1f} TFLOP/s" for n, p in peaks.items())
    )
    print(f"{'':56}{'seconds':>10}{'ratio':>8}{'of peak':>9}{'overhead':>10}")
    for tree in arguments.trees:
        layers, width = TREES[tree]
        gradient = 6 * 12 * layers * width**2 * TOKENS / (GRADIENT_SHARE * peaks["bfloat16"])
        for dtype in arguments.dtypes:
            for name, cost in costs(tree, DTYPES[dtype], arguments.repeats).items():
                seconds = statistics.median(cost["seconds"])
                # ours iterates in float32 whatever the gradients, unless it is told otherwise
                best = peaks[{OURS: "float32", IN_BFLOAT16: "bfloat16", THEIRS: dtype}[name]]
                cost |= {"of_peak": 1e9 * cost["gigaflops"] / seconds / best, "overhead": seconds / gradient}
                results[f"{tree}, {dtype}, {name}"] = cost
                print(
                    f"{f'{tree}, {dtype}, {name}':56}{seconds:10.4f}{cost['time']['median']:8.2f}"
                    f"{cost['of_peak']:9.1%}{cost['overhead']:10.2%}"
                )
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine(), "peaks": peaks, "polar_error": error, "results": results}
    device = re.sub(r"\W+", "-", machine()["device"]).lower()
    (RESULTS / f"gpu-{device}.json").write_text(json.dumps(record, indent=2) + "\n")
    draw(results, RESULTS / f"gpu-{device}.png")


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars of the time of an update relative to Optax's Muon."""
    figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for place, who in enumerate((OURS, IN_BFLOAT16)):
        ours = {name.removesuffix(f", {who}"): cost for name, cost in results.items() if name.endswith(who)}
        medians = [cost["time"]["median"] for cost in ours.values()]
        bars = axis.bar(np.arange(len(ours)) + 0.4 * place, medians, 0.4, label=who)
        axis.bar_label(bars, fmt="%.2f")
        axis.set_xticks(np.arange(len(ours)) + 0.2, list(ours), fontsize=8)
    axis.legend()
    axis.set(ylabel=f"time of an update / {THEIRS}", title=machine()["device"])
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
