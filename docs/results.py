"""Puts the numbers of `benchmarks/results/*.json` into the README and the documentation.

    python docs/results.py            # writes them anew, after a benchmark has run
    python docs/results.py --check    # says which documents are out of date

A document asks for a table between two comments, `<!-- results: NAME -->` and `<!-- end of results -->`, and for a
number by a comment that follows it and says where it stands: `0.38<!-- update_step/costs/.../median -->`. The number is
rounded to as many places as it is written with; a percent sign after it multiplies by a hundred.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "examples")]

import panel_tables  # noqa: E402
from panel_tables import Lines, table  # noqa: E402

import modula_optax  # noqa: E402

BLOCK = re.compile(r"(<!-- results: (.+?) (?:\(.*?\) )?-->\n).*?(<!-- end of results -->)", re.DOTALL)
NUMBER = re.compile(r"(-?[\d,]*\.?\d+)( ?%)?<!-- ([^:\n]+?) -->")


@cache
def load(name: str) -> Any:
    """Results of a benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def documents() -> Iterator[Path]:
    """Everything that may quote a result."""
    yield ROOT / "README.md"
    yield from pages()


def pages() -> list[Path]:
    """The pages of the documentation, without what its build writes."""
    return sorted(path for path in (ROOT / "docs").rglob("*.md") if not path.relative_to(ROOT).parts[1].startswith("_"))


def refreshed(text: str) -> str:
    """A document with the numbers that the results have now."""
    text = BLOCK.sub(lambda match: match[1] + "\n" + "\n".join(BLOCKS[match[2]]()) + "\n\n" + match[3], text)
    return NUMBER.sub(lambda match: f"{rounded(match)}{match[2] or ''}<!-- {match[3]} -->", text)


def rounded(match: re.Match[str]) -> str:
    """The number that a comment names, written like the one that stands before it."""
    file, *keys = match[3].split("/")
    value = load(file)
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
    places = len(match[1].partition(".")[2])
    return f"{value * (100 if match[2] else 1):{',' if ',' in match[1] else ''}.{places}f}"


def measured(name: str, trained: bool = False) -> Lines:
    """With what something was measured; where something was trained, whether that was before the present defaults."""
    machine = load(name).get("machine", {})
    if not machine:
        return []
    version = machine["modula_optax"]
    note = f"Measured with modula_optax {version}, jax {machine['jax']} and optax {machine['optax']}"
    note += f" on {machine['cores']} cores of a {machine['device'].upper()}."
    if trained and version != modula_optax.__version__:
        note += f" The defaults of {version} were others than today's."
    return ["", note]


# speed


def update_step() -> Lines:
    """Time, compile time and memory of an update, relative to Muon's."""
    rows = [
        [f"`{name}`", f"{cost['time']['median']:.2f}", f"{cost['compile']:.2f}", f"{cost['memory']:.2f}"]
        for name, cost in load("update_step")["costs"].items()
    ]
    return table(["", "time", "compile time", "temporary memory"], rows) + measured("update_step")


def compile_time() -> Lines:
    """Compile times over Muon's."""
    rows = [
        [name, f"{figure['ratio']['median']:.2f}" if isinstance(figure["ratio"], dict) else f"{figure['ratio']:.2f}"]
        for name, figure in load("compile_time")["figures"].items()
    ]
    return table(["", "`mo.modular` over `optax.contrib.muon`"], rows) + measured("compile_time")


def overhead() -> Lines:
    """What an update adds to the matrix products of a training step."""
    shares = load("overhead")["overhead"]
    batches = list(next(iter(shares.values())))
    rows = [
        [f"`{name}`", *(f"{share[batch]:.2%}" for batch in batches)]
        for name, share in shares.items()
        if any(share.values())
    ]
    return table(["tokens in a batch", *batches], rows) + measured("overhead")


def sharded_work() -> Lines:
    """Work, communication and memory of each of eight devices."""
    record = load("sharded_work")
    rows = [
        [f"{layout}, `{name}`", *(f"{cost[key]:.{places}f}" for key, places in SHARDED.values())]
        for layout, costs in record["results"].items()
        for name, cost in costs.items()
    ]
    return table(["per device", *SHARDED], rows) + measured("sharded_work")


def sharded_layouts() -> Lines:
    """What each device sends in the layouts of trainers."""
    record = load("sharded_layouts")
    rows = [
        [f"{devices}: {layout}", *(f"{costs[name]['megabytes']:.1f}" for name in LAYOUTS.values())]
        for devices, layouts in record["results"].items()
        for layout, costs in layouts.items()
    ]
    return table(["MB sent by each device, of", *LAYOUTS], rows) + measured("sharded_layouts")


LAYOUTS = {
    "`mo.dualize`": "modula_optax.dualize",
    "in bfloat16": "modula_optax.dualize, exchange in bfloat16",
    "all-to-all over layers": "all-to-all over layers",
    "Optax main": "optax.contrib.muon, main",
    "bound": "bound",
}


def whitened_step() -> Lines:
    """What an update of `whitened` costs, relative to `modular`'s."""
    record = load("whitened_step")
    sizes = {f"GPT-2 small, {record['layers']} layers": "GPT-2 small", "4 layers of width 64": "width 64"}
    columns = ("seconds_between", "seconds")
    rows = [[title, *(f"{record[name]['ratio'][what]:.2f}" for what in columns)] for title, name in sizes.items()]
    header = ["`mo.whitened` over `mo.modular`", "time, bases kept", "mean of ten, bases fresh once"]
    return table(header, rows) + measured("whitened_step")


