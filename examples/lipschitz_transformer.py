"""Trains a GPT that is certified to be 10-Lipschitz, and the same one without caps: what does the certificate cost?

    python examples/lipschitz_transformer.py                  # both: some minutes on two cores
    python examples/lipschitz_transformer.py --lipschitz 100  # another bound

The model has no layer norm, averages for residual sums and 1/d attention (`lipschitz/model.py`); spectral caps hold its
weights (`lipschitz/training.py`), and `mo.lipschitz_bound` certifies them at every evaluation. Results go to
`out-lipschitz/`: `lipschitz.png` and `summary.json`.
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from common.command import run_command
from gpt.cli import Parser, learning_rate, whole_number, width
from gpt.config import Config
from gpt.corpus import load_corpus
from gpt.errors import UserError
from gpt.results import finite, write_summary
from lipschitz.training import Caps, Record, caps_for, train
from train_gpt import prepare_directory, progress_bar

LEARNING_RATE = 0.07


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 1 for what the user can put right, 130 for an interruption."""
    return run_command(lambda: compare(parse_arguments(argv)), "lipschitz_transformer.py")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked.

    Raises:
      UserError: an argument is unknown or has no good value.
    """
    parser = Parser(description="Trains a GPT under spectral caps that certify its Lipschitz constant, and without.")
    parser.add_argument("--lipschitz", type=learning_rate, default=10.0, help="the bound; default: %(default)s")
    parser.add_argument("--steps", type=whole_number(1), default=Config.steps, help="default: %(default)s")
    parser.add_argument("--width", type=width, default=Config.width, help="a multiple of 16; default: %(default)s")
    parser.add_argument("--depth", type=whole_number(1), default=Config.depth, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=learning_rate, default=LEARNING_RATE, help="default: %(default)s")
    parser.add_argument("--corpus", type=Path, help="a text file; default: State of the Union addresses")
    parser.add_argument("--seed", type=whole_number(0), default=Config.seed, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out-lipschitz"), help="default: %(default)s")
    return parser.parse_args(argv)


def compare(arguments: argparse.Namespace) -> None:
    """Trains with caps and without, and reports."""
    config = Config(arguments.steps, arguments.width, arguments.depth, arguments.seed)
    corpus = load_corpus(arguments.corpus, config.context)
    prepare_directory(arguments.out)
    console = Console()
    caps = caps_for(arguments.lipschitz, config.depth)
    if not caps.blocks:
        raise UserError(
            f"no weights certify {arguments.lipschitz:g}: the head and the stream alone take more; raise --lipschitz"
        )
    console.print(f"caps: {caps.blocks:.2f} (matrices of the blocks), {caps.head:g} (head)")
    runs: dict[str, tuple[Caps | None, Record]] = {}
    with progress_bar(console) as progress:
        for name, held_to in ((f"{arguments.lipschitz:g}-Lipschitz", caps), ("no caps", None)):
            task = progress.add_task(name, total=config.steps, loss="")
            record = train(
                config,
                corpus,
                held_to,
                arguments.learning_rate,
                lambda done, loss, task=task: progress.update(task, completed=done, loss=f"loss {loss:.3f}"),
            )
            runs[name] = (held_to, record)
    report(arguments, config, runs, console)


def report(
    arguments: argparse.Namespace, config: Config, runs: dict[str, tuple[Caps | None, Record]], console: Console
) -> None:
    """Writes and prints what was measured."""
    summary = {
        name: {
            "caps": None if caps is None else dataclasses.asdict(caps),
            "steps": record.steps,
            "validation_loss": [finite(loss) for loss in record.validation],
            "lipschitz_bound": [finite(bound) for bound in record.bounds],
        }
        for name, (caps, record) in runs.items()
    }
    content = {"runs": summary, "config": dataclasses.asdict(config), "learning_rate": arguments.learning_rate}
    write_summary(arguments.out / "summary.json", content)
    write_picture(arguments.out / "lipschitz.png", {name: record for name, (_, record) in runs.items()})
    console.print(table({name: record for name, (_, record) in runs.items()}))
    console.print(f"Written: {arguments.out / 'summary.json'}, {arguments.out / 'lipschitz.png'}", highlight=False)


def table(records: dict[str, Record]) -> Table:
    """The last measurements, for people."""
    result = Table(title="Validation loss in nats per byte", box=box.SIMPLE)
    result.add_column("weights")
    for heading in ("step", "validation loss", "certified bound"):
        result.add_column(heading, justify="right")
    for name, record in records.items():
        last = (str(record.steps[-1]), f"{record.validation[-1]:.3f}", f"{record.bounds[-1]:.4g}")
        result.add_row(name, *last)
    return result


def write_picture(path: Path, records: dict[str, Record]) -> None:
    """Validation loss and certified bound over steps."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    losses, bounds = figure.subplots(1, 2)
    losses.set(xlabel="step", ylabel="validation loss (nats per byte)")
    bounds.set(xlabel="step", ylabel="certified Lipschitz bound", yscale="log")
    for name, record in records.items():
        losses.plot(record.steps, record.validation, label=f"{name}: {record.validation[-1]:.3f}", linewidth=2)
        bounds.plot(record.steps, record.bounds, label=f"{name}: {record.bounds[-1]:.3g}", linewidth=2)
    for axes in (losses, bounds):
        axes.grid(alpha=0.3)
        axes.legend()
        axes.spines[["top", "right"]].set_visible(False)
    provisional = path.with_name(f".{path.name}")
    figure.savefig(provisional, format="png", dpi=150)
    os.replace(provisional, path)


if __name__ == "__main__":
    sys.exit(main())
