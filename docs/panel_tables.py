"""The tables of the documentation that come from the panel's runs, `benchmarks/results/panel/*.jsonl`."""

import dataclasses
import json
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from sweeps.entrants import PANEL as ENTRANTS
from sweeps.panel import SETTINGS
from sweeps.report import (
    OWN,
    Found,
    Runs,
    Where,
    changes,
    chosen_of,
    grown,
    numbers_of,
    read,
    summary,
    valley,
    varied,
    verdict,
)

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "panel"
Lines = list[str]

# what a reader calls the tasks and their data
TASKS = {
    "usual gpt": "GPT with biases, LayerNorm, learned positions",
    "clean gpt": "GPT without biases and gains",
    "tied gpt": "GPT whose table is its head",
    "grouped gpt": "GPT with grouped queries and gated MLP",
    "large heads gpt": "GPT with heads of 64",
    "recurrent": "recurrent cell",
    "window": "perceptron that sees eight bytes",
    "mlp": "MLP with biases",
    "resnet": "CNN with BatchNorm",
    "vit": "vision transformer",
}
DATA = {"sotu": "bytes of addresses", "digits": "digits", "fashion-mnist": "Fashion-MNIST"}
NAMES = {
    "modular": "`mo.modular`",
    "whitened": "`mo.whitened`",
    "muon": "`optax.contrib.muon`",
    "adamw": "`optax.adamw`",
}
SIZES = {"width": "width", "depth": "depth", "steps": "steps", "batch": "sequences a step"}


@cache
def runs() -> Runs:
    """All that was trained."""
    return read(RESULTS)


def in_order() -> list[tuple[Where, dict[str, list[Found]]]]:
    """The same by task, in the order of `TASKS`."""
    return sorted(runs().items(), key=lambda item: (list(TASKS).index(item[0].task), item[0]))


def base(task: str) -> Where:
    """Where a task is trained unless something else is said."""
    setting = dataclasses.asdict(SETTINGS[task])
    data = "sotu" if setting["context"] else "digits"
    return Where(data=data, **{name: setting[name] for name in Where._fields if name != "data"})


def title(where: Where) -> str:
    """A setting in a reader's words."""
    data = DATA.get(where.data, Path(where.data).name)
    batch = "" if where.batch == SETTINGS[where.task].batch else f" of {where.batch} sequences"
    return f"{TASKS[where.task]}; {data}, {where.width} x {where.depth}, {where.steps:,} steps{batch}"


def table(header: Lines, rows: list[Lines]) -> Lines:
    """Markdown of a table; the first column has text, the others numbers."""
    if not rows:
        return ["Not measured with today's defaults yet."]
    ruler = ["---"] + ["---:"] * (len(header) - 1)
    return [f"| {' | '.join(row)} |" for row in (header, ruler, *rows)]


def note() -> Lines:
    """With what the panel was run."""
    entries = [json.loads(line) for path in RESULTS.glob("*.jsonl") for line in path.read_text().splitlines()]
    versions = sorted({(entry["jax"], entry["optax"]) for entry in entries})
    words = " and ".join(f"jax {jax} with optax {optax}" for jax, optax in versions)
    return ["", f"Measured with {words}, each run on one core of a CPU. Losses are in nats."]


def reported() -> Iterator[tuple[Where, dict[str, Found]]]:
    """Settings with runs for reporting, and of each contender those at the numbers that other seeds chose."""
    for where, contenders in in_order():
        rows = {name: choice for name, choice in chosen_of(contenders).items() if len(choice.reported) > 1}
        if rows:
            yield where, rows


def headline() -> Lines:
    """Mean losses of the tasks where modular and Muon were both reported, the lowest in bold."""
    rows = []
    for where, found in reported():
        if {"modular", "muon"} <= set(found):
            means = {name: statistics.fmean(found[name].reported.values()) for name in NAMES if name in found}
            bold = min(means, key=lambda name: means[name])
            cells = [f"{means[name]:.3f}" if name in means else "" for name in NAMES]
            cells = [f"**{cell}**" if name == bold else cell for name, cell in zip(NAMES, cells, strict=True)]
            fewest = min(len(found[name].reported) for name in means)
            rows.append([title(where), *cells, str(fewest)])
    return table(["validation loss", *NAMES.values(), "runs"], rows) + note()


def panel() -> Lines:
    """Every setting that was reported, every contender: what was chosen, what it came to, and the referee's verdict."""
    rows = [
        [
            title(where),
            NAMES.get(name, name),
            summary(choice.reported),
            verdict(choice, found.get("muon")),
            numbers_of(name, choice),
        ]
        for where, found in reported()
        for name, choice in found.items()
        if name in (*NAMES, *OWN)
    ]
    return table(["task", "optimizer", "runs: loss", "beside Muon", "chosen"], rows) + note()


