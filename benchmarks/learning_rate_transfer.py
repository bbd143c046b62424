"""Whether the best learning rate stays where it is as a GPT grows in width and in depth: `modular` beside AdamW.

    python benchmarks/learning_rate_transfer.py --quick    # sizes up to x4, some minutes on two cores
    python benchmarks/learning_rate_transfer.py            # x8 in width and in depth: an hour on one core
    python benchmarks/learning_rate_transfer.py --full     # width 64 to 1024, depth 2 to 32: a GPU, or days
    python benchmarks/learning_rate_transfer.py --digits   # a classifier of digits instead; --data DIR: of images there

Every size is trained at learning rates a factor 1.5 apart, one to each side of the best one of the smallest size, and
on until both neighbours of its own best are worse. Runs are kept in `out/sweeps/`: the same command goes on where it
was interrupted. Writes `learning_rate_transfer.json` and `learning_rate_transfer.png` to `benchmarks/results/`.
"""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from measure import machine
from sweeps.charts import transfer_picture
from sweeps.command import parse
from sweeps.run import OF_IMAGES, Hyper, Run, Setting
from sweeps.runner import Runner
from sweeps.search import bracketed, learning_rate
from sweeps.summary import basin, spread

RESULTS = Path(__file__).parent / "results"

BEGINNINGS = {"modular": 3, "adamw": -2}
REACH = 1  # learning rates to each side of the smallest size's best

PILOT = Setting(width=32, depth=2, steps=150, batch=16, context=32, evaluations=3)
LONG = Setting(width=64, depth=2, steps=1000, batch=32, context=128, evaluations=10)
SIZES = {
    "quick": (PILOT, {"width": [16, 32, 64], "depth": [2, 4]}),
    "default": (PILOT, {"width": [16, 32, 64, 128], "depth": [2, 4, 8, 16]}),
    "full": (LONG, {"width": [64, 128, 256, 512, 1024], "depth": [2, 4, 8, 16, 32]}),
}


def swept(settings: list[Setting], growth: str, name: str, seeds: int, runner: Runner) -> dict[str, Any]:
    """Losses of an optimizer over learning rates at every size, and how well the smallest size's best does."""
    losses: dict[tuple[Setting, int], list[float]] = {}

    def loss(setting: Setting, index: int) -> float:
        if (setting, index) not in losses:
            runs = (Run(setting, name, Hyper(learning_rate(index)), seed) for seed in range(seeds))
            losses[setting, index] = [curve.final for curve in runner(runs).values()]
        return statistics.median(losses[setting, index])

    first = best = bracketed(lambda i: loss(settings[0], i), BEGINNINGS[name])
    sizes = []
    for setting in settings:
        for index in range(first - REACH, first + REACH + 1):
            loss(setting, index)
        # from the best of what is known, since what is walked over need not be convex
        known = [i for s, i in losses if s == setting]
        best = bracketed(lambda i, s=setting: loss(s, i), min(known, key=lambda i, s=setting: loss(s, i)))
        points = sorted(i for s, i in losses if s == setting)
        sizes.append(
            {
                "size": getattr(setting, growth),
                "points": [{"learning_rate": learning_rate(i), **spread(losses[setting, i])} for i in points],
                "best_learning_rate": learning_rate(best),
                "steps_of_the_grid_moved": best - first,
                "best_loss": loss(setting, best),
                "transferred_loss": loss(setting, first),
                "transferred_excess": loss(setting, first) / loss(setting, best) - 1,
                "basin": basin({i: loss(setting, i) for i in points}),
            }
        )
    return {"learning_rate": learning_rate(first), "sizes": sizes}


def table(growths: dict[str, Any]) -> list[str]:
    """What was found, as lines of Markdown."""
    lines = [
        "| | optimizer | best learning rate, smallest to largest | loss there | excess at the first | within 1 % |",
        "|---|---|---|---|---|---|",
    ]
    for growth, content in growths.items():
        for name, result in content["optimizers"].items():
            sizes = result["sizes"]
            columns = [
                ", ".join(f"{size['best_learning_rate']:.2g}" for size in sizes),
                ", ".join(f"{size['best_loss']:.3f}" for size in sizes),
                ", ".join(f"{100 * size['transferred_excess']:.1f} %" for size in sizes),
                ", ".join(f"x{size['basin']:.1f}" for size in sizes),
            ]
            span = f"{growth} {', '.join(str(size['size']) for size in sizes)}"
            lines.append(f"| {span} | {name} | {' | '.join(columns)} |")
    return lines


def main() -> None:
    """Runs the sweep, prints its tables, and writes its results."""
    command = parse(__doc__, RESULTS / "learning_rate_transfer")
    pilot, growths = SIZES[command.extent]
    if command.task != "gpt":
        pilot = dataclasses.replace(pilot, **OF_IMAGES, task=command.task)
    sizes = sum(map(len, growths.values()))
    runner = Runner(command.cache, sizes * len(BEGINNINGS) * (2 * REACH + 1) * command.seeds)
    record: dict[str, Any] = {"machine": machine(), "seeds": command.seeds, "setting": dataclasses.asdict(pilot)}
    record["growths"] = {growth: {"optimizers": {}} for growth in growths}
    for growth, values in growths.items():
        settings = [dataclasses.replace(pilot, **{growth: value}) for value in values]
        for name in BEGINNINGS:
            result = swept(settings, growth, name, command.seeds, runner)
            record["growths"][growth]["optimizers"][name] = result
    print("", *table(record["growths"]), sep="\n")
    command.results.with_suffix(".json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    transfer_picture(record, command.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