SHARDED = {
    "GFLOP": ("gigaflops", 1),
    "collectives": ("collectives", 0),
    "MB sent": ("megabytes", 1),
    "temporary MB": ("temporary_megabytes", 1),
}


def wall_clock() -> Lines:
    """Whole runs to the loss of tuned Muon, by the clock."""
    record = load("wall_clock")
    rows = [
        [
            setting,
            panel_tables.NAMES[name],
            str(result["steps"]),
            f"{result['loss']:.4f}",
            f"{result['ratio']:.2f} ({min(result['ratios']):.2f} to {max(result['ratios']):.2f})",
        ]
        for setting, results in record["results"].items()
        for name, result in results.items()
    ]
    return table(["", "optimizer", "steps", "loss", "time of Muon's run"], rows) + measured("wall_clock")


def constraints() -> Lines:
    """Time to keep a constraint, relative to the dual map of the spectral norm."""
    rows = [
        [f"`{name}`", f"{time['median']:.2f}", f"{time['lowest']:.2f} to {time['highest']:.2f}"]
        for name, time in load("constraints")["time"].items()
    ]
    return table(["", "median", "range"], rows) + measured("constraints")


# weights


def lipschitz() -> Lines:
    """What a certified bound costs."""
    rows = [
        [name, f"{run['validation_loss'][-1]:.3f}", f"{run['lipschitz_bound'][-1]:.3g}"]
        for name, run in load("lipschitz")["runs"].items()
    ]
    return table(["", "validation loss (nats per byte)", "certified bound"], rows) + measured("lipschitz", trained=True)


def weight_erasure() -> Lines:
    """How far training moves a layer from its start."""
    rows = [
        [f"{run['optimizer']}, width {run['width']}", f"{run['change']:.2f}", f"{run['trace']:.2f}"]
        for run in load("weight_erasure")["runs"]
    ]
    header = ["", "spectral norm of the change over that of the start", "correlation with the start"]
    return table(header, rows) + measured("weight_erasure")


def modula_gpt() -> Lines:
    """Losses of Modula's GPT in Modula's own setting."""
    losses = list(load("modula_gpt")["losses"].values())
    rows = [[f"{statistics.fmean(losses):.3f}", f"{max(losses):.3f}", str(len(losses))]]
    return table(["mean", "highest", "seeds"], rows)


def demo() -> Lines:
    """Losses of the demo, seed by seed."""
    losses, rates = load("demo")["losses"], load("demo")["learning_rates"]
    rows = [
        [panel_tables.NAMES[name], f"{rates[name]:g}", *(f"{loss:.3f}" for loss in by_seed.values())]
        for name, by_seed in losses.items()
    ]
    return table(["", "learning rate", *(f"seed {seed}" for seed in losses["modular"])], rows) + measured("demo")


def questions() -> Lines:
    """What is left of Adam's lead over SGD, the more is normalized."""
    rows = [
        [f"`{name}`" if name.startswith("mo.") else name, f"{run['loss']:.3f}", f"{run['learning_rate']:g}"]
        for name, run in load("questions")["optimizers"].items()
    ]
    return table(["", "validation loss", "best learning rate"], rows) + measured("questions")


def fine_tuning() -> Lines:
    """Losses after training pretrained weights further, at every rate."""
    losses = load("fine_tuning")["losses"]
    texts = ("new text", "old text")
    rows = [["before", "", *(f"{losses['before'][text][0]:.3f}" for text in texts)]]
    rows += [
        [f"`{name}`", rate, *(f"{after[text][0]:.3f} ± {after[text][1]:.3f}" for text in texts)]
        for name in ("mo.modular", "optax.adamw")
        for rate, after in losses[name].items()
    ]
    return table(["", "learning rate", *texts], rows) + measured("fine_tuning")


def real_models() -> Lines:
    """How many parameters of other packages' models are found to be what these document."""
    packages = load("real_models")["packages"]
    keys = ("models", "leaves", "right", "unsure", "wrong")
    return table(
        ["package", *keys], [[name, *(f"{counts[key]:,}" for key in keys)] for name, counts in packages.items()]
    )


BLOCKS: dict[str, Callable[[], Lines]] = {
    "headline": panel_tables.headline,
    "panel": panel_tables.panel,
    "fewer steps": panel_tables.fewer_steps,
    **{f"one rate over {field}": partial(panel_tables.transfer, field) for field in panel_tables.SIZES},
    "rate by length": panel_tables.by_length,
    "choices": panel_tables.choices,
    "numbers": panel_tables.numbers_varied,
    "learned metric": panel_tables.metric,
    "update step": update_step,
    "compile time": compile_time,
    "overhead": overhead,
    "sharded work": sharded_work,
    "sharded layouts": sharded_layouts,
    "whitened step": whitened_step,
    "wall clock": wall_clock,
    "constraints": constraints,
    "lipschitz": lipschitz,
    "weight erasure": weight_erasure,
    "questions": questions,
    "fine tuning": fine_tuning,
    "demo": demo,
    "modula gpt": modula_gpt,
    "real models": real_models,
}


def main() -> int:
    """Refreshes or checks all documents; returns the exit status."""
    stale = [path for path in documents() if refreshed(path.read_text()) != path.read_text()]
    for path in stale:
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(refreshed(path.read_text()))
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
