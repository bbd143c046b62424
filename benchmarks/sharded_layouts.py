"""Communication of one update in the layouts that trainers have, on 8, 32 and 256 devices, beside `optax.contrib.muon`.

    python benchmarks/sharded_layouts.py                   # compiled, not run: some minutes
    python benchmarks/sharded_layouts.py --devices 8       # a look

Counts, per device and in the compiled program, loops multiplied out: operations of matrix products, collectives, and
the bytes that these put out. Beside it an all-to-all over layers as the same compiler makes it: matrices of one shape
are stacked, lie along all axes of the mesh, and go back. The bound is what a device holds of matrices in pieces, sent
once and got back. Writes `sharded_layouts.json` to `benchmarks/results/`.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from counting import counted
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from measure import gpt2, machine, rolled_up

import modula_optax as mo

RESULTS = Path(__file__).parent / "results"
OURS, THEIRS = "modula_optax.dualize", "optax.contrib.muon"
EXCHANGE, BOUND = "all-to-all over layers", "bound"
LAYERS, WIDTH, MODEL = 8, 256, 4
# what every layout says of a matrix: the axes of the mesh that its inputs and its outputs lie along
COLUMNS, ROWS = ("qkv", "up"), ("out", "down")
Layout = dict[str, jax.ShapeDtypeStruct]


def placed(mesh: Any, shape: tuple[int, ...], *axes: str | None) -> jax.ShapeDtypeStruct:
    """The shape of an array that lies along these axes of the mesh."""
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*axes)))


def layouts(devices: int) -> dict[str, tuple[Any, Layout]]:
    """The mesh and the parameters of every layout."""
    line = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    square = jax.make_mesh((devices // MODEL, MODEL), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    sizes = {name.partition("/")[2]: x.shape for name, x in gpt2(1, WIDTH).items()}

    def by_layer(mesh: Any, column: Any, row: Any) -> Layout:
        return {
            f"{name}{i}": placed(mesh, size, *(column if name in COLUMNS else row))
            for i in range(LAYERS)
            for name, size in sizes.items()
        }

    return {
        "layers of a scan, FSDP": (
            line,
            {name: placed(line, (LAYERS, *size), None, "data", None) for name, size in sizes.items()},
        ),
        "experts over devices": (
            line,
            {
                name: placed(line, (2, devices, WIDTH, WIDTH), None, "data", None, None)
                for name in ("gate", "up", "down")
            },
        ),
        "tensor parallel": (line, by_layer(line, (None, "data"), ("data", None))),
        "FSDP and tensor parallel": (square, by_layer(square, ("data", "model"), ("model", "data"))),
    }


def in_pieces(x: jax.ShapeDtypeStruct) -> bool:
    """Whether matrices are cut by the layout."""
    return any(axis is not None for axis in x.sharding.spec[-2:])


def bound(params: Layout, devices: int) -> float:
    """Megabytes that a device puts out if it sends its pieces of matrices and later gets them back."""
    return 2e-6 * sum(4 * x.size for x in params.values() if in_pieces(x)) / devices


def exchanged(mesh: Any, layout: Layout, params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Every matrix whole on one device, multiplied there, and back: those of one shape along all axes at once."""
    cubes: dict[str, jax.Array] = {}
    for shape in {x.shape for x in params.values()}:
        names = [name for name, x in params.items() if x.shape == shape]
        stack = jnp.stack([params[name] for name in names])
        if in_pieces(layout[names[0]]):
            stack = stack.reshape(-1, *shape[-2:])
            stack = jax.lax.with_sharding_constraint(stack, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
        # a product of whole matrices, without which nothing would have to travel
        cubes |= dict(zip(names, (stack @ stack.mT @ stack).reshape(len(names), *shape), strict=True))
    return cubes


def costs(devices: int) -> dict[str, Any]:
    """Counts of one update in every layout."""
    results = {}
    for layout, (mesh, params) in layouts(devices).items():
        muon = optax.contrib.scale_by_muon(
            weight_dimension_numbers=jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), params)
        )
        optimizers = {
            OURS: mo.dualize(mo.NormSpec(mo.Spectral())),
            f"{OURS}, exchange in bfloat16": mo.dualize(mo.NormSpec(mo.Spectral()), exchange="bfloat16"),
            THEIRS: muon,
            f"{THEIRS}, main": rolled_up(muon),
        }
        results[layout] = {BOUND: {"megabytes": bound(params, devices)}}
        placements = jax.tree.map(lambda x: x.sharding, params)
        program = jax.jit(partial(exchanged, mesh, params), out_shardings=placements).lower(params).compile()
        results[layout][EXCHANGE] = {"collectives": 0.0, "megabytes": 0.0} | counted(program)
        with jax.set_mesh(mesh):
            for name, tx in optimizers.items():
                state = jax.eval_shape(tx.init, params)
                state = jax.tree.map(partial(like, params), state)
                counts = counted(jax.jit(tx.update).lower(params, state, params).compile())
                results[layout][name] = {"gigaflops": 0.0, "collectives": 0.0, "megabytes": 0.0} | counts
    return results


def like(params: Layout, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """A state as it is placed by a trainer: moments beside their parameters."""
    twins = [p for p in params.values() if p.shape == x.shape]
    return twins[0] if twins else x


def main() -> None:
    """Counts, each number of devices in a process of its own, prints a table, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 32, 256], help="how many (8 32 256)")
    arguments = parser.parse_args()
    if len(arguments.devices) == 1:
        (devices,) = arguments.devices
        jax.config.update("jax_num_cpu_devices", devices)
        results = {devices: costs(devices)}
    else:
        for devices in arguments.devices:
            subprocess.run([sys.executable, __file__, "--devices", str(devices)], check=True)
        return
    path = RESULTS / "sharded_layouts.json"
    print(f"{f'per device, of {devices}':60}{'GFLOP':>9}{'collectives':>13}{'MB sent':>9}")
    for layout, by_name in results[devices].items():
        for name, c in by_name.items():
            print(
                f"{f'{layout}: {name}':60}{c.get('gigaflops', 0.0):9.2f}{c.get('collectives', 0):13.0f}"
                f"{c['megabytes']:9.2f}"
            )
    before = json.loads(path.read_text())["results"] if path.exists() else {}
    record = {
        "machine": machine(),
        "layers": LAYERS,
        "width": WIDTH,
        "results": before | {str(devices): results[devices]},
    }
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
