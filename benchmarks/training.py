"""How fast `modula_optax.modular` trains beside tuned AdamW, Muon and Scion: a GPT and one of four times its size.

    python benchmarks/training.py --quick     # the smaller one, some minutes on two cores
    python benchmarks/training.py             # both: an hour on one core
    python benchmarks/training.py --full      # larger and longer: a GPU, or a night
    python benchmarks/training.py --digits    # a classifier of digits instead: ten minutes on one core
    python benchmarks/training.py --data DIR  # of the images in a directory, such as Fashion-MNIST

Every optimizer has the same tokens, schedule and grid of learning rates, walked until both neighbours of the best are
worse. `modular` has one number to tune; the others have theirs tuned as well on the smaller GPT, and their learning
rate again on the larger. Seed 0 chooses, all seeds are reported; of images, whose losses differ more from seed to seed,
all seeds choose.
Runs are kept in `out/sweeps/`: the same command goes on where it was interrupted. Writes `training.json` and
`training.png` to `benchmarks/results/`, `training_digits.json` and so on for images.
"""

import dataclasses
import json
import statistics
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from measure import in_turn, machine, ratio
from sweeps.charts import efficiency_picture
from sweeps.command import parse
from sweeps.contenders import OPTIMIZERS
from sweeps.run import OF_IMAGES, Hyper, Run, Setting
from sweeps.runner import Runner, compiled, problem_of
from sweeps.search import tuned, values_of
from sweeps.summary import at, spread

RESULTS = Path(__file__).parent / "results"

SMALL, LARGE = Setting(64, 2, 200, 16, 32), Setting(128, 2, 200, 16, 32)
SETTINGS = {
    "quick": [SMALL],
    "default": [SMALL, LARGE],
    "full": [Setting(256, 6, 2000, 64, 256), Setting(512, 6, 2000, 64, 256)],
}
IMAGES = Setting(64, 2, **OF_IMAGES)
IMAGE_SETTINGS = {
    "quick": [IMAGES],
    "default": [IMAGES, dataclasses.replace(IMAGES, width=128)],
    "full": [dataclasses.replace(IMAGES, width=width, depth=6, steps=2000) for width in (256, 512)],
}


class Entry(NamedTuple):
    """An optimizer, and where the search of each of its numbers begins: indices of learning rates and of `GRIDS`."""

    optimizer: str
    beginning: dict[str, int]


ENTRIES = {
    "modular": Entry("modular", {"learning_rate": 3}),
    "muon": Entry("muon", {"learning_rate": 2, "second_rate": 5, "weight_decay": 2, "b2": 1}),
    "adamw": Entry("adamw", {"learning_rate": -2, "b2": 3, "weight_decay": 1}),
    "scion": Entry("scion", {"learning_rate": 1}),
}
GRIDS = {
    "b2": (0.6, 0.8, 0.9, 0.95, 0.98, 0.99),
    # 0 is no edge: there is nothing beyond it
    "weight_decay": (0.0, 0.1, 0.3, 1.0, 3.0),
    "second_rate": (0.015625, 0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0),
}


def compare(
    setting: Setting,
    entries: Mapping[str, Entry],
    names: Collection[str] | None,
    seeds: int,
    judges: int,
    runner: Runner,
) -> tuple[dict[str, dict[str, Any]], dict[str, Entry]]:
    """Tunes every optimizer, runs its best numbers with all seeds, and compares it with AdamW.

    Args:
      setting: what is trained.
      entries: the optimizers.
      names: the numbers to tune; `None`: all of them.
      seeds: how many runs of the best numbers.
      judges: how many of the seeds choose the best numbers, by the median of their losses.
      runner: what runs them.

    Returns:
      Results, and entries whose search begins at what was best here.
    """
    found = {name: tune(setting, entry, names, judges, runner) for name, entry in entries.items()}
    best = {name: entry for name, (entry, _) in found.items()}
    hypers = {name: Hyper(**values_of(entry.beginning, GRIDS)) for name, entry in best.items()}
    curves = {
        name: [runner.one(Run(setting, entry.optimizer, hypers[name], seed)) for seed in range(seeds)]
        for name, entry in best.items()
    }
    seconds = seconds_per_step(setting, {entry.optimizer: hypers[name] for name, entry in best.items()})
    results = {}
    for name, entry in best.items():
        time = ratio(seconds[entry.optimizer], seconds["adamw"])
        share = [c.steps_to(r.final) / setting.steps for c, r in zip(curves[name], curves["adamw"], strict=True)]
        results[name] = {
            "hyper": values_of(entry.beginning, GRIDS),
            "trials": found[name][1],
            "final_loss": spread([c.final for c in curves[name]]),
            "loss_at_adamw_time": spread([at(c, setting.steps / time["median"]) for c in curves[name]]),
            "steps_to_adamw_loss": spread(share),
            "seconds_per_step": statistics.median(seconds[entry.optimizer]),
            "step_time": time,
            "time_to_adamw_loss": spread([s * time["median"] for s in share]),
            "curves": [c._asdict() for c in curves[name]],
        }
    return results, best


