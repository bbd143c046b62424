"""One update of the matrices of GPT-2 small: time, compile time, memory and precision beside `optax.contrib.muon`.

    python benchmarks/update_step.py               # 12 layers, a few minutes on two cores
    python benchmarks/update_step.py --layers 2    # a look

Writes `update_step.json` and `update_step.png` to `benchmarks/results/`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from counting import counted
from measure import compiled, gaussian, gpt2, in_turn, machine, ratio, rolled_up
from rollfast.optim.prism import prism

import modula_optax as mo

RESULTS = Path(__file__).parent / "results"

SPECTRA = {
    "Gaussian": None,
    "flat": np.ones(256),
    "linear to 0.01": np.linspace(1, 0.01, 256),
    "condition 1e2": np.logspace(0, -2, 256),
    "condition 1e4": np.logspace(0, -4, 256),
    "power law, 1/k": 1 / np.arange(1, 257),
    "rank 16": np.array([1.0] * 16 + [0.0] * 240),
}


def optimizers() -> dict[str, optax.GradientTransformation]:
    """What is compared, with its defaults."""
    return {
        "modula_optax.modular": mo.modular(0.02, mo.NormSpec(mo.Spectral()), weight_decay=0.0),
        "modula_optax.muon": mo.muon(0.02),
        "optax.contrib.muon": optax.contrib.muon(0.02),
        "optax.contrib.muon, main": rolled_up(optax.contrib.muon(0.02)),
        # the Muon of that package, with its damping of what is new in a gradient
        "rollfast.prism": prism(0.02),
        "optax.adamw": optax.adamw(1e-3),
    }


def costs(layers: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Compile time, memory, work and time of one update by every optimizer, and ratios to Optax's Muon."""
    warm_up = gaussian(gpt2(1, width=64))
    for tx in optimizers().values():
        compiled(tx.update, warm_up, tx.init(warm_up), warm_up)
    grads = gaussian(gpt2(layers))
    programs = {name: compiled(tx.update, grads, tx.init(grads), grads) for name, tx in optimizers().items()}
    seconds = in_turn({name: program.run for name, program in programs.items()}, repeats)
    theirs, their_seconds = programs["optax.contrib.muon"], seconds["optax.contrib.muon"]
    return {
        name: {
            "seconds": seconds[name],
            "time": ratio(seconds[name], their_seconds),
            "compile_seconds": program.compile_seconds,
            "compile": program.compile_seconds / theirs.compile_seconds,
            "temporary_megabytes": program.temporary_megabytes,
            "memory": program.temporary_megabytes / theirs.temporary_megabytes,
            "gigaflops": counted(program.program).get("gigaflops", 0.0),
        }
        for name, program in programs.items()
    }


def matrix(spectrum: np.ndarray | None) -> tuple[jax.Array, float]:
    """A 256 x 1024 matrix of these singular values, and their sum."""
    rng = np.random.default_rng(1)
    if spectrum is None:
        g = rng.standard_normal((256, 1024))
        return jnp.asarray(g, jnp.float32), float(np.linalg.svd(g, compute_uv=False).sum())
    u, v = (np.linalg.qr(rng.standard_normal((size, 256)))[0] for size in (256, 1024))
    return jnp.asarray((u * spectrum) @ v.T, jnp.float32), float(spectrum.sum())


def precision() -> dict[str, dict[str, dict[str, float]]]:
    """Alignment of the orthogonalized O with G, and its norm, on matrices of different spectra.

    A step of the unit ball of the spectral norm promises at most nuclear(G): `<G, O> / (nuclear(G) s_1(O))` is the
    part of it that is kept, at any length of O.
    """
    results: dict[str, dict[str, dict[str, float]]] = {}
    for spectrum, values in SPECTRA.items():
        g, nuclear = matrix(values)
        ours = mo.polar(g)
        theirs = mo.polar(g, "muon")
        results[spectrum] = {
            name: {"alignment": float(jnp.vdot(g, o)) / nuclear / norm, "norm": norm}
            for name, o in (("the default", ours), ("Muon's coefficients", theirs))
            for norm in [float(np.linalg.norm(np.asarray(o, np.float64), 2))]
        }
    return results


def draw(results: dict[str, dict[str, Any]], path: Path, title: str) -> None:
    """Bars of every cost relative to Optax's Muon."""
    kinds = {
        "time of an update": lambda r: r["time"]["median"],
        "compile time": lambda r: r["compile"],
        "temporary memory": lambda r: r["memory"],
    }
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    width = 0.8 / len(results)
    for i, (name, result) in enumerate(results.items()):
        heights = [kind(result) for kind in kinds.values()]
        bars = axis.bar(np.arange(len(kinds)) + i * width, heights, width, label=name)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set_xticks(np.arange(len(kinds)) + 0.4 - width / 2, list(kinds))
    axis.axhline(1.0, color="grey", linewidth=0.8)
    axis.set_ylabel("relative to optax.contrib.muon")
    axis.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(results), fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Runs the benchmark, prints its tables, and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="layers of the network (12)")
    parser.add_argument("--repeats", type=int, default=3, help="timed updates of each optimizer (3)")
    arguments = parser.parse_args()

    results, aligned = costs(arguments.layers, arguments.repeats), precision()
    print(f"{'':22}{'seconds':>10}{'ratio':>8}{'range':>16}{'compile s':>11}{'ratio':>8}{'temp. MB':>10}{'ratio':>8}")
    for name, r in results.items():
        time = r["time"]
        spread = f"{time['lowest']:.2f} - {time['highest']:.2f}"
        print(
            f"{name:22}{np.median(r['seconds']):10.2f}{time['median']:8.2f}{spread:>16}{r['compile_seconds']:11.1f}"
            f"{r['compile']:8.2f}{r['temporary_megabytes']:10.0f}{r['memory']:8.2f}"
        )
    print(f"\n{'<G, O> / (nuclear(G) s_1(O))':32}" + "".join(f"{name:>28}" for name in aligned["flat"]))
    for spectrum, by_name in aligned.items():
        cells = (f"{r['alignment']:.4f} (norm {r['norm']:.3f})" for r in by_name.values())
        print(f"{spectrum:32}" + "".join(f"{cell:>28}" for cell in cells))

    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine(), "layers": arguments.layers, "costs": results, "precision": aligned}
    (RESULTS / "update_step.json").write_text(json.dumps(record, indent=2) + "\n")
    title = f"one update of GPT-2 small's matrices, {arguments.layers} layers, float32, {machine()['cores']} CPU cores"
    draw(results, RESULTS / "update_step.png", title)


if __name__ == "__main__":
    main()
