"""Ratios that are to fall or to stay, measured in a minute and kept by date: what got worse since the last time.

    python benchmarks/track.py               # measures, compares with the last line, appends one
    python benchmarks/track.py --dry         # measures and compares

Every number is a ratio of two programs in one process: seconds of processors, which other work on a machine disturbs
least, and counts of the compiled programs, which nothing does. Lines are kept in `track.json` of `benchmarks/results/`.
"""

import argparse
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax
from constraints import RATE
from counting import counted
from measure import gaussian, gpt2, machine

import modula_optax as mo

RESULTS = Path(__file__).parent / "results"
SPEC = mo.NormSpec(mo.Spectral())
# how much a ratio may grow before it is told: seconds vary, counts do not
TOLERANCE = {"seconds": 1.15, "count": 1.01}
Line = dict[str, Any]


def seconds(function: Callable[[], Any]) -> float:
    """Of all processors."""
    started_at = time.process_time()
    function()
    return time.process_time() - started_at


def least(functions: dict[str, Callable[[], Any]], repeats: int = 3) -> dict[str, float]:
    """The fewest seconds of each, in turn, after a first time that does not count."""
    for function in functions.values():
        function()
    turns = [{name: seconds(function) for name, function in functions.items()} for _ in range(repeats)]
    return {name: min(turn[name] for turn in turns) for name in functions}


def lowered(tx: optax.GradientTransformation, layers: int) -> Any:
    """An update of GPT-2 small's matrices, to be compiled; nothing in memory."""
    shapes = gpt2(layers)
    return jax.jit(tx.update).lower(shapes, jax.eval_shape(tx.init, shapes), shapes)


def compiling(tx: optax.GradientTransformation) -> Callable[[], Any]:
    """Traces and compiles an update, with nothing kept from before."""

    def anew() -> Any:
        jax.clear_caches()
        return lowered(tx, 4).compile()

    return anew


def running(tx: optax.GradientTransformation, updates: Any, params: Any) -> Callable[[], Any]:
    """Runs an update."""
    update, state = jax.jit(tx.update), jax.jit(tx.init)(params)
    return lambda: jax.block_until_ready(update(updates, state, params))


def measured() -> dict[str, dict[str, float]]:
    """All ratios, by how they are measured."""
    ours, theirs = mo.modular(0.02, SPEC, weight_decay=0.0), optax.contrib.muon(0.02)
    deep = {"ours": lowered(ours, 12).compile(), "theirs": lowered(theirs, 12).compile()}
    memory = {name: program.memory_analysis().temp_size_in_bytes for name, program in deep.items()}
    work = {name: counted(program)["gigaflops"] for name, program in deep.items()}
    watching = lowered(mo.monitor(SPEC), 12).compile().memory_analysis()
    weights = jax.jit(lambda x: mo.initialize(jax.random.key(0), x, SPEC))(gaussian(gpt2(1)))
    kept = {
        type(constraint).__name__: mo.keep_params_projected(
            mo.NormSpec(mo.Spectral(), constraint=constraint), learning_rate=RATE
        )
        for constraint in (mo.SpectralCap(), mo.SoftCap())
    }
    grads = gaussian(gpt2(1))
    # constraints come after a small step
    step = jax.tree.map(lambda x: RATE * x, jax.jit(mo.dualize(SPEC).update)(grads, optax.EmptyState())[0])
    optimizers = {"ours": ours, "theirs": theirs, "monitor": mo.monitor(SPEC), "dualize": mo.dualize(SPEC)}
    runs = least(
        {name: running(tx, grads, weights) for name, tx in optimizers.items()}
        | {name: running(tx, step, weights) for name, tx in kept.items()}
    )
    compiles = least(
        {
            name: compiling(tx)
            for name, tx in {"ours": ours, "theirs": theirs, "watched": mo.monitor(SPEC, ours)}.items()
        }
    )
    return {
        "count": {
            "temporary memory / Muon's": memory["ours"] / memory["theirs"],
            "operations / Muon's": work["ours"] / work["theirs"],
            "monitor's temporary memory / the matrices": watching.temp_size_in_bytes / watching.output_size_in_bytes,
        },
        "seconds": {
            "update / Muon's": runs["ours"] / runs["theirs"],
            "compile / Muon's": compiles["ours"] / compiles["theirs"],
            "compile with a monitor / without": compiles["watched"] / compiles["ours"],
            "monitor / dualize": runs["monitor"] / runs["dualize"],
            **{f"{name} / dualize": runs[name] / runs["dualize"] for name in kept},
        },
    }


def worse(now: Line, before: Line) -> list[str]:
    """What grew since the last line, in words."""
    return [
        f"{name}: {value:.3f}, {before['ratios'][kind][name]:.3f} on {before['date']}"
        for kind, ratios in now["ratios"].items()
        for name, value in ratios.items()
        if name in before["ratios"][kind] and value > TOLERANCE[kind] * before["ratios"][kind][name]
    ]


def main() -> None:
    """Measures, compares, and keeps a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="keep no line")
    arguments = parser.parse_args()
    path = RESULTS / "track.json"
    lines = json.loads(path.read_text()) if path.exists() else []
    line = {"date": datetime.date.today().isoformat(), "machine": machine(), "ratios": measured()}
    for ratios in line["ratios"].values():
        for name, value in ratios.items():
            print(f"{name:44}{value:8.3f}")
    grown = worse(line, lines[-1]) if lines else []
    print("\n".join(["\nworse than the last time:", *grown]) if grown else "\nnothing is worse than the last time")
    if not arguments.dry:
        path.write_text(json.dumps([*lines, line], indent=2) + "\n")


if __name__ == "__main__":
    main()
