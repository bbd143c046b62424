"""Work and communication of one update on eight devices, counted in the compiled program, beside `optax.contrib.muon`.

    python benchmarks/sharded_work.py              # eight devices that the host pretends to have

Counts the floating-point operations of matrix products and the bytes that collectives put out, per device, with loops
multiplied out, and the compiler's temporary memory. Writes `sharded_work.json` and `sharded_work.png` to
`benchmarks/results/`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax

jax.config.update("jax_num_cpu_devices", 8)

import matplotlib.pyplot as plt  # noqa: E402  (devices must be asked for before the first array)
import numpy as np  # noqa: E402
import optax  # noqa: E402
from counting import counted  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402
from measure import gaussian, gpt2, machine  # noqa: E402

import modula_optax as mo  # noqa: E402

RESULTS = Path(__file__).parent / "results"
OURS, THEIRS = "modula_optax.modular", "optax.contrib.muon"
LAYERS, WIDTH, DEVICES = 8, 256, 8
LAYOUTS = {"replicated": PartitionSpec(), "FSDP": PartitionSpec("data", None)}


def costs(tx: optax.GradientTransformation, grads: Any) -> dict[str, float]:
    """Counts of one update, and its temporary memory."""
    program = jax.jit(tx.update).lower(grads, tx.init(grads), grads).compile()
    memory = program.memory_analysis()
    counts = {"gigaflops": 0.0, "collectives": 0.0, "megabytes": 0.0} | counted(program)
    return counts | {"temporary_megabytes": memory.temp_size_in_bytes / 1e6 if memory else float("nan")}


def main() -> None:
    """Counts, prints a table, and writes the results."""
    grads = gaussian(gpt2(LAYERS, WIDTH))
    optimizers = {
        OURS: mo.modular(0.02, mo.NormSpec(mo.Spectral()), weight_decay=0.0),
        THEIRS: optax.contrib.muon(0.02),
    }
    results = {"one device": {name: costs(tx, grads) for name, tx in optimizers.items()}}
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        for layout, spec in LAYOUTS.items():
            placed = jax.device_put(grads, NamedSharding(mesh, spec))
            results[layout] = {name: costs(tx, placed) for name, tx in optimizers.items()}

    print(f"{'per device':34}{'GFLOP':>9}{'collectives':>13}{'MB sent':>9}{'temp. MB':>10}")
    for layout, by_name in results.items():
        for name, c in by_name.items():
            print(
                f"{layout + ', ' + name:34}{c['gigaflops']:9.2f}{c['collectives']:13.0f}{c['megabytes']:9.1f}"
                f"{c['temporary_megabytes']:10.1f}"
            )
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine(), "layers": LAYERS, "width": WIDTH, "devices": DEVICES, "results": results}
    (RESULTS / "sharded_work.json").write_text(json.dumps(record, indent=2) + "\n")
    draw(results, RESULTS / "sharded_work.png")


def draw(results: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Bars of work, communication and memory per device."""
    kinds = {"gigaflops": "GFLOP", "megabytes": "MB through collectives", "temporary_megabytes": "temporary MB"}
    figure, axes = plt.subplots(1, len(kinds), figsize=(10, 3.5), layout="constrained")
    for axis, (kind, label) in zip(axes, kinds.items(), strict=True):
        for i, name in enumerate((OURS, THEIRS)):
            heights = [by_name[name][kind] for by_name in results.values()]
            bars = axis.bar(np.arange(len(results)) + 0.4 * i, heights, 0.4, label=name)
            axis.bar_label(bars, fmt="%.1f", fontsize=7)
        axis.set_xticks(np.arange(len(results)) + 0.2, list(results), fontsize=8)
        axis.set_title(f"{label}, per device", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(f"one update of {LAYERS} layers of width {WIDTH}, {DEVICES} devices", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
