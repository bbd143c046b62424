"""How fast `modula_optax.modular` trains beside tuned AdamW, Muon and Scion: a GPT and one of four times its size.

    python benchmarks/training.py --quick     # the smaller one, some minutes on two cores
    python benchmarks/training.py             # both: an hour on one core
    python benchmarks/training.py --full      # larger and longer: a GPU, or a night

Every optimizer has the same tokens, schedule and grid of learning rates, walked until both neighbours of the best are
worse. `modular` has one number to tune; the others have theirs tuned as well. Seed 0 chooses, all seeds are reported.
Runs are kept in `out/sweeps/`: the same command goes on where it was interrupted. Writes `training.json` and
`training.png` to `benchmarks/results/`.
"""

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from measure import in_turn, machine, ratio
from sweeps.charts import efficiency_picture
from sweeps.contenders import OPTIMIZERS
from sweeps.run import Curve, Hyper, Run, Setting
from sweeps.runner import Runner, compiled, problem_of
from sweeps.search import tuned

RESULTS = Path(__file__).parent / "results"
CACHE = Path("out/sweeps")

SMALL, LARGE = Setting(64, 2, 200, 16, 32), Setting(128, 2, 200, 16, 32)
SETTINGS = {
    "quick": [SMALL],
    "default": [SMALL, LARGE],
    "full": [Setting(256, 6, 2000, 64, 256), Setting(512, 6, 2000, 64, 256)],
}

# where each number's search begins, as indices of learning rates and of these grids
BEGINNINGS = {
    "modular": {"learning_rate": 2},
    "muon": {"learning_rate": 2, "second_rate": 2, "weight_decay": 0, "b2": 2},
    "adamw": {"learning_rate": -3, "b2": 2, "weight_decay": 1},
    "scion": {"learning_rate": 1},
}
GRIDS = {
    "b2": (0.8, 0.9, 0.95, 0.98, 0.99),
    # 0 is no edge: there is nothing beyond it
    "weight_decay": (0.0, 0.1, 0.3, 1.0, 3.0),
    "second_rate": (0.0625, 0.125, 0.25, 0.5, 1.0),
}


def compare(setting: Setting, seeds: int, runner: Runner) -> dict[str, dict[str, Any]]:
    """Tunes every optimizer, runs its best numbers with all seeds, and compares it with AdamW."""
    tunings = {name: tune(setting, name, runner) for name in OPTIMIZERS}
    curves = {
        name: runner(Run(setting, name, Hyper(**tuning["hyper"]), seed) for seed in range(seeds))
        for name, tuning in tunings.items()
    }
    seconds = seconds_per_step(setting, {name: Hyper(**tuning["hyper"]) for name, tuning in tunings.items()})
    reference = list(curves["adamw"].values())
    results = {}
    for name, tuning in tunings.items():
        own = list(curves[name].values())
        time = ratio(seconds[name], seconds["adamw"])
        share = [c.steps_to(r.final) / setting.steps for c, r in zip(own, reference, strict=True)]
        results[name] = tuning | {
            "final_loss": spread([c.final for c in own]),
            "loss_at_adamw_time": spread([at(c, setting.steps / time["median"]) for c in own]),
            "steps_to_adamw_loss": spread(share),
            "seconds_per_step": statistics.median(seconds[name]),
            "step_time": time,
            "time_to_adamw_loss": spread([s * time["median"] for s in share]),
            "curves": [c._asdict() for c in own],
        }
    return results


def tune(setting: Setting, name: str, runner: Runner) -> dict[str, Any]:
    """The best numbers of an optimizer with seed 0, and what was tried for them."""
    tried: dict[Run, Curve] = {}

    def loss(values: Mapping[str, float]) -> float:
        run = Run(setting, name, Hyper(**values))
        if run not in tried:
            tried[run] = runner.one(run)
        return tried[run].final

    beginning = BEGINNINGS[name]
    best = tuned(loss, beginning, {grid: values for grid, values in GRIDS.items() if grid in beginning})
    trials = [{n: getattr(run.hyper, n) for n in best} | {"final_loss": c.final} for run, c in tried.items()]
    return {"hyper": best, "trials": trials}


def spread(values: list[float]) -> dict[str, float | None]:
    """Median and range over seeds; `None` for what is not finite."""
    numbers = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def at(curve: Curve, step: float) -> float:
    """The last loss that was measured by this step."""
    return next((v for s, v in reversed(list(zip(*curve, strict=True))) if s <= step), math.inf)


def seconds_per_step(setting: Setting, hypers: Mapping[str, Hyper], repeats: int = 15) -> dict[str, list[float]]:
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


def show(title: str, results: dict[str, dict[str, Any]]) -> None:
    """Prints what was found in one setting."""
    print(f"\n{title}\n{'':10}{'loss':>8}{'range':>18}{'steps':>8}{'time':>8}{'step':>8}  tuned")
    for name, r in results.items():
        final, steps, time = (r[key] for key in ("final_loss", "steps_to_adamw_loss", "time_to_adamw_loss"))
        cells = [f"{v['median']:8.2f}" if v["median"] is not None else f"{'-':>8}" for v in (steps, time)]
        chosen = ", ".join(f"{key} {value:.3g}" for key, value in r["hyper"].items())
        print(
            f"{name:10}{final['median']:8.3f}{final['lowest']:10.3f} -{final['highest']:6.3f}{''.join(cells)}"
            f"{r['step_time']['median']:8.2f}  {chosen} ({len(r['trials'])} runs)"
        )


def main() -> None:
    """Runs the sweep, prints its tables, and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", default="default", help="minutes")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="hours, or a GPU")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each optimizer's best numbers (3)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (benchmarks/results)")
    arguments = parser.parse_args()

    # about eight learning rates and four values of every other number
    expected = sum(8 + 4 * (len(numbers) - 1) + arguments.seeds - 1 for numbers in BEGINNINGS.values())
    settings = SETTINGS[arguments.size]
    runner = Runner(CACHE, expected * len(settings))
    record: dict[str, Any] = {"machine": machine(), "seeds": arguments.seeds, "comparisons": []}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for setting in settings:
        results = compare(setting, arguments.seeds, runner)
        show(setting.title, results)
        record["comparisons"].append({"setting": dataclasses.asdict(setting), "optimizers": results})
        # after each setting, so that an interruption leaves what is finished
        (arguments.out / "training.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        efficiency_picture(record, arguments.out / "training.png")


if __name__ == "__main__":
    main()
