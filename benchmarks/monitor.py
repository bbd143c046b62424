"""What `monitor` costs beside one `dualize` of the matrices of GPT-2 small, and how good its estimates are.

    python benchmarks/monitor.py               # 12 layers, a few minutes on two cores
    python benchmarks/monitor.py --layers 2    # a look

Writes `monitor.json` to `benchmarks/results/`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from measure import compiled, gaussian, gpt2, in_turn, machine
from update_step import SPECTRA, matrix

import modula_optax as mo

RESULTS = Path(__file__).parent / "results"
SPEC = mo.NormSpec(mo.Spectral())


def overhead(layers: int, repeats: int) -> dict[str, Any]:
    """Time of an update that only monitors, relative to one `dualize`, in turn."""
    grads = gaussian(gpt2(layers))
    programs = {
        name: compiled(tx.update, grads, tx.init(grads), grads)
        for name, tx in {"dualize": mo.dualize(SPEC), "monitor": mo.monitor(SPEC)}.items()
    }
    seconds = in_turn({name: program.run for name, program in programs.items()}, repeats)
    return {
        "ratios": [a / b for a, b in zip(seconds["monitor"], seconds["dualize"], strict=True)],
        "seconds": {name: float(np.median(values)) for name, values in seconds.items()},
        "compile_seconds": {name: program.compile_seconds for name, program in programs.items()},
        "temporary_megabytes": {name: program.temporary_megabytes for name, program in programs.items()},
    }


def accuracy() -> dict[str, dict[str, float]]:
    """Estimates over truth, for a 256 x 1024 matrix of every spectrum that stays the same for ten updates."""
    results = {}
    tx = mo.monitor(SPEC)
    update = jax.jit(tx.update)
    for name, spectrum in SPECTRA.items():
        g, nuclear = matrix(spectrum)
        values = np.linalg.svd(np.asarray(g, np.float64), compute_uv=False)
        truth = {
            "weight_norm": 0.5 * values[0],
            "gradient_dual_norm": 2.0 * nuclear,
            "gradient_stable_rank": np.sum(values**2) / values[0] ** 2,
        }
        state = tx.init(g)
        for _ in range(10):
            _, state = update(g, state, g)
        measured = mo.read_monitor(state)
        results[name] = {metric: float(measured[metric] / true) for metric, true in truth.items()}
    return results


def main() -> None:
    """Runs the benchmark, prints its tables, and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="layers of the network (12)")
    parser.add_argument("--repeats", type=int, default=3, help="timed updates of each (3)")
    arguments = parser.parse_args()
    estimates = accuracy()
    print(f"{'estimate / truth':20}" + "".join(f"{metric:>24}" for metric in estimates["flat"]))
    for spectrum, ratios in estimates.items():
        print(f"{spectrum:20}" + "".join(f"{value:24.3f}" for value in ratios.values()))
    costs = overhead(arguments.layers, arguments.repeats)
    print(f"time of monitor / time of dualize: {', '.join(f'{ratio:.3f}' for ratio in costs['ratios'])}")
    print({name: costs[name] for name in ("seconds", "compile_seconds", "temporary_megabytes")})
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine(), "layers": arguments.layers, "costs": costs, "accuracy": estimates}
    (RESULTS / "monitor.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
