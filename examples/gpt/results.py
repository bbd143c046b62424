"""What comes out: the table, `summary.json` and the pictures."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

import modula_optax as mo
from gpt.training import Record


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run: the highest learning rate of its schedule, and its measurements."""

    learning_rate: float
    record: Record

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.record.training)

    @property
    def train_loss(self) -> float:
        """Training loss over the last tenth of the steps: that of a single batch is noisy."""
        last = self.record.training[-max(1, self.steps // 10) :]
        return sum(last) / len(last)

    @property
    def validation_loss(self) -> float:
        """Validation loss at the end."""
        return self.record.validation[-1][1]

    @property
    def seconds_per_step(self) -> float:
        """Mean duration of a step, without compilation."""
        return self.record.seconds / self.steps

    def steps_to(self, loss: float) -> int | None:
        """Steps after which the validation loss was first as low as this; `None` if it never was."""
        return next((step for step, value in self.record.validation if value <= loss), None)


def summary(results: dict[str, Result], config: dict[str, Any]) -> dict[str, Any]:
    """All numbers, as JSON can hold them: a loss that is not finite becomes `None`."""
    runs = {
        name: {
            "learning_rate": result.learning_rate,
            "steps": result.steps,
            "train_loss": finite(result.train_loss),
            "validation_loss": finite(result.validation_loss),
            "seconds_per_step": result.seconds_per_step,
            "steps_to_adamw_loss": result.steps_to(results["adamw"].validation_loss) if "adamw" in results else None,
        }
        for name, result in results.items()
    }
    return {"runs": runs, "config": config}


def finite(value: float) -> float | None:
    """The value, if it is a number."""
    return value if math.isfinite(value) else None


def table(runs: dict[str, dict[str, Any]]) -> Table:
    """The numbers of a summary, for people."""
    result = Table(title="Losses in nats per byte", box=box.SIMPLE)
    result.add_column("optimizer")
    headings = (
        "learning\nrate",
        "\nsteps",
        "train\nloss",
        "validation\nloss",
        "seconds\nper step",
        "steps to\nAdamW's loss",
    )
    for heading in headings:
        result.add_column(heading, justify="right")
    for name, run in runs.items():
        losses = [show(run[key], ".4f") for key in ("train_loss", "validation_loss")]
        rate, seconds = f"{run['learning_rate']:g}", f"{run['seconds_per_step']:.3f}"
        result.add_row(name, rate, str(run["steps"]), *losses, seconds, show(run["steps_to_adamw_loss"], "d"))
    return result


def show(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def write_summary(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON; a reader finds the old file or the new one, whole."""
    provisional = path.with_name(f".{path.name}")
    provisional.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(provisional, path)


def write_pictures(out: Path, results: dict[str, Result]) -> list[Path]:
    """Writes `loss.png`, and `norms.png` if the optimizer with a monitor was run; says which."""
    pictures = {"loss.png": draw_losses(results)}
    for result in results.values():
        if result.record.norms:
            pictures["norms.png"] = mo.plot_norms(dict(result.record.norms))
    for name, figure in pictures.items():
        provisional = out / f".{name}"
        figure.savefig(provisional, format="png", dpi=150)
        os.replace(provisional, out / name)
    return [out / name for name in pictures]


def draw_losses(results: dict[str, Result]) -> Figure:
    """Validation loss over steps, one line for each optimizer."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="validation loss (nats per byte)")
    for name, result in results.items():
        steps, losses = zip(*result.record.validation, strict=True)
        axes.plot(steps, losses, label=f"{name}: {result.validation_loss:.3f}", linewidth=2)
    axes.grid(alpha=0.3)
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    return figure
