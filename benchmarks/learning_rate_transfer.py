"""Whether the best learning rate stays where it is as a GPT grows in width and in depth: `modular` beside AdamW.

    python benchmarks/learning_rate_transfer.py --quick    # sizes up to x4, some minutes on two cores
    python benchmarks/learning_rate_transfer.py            # x8 in width and in depth: an hour on one core
    python benchmarks/learning_rate_transfer.py --full     # width 64 to 1024, depth 2 to 32: a GPU, or days

Every size is trained at learning rates a factor 1.5 apart, two to each side of the best one of the smallest size, and
on until both neighbours of its own best are worse. Runs are kept in `out/sweeps/`: the same command goes on where it
was interrupted. Writes `learning_rate_transfer.json` and `learning_rate_transfer.png` to `benchmarks/results/`.
"""

import argparse
import dataclasses
import json
import math
import statistics
from pathlib import Path
from typing import Any

from measure import machine
from sweeps.charts import transfer_picture
from sweeps.run import Hyper, Run, Setting
from sweeps.runner import Runner
from sweeps.search import FACTOR, bracketed, learning_rate

RESULTS = Path(__file__).parent / "results"
CACHE = Path("out/sweeps")

BEGINNINGS = {"modular": 2, "adamw": -2}
REACH = 2  # learning rates to each side of the smallest size's best

PILOT = Setting(width=32, depth=2, steps=150, batch=16, context=32, evaluations=3)
LONG = Setting(width=64, depth=2, steps=1000, batch=32, context=128, evaluations=10)
SIZES = {
    "quick": (PILOT, {"width": [16, 32, 64], "depth": [2, 4, 8]}),
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
                "points": [{"learning_rate": learning_rate(i), **summary(losses[setting, i])} for i in points],
                "best_learning_rate": learning_rate(best),
                "steps_of_the_grid_moved": best - first,
                "best_loss": loss(setting, best),
                "transferred_loss": loss(setting, first),
                "transferred_excess": loss(setting, first) / loss(setting, best) - 1,
                "basin": basin({i: loss(setting, i) for i in points}),
            }
        )
    return {"learning_rate": learning_rate(first), "sizes": sizes}


def summary(values: list[float]) -> dict[str, Any]:
    """Median and range over seeds; `None` where training diverged."""
    numbers = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def basin(losses: dict[int, float], tolerance: float = 0.01) -> float:
    """Ratio of the largest to the smallest learning rate within `tolerance` of the best loss, by interpolation.

    A side that the grid does not reach the end of counts as far as it goes.
    """
    best = min(losses, key=losses.__getitem__)
    goal = losses[best] * (1 + tolerance)

    def side(direction: int) -> float:
        at = best
        while at + direction in losses:
            here, there = losses[at], losses[at + direction]
            if there > goal:
                return abs(at - best) + (goal - here) / (there - here)
            at += direction
        return abs(at - best)

    return FACTOR ** (side(1) + side(-1))


def show(growth: str, name: str, result: dict[str, Any]) -> None:
    """Prints what was found for one optimizer."""
    print(f"\n{name}, growing {growth}; {result['learning_rate']:.3g} is best for the smallest")
    for size in result["sizes"]:
        print(
            f"{growth} {size['size']:5}: best {size['best_learning_rate']:.3g} ({size['steps_of_the_grid_moved']:+d}) "
            f"loss {size['best_loss']:.4f}, transferred {size['transferred_loss']:.4f} "
            f"({100 * size['transferred_excess']:+.2f} %), basin x{size['basin']:.1f}"
        )


def main() -> None:
    """Runs the sweep, prints its tables, and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick", dest="extent", action="store_const", const="quick", default="default", help="minutes"
    )
    extent.add_argument("--full", dest="extent", action="store_const", const="full", help="hours, or a GPU")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every learning rate (3)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (benchmarks/results)")
    arguments = parser.parse_args()

    pilot, growths = SIZES[arguments.extent]
    sizes = sum(map(len, growths.values()))
    runner = Runner(CACHE, sizes * len(BEGINNINGS) * (2 * REACH + 1) * arguments.seeds)
    record: dict[str, Any] = {"machine": machine(), "seeds": arguments.seeds, "setting": dataclasses.asdict(pilot)}
    record["growths"] = {growth: {"optimizers": {}} for growth in growths}
    for growth, values in growths.items():
        settings = [dataclasses.replace(pilot, **{growth: value}) for value in values]
        for name in BEGINNINGS:
            result = swept(settings, growth, name, arguments.seeds, runner)
            record["growths"][growth]["optimizers"][name] = result
            show(growth, name, result)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "learning_rate_transfer.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    transfer_picture(record, arguments.out / "learning_rate_transfer.png")


if __name__ == "__main__":
    main()