def tune(
    setting: Setting, entry: Entry, names: Collection[str] | None, judges: int, runner: Runner
) -> tuple[Entry, list[dict[str, float]]]:
    """The entry at its best numbers, and what was tried for them."""
    tried: dict[Hyper, float] = {}

    def loss(values: Mapping[str, float]) -> float:
        hyper = Hyper(**values)
        if hyper not in tried:
            runs = (Run(setting, entry.optimizer, hyper, seed) for seed in range(judges))
            tried[hyper] = statistics.median(curve.final for curve in runner(runs).values())
        return tried[hyper]

    best = tuned(loss, entry.beginning, GRIDS, names)
    trials = [{n: getattr(hyper, n) for n in best} | {"final_loss": value} for hyper, value in tried.items()]
    return Entry(entry.optimizer, best), trials


def seconds_per_step(setting: Setting, hypers: Mapping[str, Hyper], repeats: int = 60) -> dict[str, list[float]]:
    """Seconds of a step of every optimizer, in turn: what else the machine does meets all of them."""
    problem = problem_of(setting)
    batch = problem.batch(0, 0)

    def stepper(name: str, hyper: Hyper):
        program = compiled(setting, name)
        state = program.init(hyper, OPTIMIZERS[name].params(problem, 0))

        def step() -> None:
            nonlocal state
            state = jax.block_until_ready(program.step(hyper, state, batch))

        return step

    return in_turn({name: stepper(name, hyper) for name, hyper in hypers.items()}, repeats)


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """What was found in one setting, as lines of Markdown."""
    lines = [
        "| optimizer | final loss | steps to AdamW's loss | time to it | loss at AdamW's time | step | tuned |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        final = "{median:.3f} ({lowest:.3f} to {highest:.3f})".format(**r["final_loss"])
        keys = ("steps_to_adamw_loss", "time_to_adamw_loss", "loss_at_adamw_time", "step_time")
        cells = ["-" if r[key]["median"] is None else f"{r[key]['median']:.{2 + ('loss_at' in key)}f}" for key in keys]
        chosen = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in r["hyper"].items())
        lines.append(f"| {name} | {final} | {' | '.join(cells)} | {chosen}; {len(r['trials'])} runs |")
    return lines


def main() -> None:
    """Runs the sweep, prints its tables, and writes its results."""
    command = parse(__doc__, RESULTS / "training")
    settings, judges = SETTINGS[command.extent], 1
    if command.task != "gpt":
        settings = [dataclasses.replace(setting, task=command.task) for setting in IMAGE_SETTINGS[command.extent]]
        judges = command.seeds
    # about eight learning rates and four values of every other number
    tried = sum(8 + 4 * (len(entry.beginning) - 1) for entry in ENTRIES.values())
    expected = tried * judges + len(ENTRIES) * command.seeds
    runner = Runner(command.cache, expected * len(settings))
    record: dict[str, Any] = {"machine": machine(), "seeds": command.seeds, "comparisons": []}
    entries: Mapping[str, Entry] = ENTRIES
    names = None
    for setting in settings:
        results, entries = compare(setting, entries, names, command.seeds, judges, runner)
        names = ("learning_rate",)
        print("", setting.title, *table(results), sep="\n")
        record["comparisons"].append({"setting": dataclasses.asdict(setting), "optimizers": results})
        # after each setting, so that an interruption leaves what is finished
        command.results.with_suffix(".json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        efficiency_picture(record, command.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
