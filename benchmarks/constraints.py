"""What it costs to keep the matrices of GPT-2 small to a constraint, beside the dual map that made the step.

    python benchmarks/constraints.py               # 12 layers, five minutes on two cores
    python benchmarks/constraints.py --layers 2    # a look

Weights at the boundary of each constraint, and a step of norm 0.05 that leads out of it, as in training: one
`keep_params_projected` over one `dualize`. Also the cheap direction, `SpectralNormalized`. Writes `constraints.json`
and `constraints.png` to `benchmarks/results/`.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import optax
from measure import gaussian, gpt2, in_turn, machine, ratio

import modula_optax as mo

RESULTS = Path(__file__).parent / "results"
RATE = 0.05
CONSTRAINTS = (
    mo.SpectralCap(),
    mo.SoftCap(),
    mo.UnitSphere(),
    mo.SpectralNormalize(),
    mo.Hammer(),
    mo.UnitRows(),
)


def programs(layers: int) -> dict[str, Callable[[], Any]]:
    """One update by the dual map, and by what comes after it."""
    grads = gaussian(gpt2(layers))
    free = mo.NormSpec(mo.Spectral())
    step = jax.jit(mo.dualize(free).update)(grads, optax.EmptyState())[0]
    updates = jax.tree.map(lambda x: RATE * x, step)
    found = {
        "Spectral": directions(mo.Spectral(), grads),
        "SpectralNormalized": directions(mo.SpectralNormalized(), grads),
    }
    for constraint in CONSTRAINTS:
        spec = mo.NormSpec(mo.Spectral(), constraint=constraint)
        params = jax.jit(lambda x, spec=spec: mo.project(mo.initialize(jax.random.key(0), x, free), spec))(grads)
        found[type(constraint).__name__] = projection(spec, updates, params)
    return found


def directions(norm: mo.Norm, grads: Any) -> Callable[[], Any]:
    """The dual map of a norm."""
    update = jax.jit(mo.dualize(mo.NormSpec(norm)).update)
    return lambda: jax.block_until_ready(update(grads, optax.EmptyState()))


def projection(spec: mo.NormSpec, updates: Any, params: Any) -> Callable[[], Any]:
    """The last link of a chain."""
    tx = mo.keep_params_projected(spec, learning_rate=RATE)
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    return lambda: jax.block_until_ready(update(updates, state, params))


def main() -> None:
    """Runs the benchmark, prints its table, and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="layers of the network (12)")
    parser.add_argument("--repeats", type=int, default=3, help="timed updates of each (3)")
    arguments = parser.parse_args()
    seconds = in_turn(programs(arguments.layers), arguments.repeats)
    ratios = {name: ratio(series, seconds["Spectral"]) for name, series in seconds.items()}
    print(f"{'relative to one dualize':26}{'time':>8}{'range':>16}")
    for name, r in ratios.items():
        spread = f"{r['lowest']:.2f} - {r['highest']:.2f}"
        print(f"{name:26}{r['median']:8.2f}{spread:>16}")
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine(), "layers": arguments.layers, "seconds": seconds, "time": ratios}
    (RESULTS / "constraints.json").write_text(json.dumps(record, indent=2) + "\n")
    draw(ratios, RESULTS / "constraints.png", arguments.layers)


def draw(ratios: dict[str, dict[str, float]], path: Path, layers: int) -> None:
    """Bars of time relative to the dual map of `Spectral`."""
    figure, axis = plt.subplots(figsize=(8, 3.5), layout="constrained")
    bars = axis.barh(list(ratios), [r["median"] for r in ratios.values()])
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_xlabel("time / dualize")
    axis.set_title(f"GPT-2 small's matrices, {layers} layers, float32, {machine()['cores']} CPU cores", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
