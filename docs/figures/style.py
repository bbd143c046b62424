"""What all figures of the documentation share: one colour for each optimizer and each norm, and plain axes."""

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

FIGURES = Path(__file__).parent
ROOT = FIGURES.parents[1]
sys.path[:0] = [str(ROOT), *(str(ROOT / name) for name in ("benchmarks", "examples", "docs"))]

from panel_tables import base, runs  # noqa: E402
from sweeps.report import grown, valley  # noqa: E402

COLOURS = {"modular": "C0", "whitened": "C4", "muon": "C1", "adamw": "C3", "scion": "C2"}
NAMES = {"modular": "mo.modular", "muon": "optax.contrib.muon", "adamw": "optax.adamw"}

# by what a norm measures
NORM_COLOURS = {"gradient": "C7", "Spectral": "C0", "Frobenius": "C4", "Sign": "C3", "RowL2": "C2"}


def widths(name: str) -> dict[int, dict[float, float]]:
    """Losses by learning rate, at every width of a GPT of depth 2 that 200 steps of an optimizer were tried at."""
    where = base("clean gpt")._replace(depth=2, steps=200)
    return {size: valley(choices) for size, choices in grown(runs(), where, "width", name).items()}


def plain(axes: Any) -> None:
    """Takes away what is not data."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Any, name: str) -> None:
    """Writes a picture beside the script, without the date, so that it changes only when what it shows does."""
    figure.savefig(FIGURES / f"{name}.png", dpi=120, metadata={"Software": None})


__all__ = ["COLOURS", "FIGURES", "NAMES", "NORM_COLOURS", "ROOT", "plain", "save", "widths"]
