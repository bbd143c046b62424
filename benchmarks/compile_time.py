"""Compiling one update: GPT-2 small of 12 and of 48 layers, and many small matrices, beside `optax.contrib.muon`.

    python benchmarks/compile_time.py                # 2 minutes
    python benchmarks/compile_time.py --leaves 2000  # 25 minutes, nearly all of it the other's compilation

Compilations alternate, each with empty caches and tracing included, after one that warms JAX up. Writes
`compile_time.json` and `compile_time.png` to `benchmarks/results/`.
"""

import argparse
import functools
import json
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from measure import Compiled, compiled, gaussian, gpt2, in_turn, machine, ratio

import modula_optax as mo

RESULTS = Path(__file__).parent / "results"
OURS, THEIRS = "modula_optax.modular", "optax.contrib.muon"


def small_leaves(count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of many matrices of at most 64 x 64."""
    rng = np.random.default_rng(0)
    sizes = rng.choice([16, 32, 48, 64], size=(count, 2))
    return {f"leaf{i}": jax.ShapeDtypeStruct((int(m), int(n)), jnp.float32) for i, (m, n) in enumerate(sizes)}


def optimizers() -> dict[str, optax.GradientTransformation]:
    """What is compared, with its defaults."""
    return {OURS: mo.modular(0.02, mo.NormSpec(mo.Spectral()), weight_decay=0.0), THEIRS: optax.contrib.muon(0.02)}


def compiled_in_turn(shapes: Any, repeats: int) -> dict[str, list[Compiled]]:
    """Every program compiled as often as asked, by turns."""
    programs: dict[str, list[Compiled]] = {name: [] for name in optimizers()}
    for _ in range(repeats):
        for name, tx in optimizers().items():
            jax.clear_caches()
            state = jax.eval_shape(tx.init, shapes)
            programs[name].append(compiled(tx.update, shapes, state, shapes))
    return programs


def seconds_to_compile(programs: dict[str, list[Compiled]]) -> dict[str, list[float]]:
    """What every compilation took."""
    return {name: [program.compile_seconds for program in series] for name, series in programs.items()}


def seconds_to_run(programs: dict[str, list[Compiled]], shapes: Any, repeats: int) -> dict[str, list[float]]:
    """Seconds of every update of Gaussian gradients, by turns."""
    grads = gaussian(shapes)
    arguments = {name: (grads, tx.init(grads), grads) for name, tx in optimizers().items()}

    def update(name: str) -> Any:
        return jax.block_until_ready(programs[name][0].program(*arguments[name]))

    return in_turn({name: functools.partial(update, name) for name in programs}, repeats)


def draw(figures: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars of every figure relative to Optax's Muon."""
    figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    medians = [f["ratio"]["median"] for f in figures.values()]
    spread = [
        [f["ratio"]["median"] - f["ratio"]["lowest"], f["ratio"]["highest"] - f["ratio"]["median"]]
        for f in figures.values()
    ]
    bars = axis.barh(list(figures), medians, xerr=np.transpose(spread), color="tab:blue")
    axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=3)
    axis.axvline(1.0, color="grey", linewidth=0.8)
    axis.invert_yaxis()
    axis.set_xlabel(f"{OURS}, relative to {THEIRS}")
    axis.set_title(f"float32, {machine()['device']}, {machine()['cores']} cores, jax {jax.__version__}", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Runs the benchmark, prints its table, and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="compilations of each program (3)")
    parser.add_argument("--leaves", type=int, default=400, help="how many small matrices (400)")
    arguments = parser.parse_args()
    repeats, small = arguments.repeats, small_leaves(arguments.leaves)

    compiled_in_turn(gpt2(1), 1)
    measured = {
        "compile, 12 layers": seconds_to_compile(compiled_in_turn(gpt2(12), repeats)),
        "compile, 48 layers": seconds_to_compile(compiled_in_turn(gpt2(48), repeats)),
    }
    programs = compiled_in_turn(small, 1)
    measured[f"compile, {len(small)} small matrices"] = seconds_to_compile(programs)
    measured[f"run, {len(small)} small matrices"] = seconds_to_run(programs, small, 5)
    figures = {
        name: {"seconds": seconds, "ratio": ratio(seconds[OURS], seconds[THEIRS])} for name, seconds in measured.items()
    }
    print(f"{'':32}{OURS:>22}{THEIRS:>22}{'ratio':>8}{'range':>16}")
    for name, f in figures.items():
        ours, theirs = (statistics.median(f["seconds"][who]) for who in (OURS, THEIRS))
        spread = f"{f['ratio']['lowest']:.2f} - {f['ratio']['highest']:.2f}"
        print(f"{name:32}{ours:20.2f} s{theirs:20.2f} s{f['ratio']['median']:8.2f}{spread:>16}")

    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "compile_time.json").write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2) + "\n")
    draw(figures, RESULTS / "compile_time.png")


if __name__ == "__main__":
    main()
