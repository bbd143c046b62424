"""What the panel found, from its files alone: the best numbers of every contender, and what they came to."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sweeps.referee import FEWEST, reaches
from sweeps.run import Hyper
from sweeps.store import entries_of

REPORTED_FROM = 100  # seeds below choose numbers
# numbers that a contender has beside its learning rate and its decay
OWN = {"muon": ("second_rate",), "adamw": ("b2",), "scion": ()}
HYPER = ("learning_rate", "second_rate", "b2", "weight_decay", "b1")


class Where(NamedTuple):
    """What was trained, and on what."""

    task: str
    data: str
    width: int
    depth: int
    steps: int
    batch: int
    context: int

    @property
    def title(self) -> str:
        """The same in words."""
        data = "" if self.context else f" on {self.data}"
        what = f"{self.batch} x {self.context} bytes" if self.context else f"{self.batch} images"
        return f"{self.task}{data}, width {self.width}, depth {self.depth}, {self.steps} steps of {what}"


class Found(NamedTuple):
    """One choice of numbers of one contender in one setting, and its validation losses by seed."""

    numbers: Mapping[str, float]
    curves: dict[int, list[float]]

    @property
    def losses(self) -> dict[int, float]:
        """The last of each seed."""
        return {seed: curve[-1] for seed, curve in self.curves.items()}

    @property
    def chosen_by(self) -> dict[int, float]:
        """Final losses of the seeds that choose."""
        return {seed: loss for seed, loss in self.losses.items() if seed < REPORTED_FROM}

    @property
    def reported(self) -> dict[int, float]:
        """Final losses of the seeds that report."""
        return {seed: loss for seed, loss in self.losses.items() if seed >= REPORTED_FROM}


Runs = dict[Where, dict[str, list[Found]]]


def read(directory: Path) -> Runs:
    """All runs in the files of a directory."""
    return gathered(entry for path in sorted(directory.glob("*.jsonl")) for entry in entries_of(path))


def gathered(entries: Iterable[Mapping[str, Any]]) -> Runs:
    """The runs by setting and by contender."""
    runs: dict[Any, dict[str, dict[Any, Any]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for entry in entries:
        numbers = tuple(entry[name] for name in HYPER)
        curves = runs[Where(*(entry[name] for name in Where._fields))][entry["optimizer"]][numbers]
        curves[entry["seed"]] = [math.inf if loss is None else loss for loss in entry["losses"]]
    return {
        where: {
            name: [Found(dict(zip(HYPER, numbers, strict=True)), curves) for numbers, curves in choices.items()]
            for name, choices in contenders.items()
        }
        for where, contenders in runs.items()
    }


def means(choices: Sequence[Found]) -> list[tuple[float, Found]]:
    """Choices with mean losses that can be compared: over the seeds in common to all that most were tried with."""
    seeds = Counter(seed for found in choices for seed in found.chosen_by)
    tried = [found for found in choices if max(seeds, key=lambda seed: seeds[seed], default=0) in found.chosen_by]
    common = set.intersection(*(set(found.chosen_by) for found in tried)) if tried else set()
    return [(statistics.fmean(found.losses[seed] for seed in common), found) for found in tried]


def best(choices: Sequence[Found]) -> Found:
    """The choice of the lowest mean."""
    return min(means(choices), key=lambda pair: pair[0])[1]


def chosen(name: str, choices: Sequence[Found]) -> Found:
    """The best of a contender: where it has the defaults of this package, of its learning rate alone."""
    usual = Hyper(0.0)._asdict()
    others = () if name in OWN else ("weight_decay", "b1")
    return best([found for found in choices if all(found.numbers[key] == usual[key] for key in others)])


def chosen_of(contenders: Mapping[str, Sequence[Found]]) -> dict[str, Found]:
    """The best of every contender that was tried with seeds that choose."""
    return {
        name: chosen(name, choices) for name, choices in contenders.items() if any(found.chosen_by for found in choices)
    }


def tables(runs: Runs, target: str = "muon") -> list[str]:
    """Tables of all settings, as lines of Markdown.

    Args:
      runs: what there is.
      target: whose mean loss the others are to reach.
    """
    lines = []
    for where, contenders in sorted(runs.items()):
        lines += [where.title, ""]
        lines += ["| | best numbers | choosing: n, mean | reporting: n, mean, sigma | |", "|---|---|---|---|---|"]
        rows = chosen_of(contenders)
        for name, found in sorted(rows.items(), key=lambda row: statistics.fmean(row[1].chosen_by.values())):
            cells = [summary(found.chosen_by), summary(found.reported), verdict(found, rows.get(target))]
            lines.append(f"| {name} | {numbers_of(name, found)} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def numbers_of(name: str, found: Found) -> str:
    """The numbers that were chosen, in words."""
    own = ("learning_rate", *OWN.get(name, ()), "weight_decay")
    numbers = [f"{key.replace('_', ' ')} {found.numbers[key]:.3g}" for key in own]
    return ", ".join(numbers + ([f"b1 {found.numbers['b1']:.3g}"] if found.numbers["b1"] != 0.9 else []))


def verdict(found: Found, target: Found | None) -> str:
    """Whether the mean loss is below that of the target by more than chance, where there are enough runs of both."""
    if target is None or found is target or min(len(found.reported), len(target.reported)) < FEWEST:
        return ""
    goal, sigma = statistics.fmean(target.reported.values()), statistics.stdev(target.reported.values())
    return "below the target" if reaches(list(found.reported.values()), goal, sigma) else "not below the target"


def summary(losses: Mapping[int, float]) -> str:
    """How many, their mean, and their standard deviation."""
    if not losses:
        return "-"
    values = list(losses.values())
    sigma = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 and math.isfinite(sum(values)) else ""
    return f"{len(values)}: {statistics.fmean(values):.4f}{sigma}"


def grown(runs: Runs, base: Where, field: str, name: str) -> dict[int, list[Found]]:
    """What a contender came to in settings that differ from `base` in one number alone, by that number."""
    found = {
        getattr(where, field): contenders[name]
        for where, contenders in runs.items()
        if name in contenders and where._replace(**{field: getattr(base, field)}) == base
    }
    return dict(sorted(found.items()))


def valley(choices: Sequence[Found]) -> dict[float, float]:
    """Mean losses by learning rate, other numbers as most choices have them."""
    usual = max(map(_others, choices), key=list(map(_others, choices)).count)
    compared = means([found for found in choices if _others(found) == usual])
    return dict(sorted((found.numbers["learning_rate"], mean) for mean, found in compared))


def _others(found: Found) -> tuple[float, ...]:
    return tuple(found.numbers[name] for name in HYPER[1:])


def changes(contenders: Mapping[str, Sequence[Found]], base: str = "modular") -> dict[str, tuple[float, int]]:
    """What each contender costs beside the defaults, both at their best."""
    ours = chosen(base, contenders[base])
    costs = {name: cost(chosen(name, choices), ours) for name, choices in contenders.items() if name != base}
    return {name: found for name, found in costs.items() if found is not None}


def varied(name: str, choices: Sequence[Found], field: str) -> dict[float, tuple[float, int]]:
    """What another value of one number costs beside the best choice, all else as there."""
    found = chosen(name, choices)
    costs = {
        other.numbers[field]: cost(other, found)
        for other in choices
        if all(other.numbers[key] == found.numbers[key] for key in HYPER if key != field)
    }
    return dict(sorted((value, of_value) for value, of_value in costs.items() if of_value is not None))


def cost(one: Found, other: Found) -> tuple[float, int] | None:
    """By how much the loss is higher, on average over the seeds in common, and how many these are."""
    shared = set(one.losses) & set(other.losses)
    if not shared:
        return None
    return statistics.fmean(one.losses[seed] - other.losses[seed] for seed in shared), len(shared)
