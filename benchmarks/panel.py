"""The panel of tasks that the defaults are chosen on and judged by: whole runs, each once, from a committed cache.

    python benchmarks/panel.py --task "usual gpt" --contender modular --rates 0.033 0.05 0.075
    python benchmarks/panel.py --task "usual gpt" --contender muon --rates 0.05 --decays 0.03 0.1 --seeds 100-107
    python benchmarks/panel.py --task mlp --contender modular --rates 0.05 --steps 550
    python benchmarks/panel.py --ladder 250000 --contender modular muon --rates 0.05
    python benchmarks/panel.py --report    # the tables, from the cache alone

Every contender of `sweeps/entrants.py` on every task of `sweeps/panel.py`, over the grid of the numbers that are given.
Seeds up to 99 are for choosing numbers, those from 100 on for reporting. Runs are kept in `benchmarks/results/panel/`,
a line of JSON each: the same command goes on where it was interrupted, also on another machine. `--data FILE` is
another text, `--data DIR` other images, such as Fashion-MNIST (Debian: `dataset-fashion-mnist`).
"""

import argparse
import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import jax
from sweeps.entrants import PANEL
from sweeps.panel import SETTINGS, ladder
from sweeps.report import read, tables
from sweeps.run import Hyper, Run, Setting
from sweeps.store import Store
from sweeps.whole import norms_of, task_of, train

from gpt.errors import UserError

RESULTS = Path(__file__).parent / "results" / "panel"


def seeds_of(texts: Sequence[str]) -> list[int]:
    """Seeds as they are written: `0 1 100-107`."""
    ranges = (text.partition("-") for text in texts)
    return [seed for first, _, last in ranges for seed in range(int(first), int(last or first) + 1)]


def store_of(setting: Setting, data: Path | None, expected: int) -> Store:
    """The runs of a setting's task."""

    def identity(run: Run) -> str:
        return task_of(run.setting, data).source + norms_of(run.setting, run.optimizer, data)

    path = RESULTS / f"{setting.task.replace(' ', '_')}.jsonl"
    return Store(path, lambda run: train(run, data), identity, task_of(setting, data).name, expected)


def main() -> None:
    """Trains what is asked for and is not there yet, and prints the mean of its losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(SETTINGS), help="what is trained")
    parser.add_argument("--ladder", type=int, help="a clean GPT of so many weights instead, on 20 bytes for each")
    parser.add_argument("--contender", nargs="+", choices=list(PANEL), default=["modular"], help="by what")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.05], help="learning rates (0.05)")
    parser.add_argument("--decays", nargs="+", type=float, default=[0.03], help="weight decays (0.03)")
    parser.add_argument("--b1", nargs="+", type=float, default=[0.9], help="momenta (0.9)")
    parser.add_argument("--b2", nargs="+", type=float, default=[0.95], help="of Adam's second moment (0.95)")
    parser.add_argument("--second-rates", nargs="+", type=float, default=[0.25], help="of Muon's Adam, relative (0.25)")
    parser.add_argument("--seeds", nargs="+", default=["0"], help="such as 0 1 100-107 (0)")
    for name, meaning in {
        "width": "of the network",
        "depth": "of the network",
        "steps": "of training",
        "batch": "per step",
    }.items():
        parser.add_argument(f"--{name}", type=int, help=f"{meaning}, in place of the task's own")
    parser.add_argument("--data", type=Path, help="a text, or a directory of IDX files")
    parser.add_argument("--report", action="store_true", help="only print the tables of what there is")
    arguments = parser.parse_args()
    if arguments.report:
        print(*tables(read(RESULTS)), sep="\n")
        return
    if (arguments.task is None) == (arguments.ladder is None):
        parser.error("say --task or --ladder")

    jax.config.update("jax_compilation_cache_dir", "out/compiled")
    setting = SETTINGS[arguments.task] if arguments.task else ladder(arguments.ladder)
    changes = {name: getattr(arguments, name) for name in ("width", "depth", "steps", "batch")}
    setting = dataclasses.replace(setting, **{name: value for name, value in changes.items() if value is not None})
    if setting.steps % setting.evaluations:
        parser.error(f"--steps must be a multiple of {setting.evaluations}, the number of evaluations")
    grid = itertools.product(arguments.rates, arguments.b2, arguments.decays, arguments.second_rates, arguments.b1)
    hypers, seeds = [Hyper(*numbers) for numbers in grid], seeds_of(arguments.seeds)
    store = store_of(setting, arguments.data, len(arguments.contender) * len(hypers) * len(seeds))
    try:
        lines = [row(setting, name, hyper, seeds, store) for name in arguments.contender for hyper in hypers]
    except UserError as error:
        parser.error(str(error))
    print("", "| contender | numbers | n | mean | sigma |", "|---|---|---|---|---|", *lines, sep="\n")


def row(setting: Setting, name: str, hyper: Hyper, seeds: Sequence[int], store: Store) -> str:
    """Mean and standard deviation of the final losses of one choice of numbers, as a line of Markdown."""
    finals = [store(Run(setting, name, hyper, seed)).final for seed in seeds]
    sigma = f"{statistics.stdev(finals):.4f}" if len(finals) > 1 and math.isfinite(sum(finals)) else ""
    numbers = " ".join(f"{key} {value:.3g}" for key, value in hyper._asdict().items())
    return f"| {name} | {numbers} | {len(finals)} | {statistics.fmean(finals):.4f} | {sigma} |"


if __name__ == "__main__":
    main()