def fewer_steps() -> Lines:
    """Shorter runs against the final losses of tuned Muon's and AdamW's longer ones, by the referee's rule."""
    found, rows = dict(reported()), []
    for where, contenders in found.items():
        for target in ("muon", "adamw"):
            longer = [other for other in found if target in found[other] and _is_longer(other, where)]
            for other in longer:
                for name in ("modular", "whitened"):
                    if name in contenders and (said := verdict(contenders[name], found[other][target])):
                        goal = statistics.fmean(found[other][target].reported.values())
                        share = f"{where.steps / other.steps:.2f}"
                        loss = summary(contenders[name].reported)
                        rows.append([title(other), NAMES[name], share, loss, f"{NAMES[target]}: {goal:.4f}", said])
    return table(["target", "optimizer", "share of its steps", "runs: loss", "loss to reach", "verdict"], rows)


def _is_longer(one: Where, other: Where) -> bool:
    return one.steps > other.steps and one._replace(steps=other.steps) == other


def valleys_over(field: str, name: str) -> Iterator[tuple[Where, dict[int, dict[float, float]]]]:
    """Where a contender was tried at three sizes or more, with three rates or more at each: losses by size and rate."""
    for where in sorted({where._replace(**{field: 0}) for where in runs()}):
        valleys = {size: valley(choices) for size, choices in grown(runs(), where, field, name).items()}
        valleys = {size: losses for size, losses in valleys.items() if len(losses) > 2}
        if len(valleys) > 2:
            yield where, valleys


def deepest(losses: dict[float, float]) -> float:
    """The best of the learning rates."""
    return min(losses, key=lambda rate: losses[rate])


def transfer(field: str) -> Lines:
    """Best learning rates as one size grows, and what it costs to keep that of the first."""
    rows = []
    for name in NAMES:
        for where, valleys in valleys_over(field, name):
            bests = {size: deepest(losses) for size, losses in valleys.items()}
            first = next(iter(bests.values()))
            excess = [
                f"{losses[first] / losses[bests[size]] - 1:.1%}" if first in losses else "outside"
                for size, losses in valleys.items()
            ]
            what = where._replace(**{field: next(iter(valleys))})
            rows.append(
                [
                    f"{TASKS[what.task]}: {', '.join(_others(what, field))}",
                    NAMES[name],
                    ", ".join(map(str, valleys)),
                    ", ".join(f"{rate:g}" for rate in bests.values()),
                    ", ".join(f"{losses[bests[size]]:.3f}" for size, losses in valleys.items()),
                    ", ".join(excess),
                ]
            )
    header = ["", "optimizer", SIZES[field], "best learning rate", "loss there", "excess at the rate of the first"]
    return table(header, rows)


def _others(where: Where, field: str) -> Iterator[str]:
    for name in SIZES:
        if name != field:
            yield (
                f"{getattr(where, name):,} {SIZES[name]}"
                if name in ("steps", "batch")
                else f"{name} {getattr(where, name)}"
            )


def by_length() -> Lines:
    """By how much the best rate falls with the length of training: a power of it, fitted to the best of each length."""
    lines = []
    for where, valleys in valleys_over("steps", "modular"):
        bests = {steps: deepest(losses) for steps, losses in valleys.items()}
        (power, _) = np.polyfit(np.log2(list(bests)), np.log2(list(bests.values())), 1)
        found = ", ".join(f"{rate:g} in {steps:,} steps" for steps, rate in bests.items())
        lines.append(
            f"{TASKS[where.task]}, {where.width} x {where.depth}: the best rates are {found}. That is a factor of "
            f"{2**power:.2f} whenever the number of steps doubles."
        )
    return lines


def choices() -> Lines:
    """What one change of the defaults costs, on every task where it was tried, with the same seeds."""
    return _costs("modular", [name for name in ENTRANTS if not name.startswith(("whitened", *NAMES, *OWN))])


def metric() -> Lines:
    """What plain momentum, and one change of the learned metric, cost beside `mo.whitened`."""
    return _costs(
        "whitened", ["modular", *(name for name in ENTRANTS if name.startswith("whitened") and name != "whitened")]
    )


def _costs(base_name: str, names: Lines) -> Lines:
    tried = {task: changes(runs()[base(task)], base_name) for task in TASKS if base_name in runs().get(base(task), {})}
    tried = {task: costs for task, costs in tried.items() if set(names) & set(costs)}
    rows = [
        [
            NAMES.get(name, name),
            *(f"{costs[name][0]:+.4f} ({costs[name][1]})" if name in costs else "" for costs in tried.values()),
        ]
        for name in names
        if any(name in costs for costs in tried.values())
    ]
    return table(["change of the loss (seeds)", *tried], rows)


VARIED = {"learning_rate": "learning rate", "b1": "momentum", "b2": "b2", "weight_decay": "weight decay"}


def numbers_varied() -> Lines:
    """What another learning rate, momentum or decay costs beside those that were chosen, one changed at a time."""
    rows = []
    for where, contenders in in_order():
        # of other sizes, valleys of learning rates have tables of their own
        fields = list(VARIED)[0 if where == base(where.task) else 1 :]
        for name in (name for name in NAMES if name in contenders):
            for field in fields:
                costs = varied(name, contenders[name], field)
                if len(costs) > 2:
                    cells = ", ".join(f"{value:g}: {cost:+.4f} ({n})" for value, (cost, n) in costs.items())
                    rows.append([title(where), NAMES[name], VARIED[field], cells])
    return table(["task", "optimizer", "number", "value: change of the loss (seeds)"], rows)
