"""What each choice of `modula_optax.modular` is worth: the same GPT with one of them changed at a time.

    python benchmarks/ablations.py             # half an hour on one core
    python benchmarks/ablations.py --quick     # the groups of norms and polynomials only, with one seed

Every variant has a learning rate of its own, walked until both neighbours are worse with seed 0; then all seeds. Runs
are kept in `out/sweeps/`: the same command goes on where it was interrupted. Writes `ablations.json` to
`benchmarks/results/`.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from measure import machine
from sweeps.contenders import OPTIMIZERS
from sweeps.run import Hyper, Run, Setting
from sweeps.runner import Runner
from sweeps.search import bracketed, learning_rate
from sweeps.summary import spread
from sweeps.variants import GROUPS, HIDDEN_MASSES, SENSITIVITIES, WEIGHT_DECAYS

RESULTS = Path(__file__).parent / "results"
CACHE = Path("out/sweeps")

SETTING = Setting(width=32, depth=2, steps=150, batch=16, context=32, evaluations=3)
DEEP = dataclasses.replace(SETTING, depth=16)
SCALED = dataclasses.replace(SETTING, task="scaled gpt")
QUICK = ("norms", "polynomial")
BEGINNING = 3  # index of the learning rate that is tried first
EXPECTED = 4  # learning rates until one is bracketed


class Choice(NamedTuple):
    """One variant of one group."""

    group: str
    name: str
    setting: Setting
    optimizer: str
    weight_decay: float = Hyper(0.0).weight_decay


def choices(groups: tuple[str, ...] | None) -> Iterator[Choice]:
    """All variants, or those of some groups."""
    for group, variants in GROUPS.items():
        if groups is None or group in groups:
            for name in variants:
                yield Choice(group, name, SETTING, registered(group, name, variants[name]))
    if groups is None:
        for name, contender in HIDDEN_MASSES.items():
            yield Choice("hidden mass, depth 16", name, DEEP, registered("hidden mass", name, contender))
        for name, contender in SENSITIVITIES.items():
            yield Choice("sensitivity", name, SCALED, registered("sensitivity", name, contender))
        for decay in WEIGHT_DECAYS:
            yield Choice("weight decay", f"{decay:g}", SETTING, "modular", decay)


def registered(group: str, name: str, contender: Any) -> str:
    """The key of a contender: a new one, unless it is among those that are compared anyway."""
    for key, known in OPTIMIZERS.items():
        if contender == known:
            return key
    key = f"modular, {group}: {name}"
    OPTIMIZERS[key] = contender
    return key


def measure(choice: Choice, seeds: int, runner: Runner) -> dict[str, Any]:
    """The best learning rate of a variant, and its loss with all seeds."""

    def run(index: int, seed: int) -> Run:
        return Run(
            choice.setting, choice.optimizer, Hyper(learning_rate(index), weight_decay=choice.weight_decay), seed
        )

    best = bracketed(lambda index: runner.one(run(index, 0)).final, BEGINNING)
    finals = [runner.one(run(best, seed)).final for seed in range(seeds)]
    return {"learning_rate": learning_rate(best), "final_loss": spread(finals), "final_losses": finals}


def table(groups: dict[str, dict[str, Any]]) -> list[str]:
    """What was found, as lines of Markdown."""
    lines = ["| | | final loss | learning rate |", "|---|---|---|---|"]
    for group, variants in groups.items():
        for name, result in variants.items():
            final = "{median:.3f} ({lowest:.3f} to {highest:.3f})".format(**result["final_loss"])
            lines.append(f"| {group} | {name} | {final} | {result['learning_rate']:.3g} |")
            group = ""
    return lines


def main() -> None:
    """Runs the sweep, prints its tables, and writes its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="norms and polynomials only, with one seed")
    parser.add_argument("--seeds", type=int, default=3, help="runs at each variant's best learning rate (3)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (benchmarks/results)")
    arguments = parser.parse_args()

    seeds, all_choices = 1 if arguments.quick else arguments.seeds, list(choices(QUICK if arguments.quick else None))
    runner = Runner(CACHE, len(all_choices) * (EXPECTED + seeds))
    groups: dict[str, dict[str, Any]] = {}
    for choice in all_choices:
        groups.setdefault(choice.group, {})[choice.name] = measure(choice, seeds, runner)
    print("", *table(groups), sep="\n")
    record = {"machine": machine(), "seeds": seeds, "setting": dataclasses.asdict(SETTING)}
    record |= {"deep": dataclasses.asdict(DEEP), "scaled": dataclasses.asdict(SCALED), "groups": groups}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "ablations.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
