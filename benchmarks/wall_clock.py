"""Seconds of whole runs in turn: what the defaults take to the loss that tuned Muon ends at.

    python benchmarks/wall_clock.py --task "usual gpt" --batch 64 --fewer whitened=840 modular=960 --seeds 100-102

Muon trains for the steps of the task and the others for fewer, each with the numbers that seeds below 100 chose for so
many steps on the panel. Programs are compiled before, runs of one seed follow each other on all cores, and the time of
each is compared with that of Muon beside it. Writes `wall_clock.json` to `benchmarks/results/`.
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
from measure import machine
from panel import RESULTS as PANEL_RUNS
from panel import seeds_of
from sweeps.panel import SETTINGS
from sweeps.report import Runs, Where, chosen, read
from sweeps.run import Hyper, Run, Setting
from sweeps.whole import arguments_of, compiled, task_of

RESULTS = Path(__file__).parent / "results" / "wall_clock.json"


def tuned(runs: Runs, setting: Setting, contender: str) -> Hyper:
    """The numbers that the panel chose for a contender in a setting."""
    where = Where(data=task_of(setting, None).name, **{k: getattr(setting, k) for k in Where._fields if k != "data"})
    return Hyper(**chosen(contender, runs[where][contender]).numbers)


def timed(runs: dict[str, Run], seeds: list[int]) -> dict[str, Any]:
    """Seconds and final losses of every run, seed by seed and in turn."""
    programs = {
        name: compiled(run.setting, run.optimizer, None).lower(*arguments_of(run, None)).compile()
        for name, run in runs.items()
    }
    results: dict[str, Any] = {
        name: {"steps": run.setting.steps, **run.hyper._asdict(), "seconds": [], "losses": []}
        for name, run in runs.items()
    }
    for seed in seeds:
        for name, run in runs.items():
            arguments = arguments_of(dataclasses.replace(run, seed=seed), None)
            started_at = time.perf_counter()
            losses = jax.block_until_ready(programs[name](*arguments))
            results[name]["seconds"].append(time.perf_counter() - started_at)
            results[name]["losses"].append(float(losses[-1]))
            print(name, seed, f"{results[name]['seconds'][-1]:.1f} s", f"{losses[-1]:.4f}", flush=True)
    return results


def main() -> None:
    """Trains, prints, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(SETTINGS), default="usual gpt", help="what is trained (usual gpt)")
    parser.add_argument("--batch", type=int, default=64, help="sequences in a step (64)")
    parser.add_argument("--steps", type=int, default=1000, help="those of Muon (1000)")
    parser.add_argument("--fewer", nargs="+", default=["whitened=840"], help="steps of others, such as whitened=840")
    parser.add_argument("--seeds", nargs="+", default=["100-102"], help="such as 100-102")
    arguments = parser.parse_args()
    steps = {"muon": arguments.steps} | {name: int(n) for name, _, n in (x.partition("=") for x in arguments.fewer)}
    base = dataclasses.replace(SETTINGS[arguments.task], batch=arguments.batch)
    settings = {name: dataclasses.replace(base, steps=count) for name, count in steps.items()}
    found = read(PANEL_RUNS)
    runs = {name: Run(setting, name, tuned(found, setting, name)) for name, setting in settings.items()}
    results = timed(runs, seeds_of(arguments.seeds))
    for result in results.values():
        ratios = [a / b for a, b in zip(result["seconds"], results["muon"]["seconds"], strict=True)]
        result |= {"ratio": statistics.median(ratios), "ratios": ratios, "loss": statistics.fmean(result["losses"])}
    before = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else {}
    setting = f"{arguments.task}, {arguments.batch} x {base.context} bytes"
    record = {"machine": machine(), "results": before | {setting: results}}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
