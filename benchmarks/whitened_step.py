"""What one update of `mo.whitened` costs beside one of `mo.modular`: time, memory, and on eight devices communication.

    python benchmarks/whitened_step.py               # GPT-2 small's 12 layers: some minutes on two cores
    python benchmarks/whitened_step.py --layers 2    # a look

Time is that of all cores, over ten updates of which one refreshes all bases, each in turn with one of `modular`;
gradients are new in every update, and states are donated as in training. What eight devices do is counted in the
program of one, as in `sharded_work.py`, for gradients sharded by rows (FSDP). Writes `whitened_step.json` to
`benchmarks/results/`.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from counting import counted
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from measure import gaussian, gpt2, machine

import modula_optax as mo

RESULTS = Path(__file__).parent / "results" / "whitened_step.json"
EVERY, DEVICES = 10, 8
SPECS = mo.NormSpec(mo.Spectral())


def optimizers() -> dict[str, optax.GradientTransformation]:
    """What is compared, with its defaults."""
    return {
        "modular": mo.modular(0.02, SPECS, weight_decay=0.0),
        "whitened": mo.whitened(0.02, SPECS, weight_decay=0.0, every=EVERY),
    }


def costs(layers: int, width: int) -> dict[str, Any]:
    """Seconds of all cores for an update, its work, and its temporary memory."""
    rng, shapes = np.random.default_rng(0), gpt2(layers, width)
    grads = [
        {name: jnp.asarray(rng.standard_normal(x.shape, np.float32)) for name, x in shapes.items()} for _ in range(4)
    ]
    programs, states, seconds = {}, {}, {name: [] for name in optimizers()}
    for name, tx in optimizers().items():
        states[name] = jax.jit(tx.init)(grads[0])
        programs[name] = jax.jit(tx.update, donate_argnums=1).lower(grads[0], states[name]).compile()
    # eigenvectors after ten, iteration after twenty: what is run for the first time is not what is measured
    for step in range(3 * EVERY):
        for name, program in programs.items():
            started_at = time.process_time()
            updates, states[name] = program(grads[step % 4], states[name])
            jax.block_until_ready((updates, states[name]))
            seconds[name].append(time.process_time() - started_at)
    return {
        name: {
            "seconds": float(np.mean(seconds[name][-EVERY:])),
            "seconds_between": float(np.median(seconds[name][-EVERY:])),
            "gigaflops_between": counted(program)["gigaflops"],
            "temporary_megabytes": program.memory_analysis().temp_size_in_bytes / 1e6,
        }
        for name, program in programs.items()
    }


def memory(layers: int, width: int) -> dict[str, Any]:
    """Temporary memory of an update, which need not be run for it."""
    shapes, results = gpt2(layers, width), {}
    for name, tx in optimizers().items():
        program: Any = jax.jit(tx.update, donate_argnums=1).lower(shapes, jax.eval_shape(tx.init, shapes)).compile()
        results[name] = {"temporary_megabytes": program.memory_analysis().temp_size_in_bytes / 1e6}
    return results | {"ratio": ratios(results)}


def use_devices() -> None:
    """Makes the host pretend that it has eight devices."""
    jax.config.update("jax_num_cpu_devices", DEVICES)


def shared_out(layers: int, width: int) -> dict[str, Any]:
    """Counts of one update on one of eight devices, of gradients sharded by rows."""
    grads = gaussian(gpt2(layers, width))
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        placed = jax.device_put(grads, NamedSharding(mesh, PartitionSpec("data", None)))
        return {
            name: counted(jax.jit(tx.update).lower(placed, tx.init(placed)).compile())
            for name, tx in optimizers().items()
        }


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """Those of `whitened` to `modular`."""
    ours, theirs = results["whitened"], results["modular"]
    return {what: ours[what] / theirs[what] for what in ours if theirs[what]}


def main() -> None:
    """Measures, prints, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="layers of the network (12)")
    arguments = parser.parse_args()
    sizes = {"GPT-2 small": (arguments.layers, 768), "width 64": (4, 64)}
    record: dict[str, Any] = {"machine": machine(), "layers": arguments.layers}
    for name, size in sizes.items():
        record[name] = results = costs(*size)
        results["ratio"] = ratios(results)
        print(name, json.dumps(results, indent=1))
    record["memory, 12 layers"] = memory(12, 768)
    print("memory, 12 layers", json.dumps(record["memory, 12 layers"], indent=1))
    # a process of its own: its devices must be asked for before the first array
    with ProcessPoolExecutor(1, get_context("spawn"), use_devices) as pool:
        for layers in (8, 12):
            record[f"FSDP, {layers} layers"] = results = pool.submit(shared_out, layers, 256).result()
            results["ratio"] = ratios(results)
            print(f"FSDP, {layers} layers", json.dumps(results, indent=1))
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
