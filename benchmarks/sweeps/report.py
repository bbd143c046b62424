"""What the panel found, from its files alone: the best numbers of every contender, and what they came to."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sweeps.referee import FEWEST, reaches

REPORTED_FROM = 100  # seeds below choose numbers
SETTING = ("task", "width", "depth", "steps", "batch", "context")
HYPER = ("learning_rate", "second_rate", "b2", "weight_decay", "b1")
# numbers that a contender has beside its learning rate and its decay
OWN = {"muon": ("second_rate",), "adamw": ("b2",)}
Losses = dict[int, float]


class Found(NamedTuple):
    """One choice of numbers of one contender in one setting, and its final losses by seed."""

    numbers: Mapping[str, float]
    losses: Losses

    @property
    def chosen_by(self) -> Losses:
        """Losses of the seeds that choose."""
        return {seed: loss for seed, loss in self.losses.items() if seed < REPORTED_FROM}

    @property
    def reported(self) -> Losses:
        """Losses of the seeds that report."""
        return {seed: loss for seed, loss in self.losses.items() if seed >= REPORTED_FROM}


def gathered(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], dict[str, list[Found]]]:
    """The runs by setting and by contender."""
    runs: dict[Any, dict[str, dict[Any, Losses]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for entry in entries:
        loss = entry["losses"][-1]
        numbers = tuple(entry[name] for name in HYPER)
        losses = runs[tuple(entry[name] for name in SETTING)][entry["optimizer"]][numbers]
        losses[entry["seed"]] = math.inf if loss is None else loss
    return {
        setting: {
            name: [Found(dict(zip(HYPER, numbers, strict=True)), losses) for numbers, losses in choices.items()]
            for name, choices in contenders.items()
        }
        for setting, contenders in runs.items()
    }


def best(choices: Iterable[Found]) -> Found:
    """The choice of the lowest mean over the seeds that all of them have been tried with."""
    tried = [found for found in choices if found.chosen_by]
    common = set.intersection(*(set(found.chosen_by) for found in tried))
    return min(tried, key=lambda found: statistics.fmean(found.losses[seed] for seed in common))


def tables(entries: Iterable[Mapping[str, Any]], target: str = "muon") -> list[str]:
    """Tables of all settings, as lines of Markdown.

    Args:
      entries: lines of the files.
      target: whose mean loss the others are to reach.
    """
    lines = []
    for setting, contenders in sorted(gathered(entries).items(), key=str):
        task, width, depth, steps, batch, context = setting
        what = f"{batch} x {context} bytes" if context else f"{batch} images"
        lines += [f"{task}, width {width}, depth {depth}, {steps} steps of {what}", ""]
        lines += ["| | best numbers | choosing: n, mean | reporting: n, mean, sigma | |", "|---|---|---|---|---|"]
        rows = {name: best(choices) for name, choices in contenders.items() if any(c.chosen_by for c in choices)}
        for name, found in sorted(rows.items(), key=lambda row: statistics.fmean(row[1].chosen_by.values())):
            lines.append(_row(name, found, rows.get(target)))
        lines.append("")
    return lines


def _row(name: str, found: Found, target: Found | None) -> str:
    own = ("learning_rate", *OWN.get(name, ()), "weight_decay")
    numbers = ", ".join(f"{key.replace('_', ' ')} {found.numbers[key]:.3g}" for key in own)
    if found.numbers["b1"] != 0.9:
        numbers += f", b1 {found.numbers['b1']:.3g}"
    cells = [_summary(found.chosen_by, False), _summary(found.reported, True), ""]
    if target is not None and found is not target and min(len(found.reported), len(target.reported)) >= FEWEST:
        losses = list(found.reported.values())
        goal, sigma = statistics.fmean(target.reported.values()), statistics.stdev(target.reported.values())
        cells[-1] = "below the target" if reaches(losses, goal, sigma) else "not below the target"
    return f"| {name} | {numbers} | {' | '.join(cells)} |"


def _summary(losses: Losses, with_sigma: bool) -> str:
    if not losses:
        return "-"
    values = list(losses.values())
    sigma = f", {statistics.stdev(values):.4f}" if with_sigma and len(values) > 1 else ""
    return f"{len(values)}, {statistics.fmean(values):.4f}{sigma}"
