"""The pictures: loss over steps and time, and loss over learning rates."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

COLOURS = {"modular": "C0", "modular, RowL2 head": "C4", "muon": "C1", "adamw": "C3", "scion": "C2"}
TICKS = [digit * 10.0**power for power in range(-5, 2) for digit in (1, 2, 5)]


def efficiency_picture(record: dict[str, Any], path: Path) -> None:
    """Median validation loss and its range over seeds: over steps above, over time below; a column per setting."""
    comparisons = record["comparisons"]
    figure, axes = plt.subplots(
        2, len(comparisons), figsize=(5.5 * len(comparisons), 7), layout="constrained", squeeze=False, sharey="col"
    )
    for (steps_axis, time_axis), comparison in zip(axes.T, comparisons, strict=True):
        setting, optimizers = comparison["setting"], comparison["optimizers"]
        goal = optimizers["adamw"]["final_loss"]["median"]
        for name, result in optimizers.items():
            steps = np.array(result["curves"][0]["steps"])
            losses = np.array([curve["losses"] for curve in result["curves"]])
            for axis, x in ((steps_axis, steps), (time_axis, steps * result["step_time"]["median"] / steps[-1])):
                label = f"{name}: {result['final_loss']['median']:.3f}"
                axis.plot(x, np.median(losses, axis=0), color=COLOURS[name], label=label)
                axis.fill_between(
                    x, losses.min(axis=0), losses.max(axis=0), color=COLOURS[name], alpha=0.15, linewidth=0
                )
        for axis in (steps_axis, time_axis):
            # what happens first is of no interest, and takes most of the axis
            axis.set_ylim(top=goal + 1.0)
            axis.axhline(goal, color=COLOURS["adamw"], linestyle=":", linewidth=1)
            plain(axis)
        steps_axis.set_title(f"width {setting['width']}, depth {setting['depth']}", fontsize=10)
        steps_axis.set_xlabel("step")
        time_axis.set_xlabel("time, as a share of AdamW's")
        steps_axis.legend(fontsize=8, title="final loss, median", title_fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel(loss_label(comparisons[0]["setting"]))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def loss_label(setting: dict[str, Any]) -> str:
    """What the loss of a setting is."""
    return f"validation loss (nats per {'byte' if 'gpt' in setting['task'] else 'image'})"


def transfer_picture(record: dict[str, Any], path: Path) -> None:
    """Loss over the learning rate, a curve per size; a row per axis of growth, a column per optimizer."""
    growths = record["growths"]
    names = list(next(iter(growths.values()))["optimizers"])
    figure, axes = plt.subplots(
        len(growths), len(names), figsize=(5 * len(names), 3.6 * len(growths)), layout="constrained", squeeze=False,
        sharey="row",
    )  # fmt: skip
    for row, (growth, content) in zip(axes, growths.items(), strict=True):
        sizes = max((result["sizes"] for result in content["optimizers"].values()), key=len)
        shades = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(sizes)))
        colours = {size["size"]: shade for size, shade in zip(sizes, shades, strict=True)}
        for axis, name in zip(row, names, strict=True):
            for size in content["optimizers"][name]["sizes"]:
                valley(axis, size, f"{growth} {size['size']}", colours[size["size"]])
            axis.set_title(f"{name}, growing {growth}", fontsize=10)
            axis.set_xlabel("learning rate (stars: best of each)")
            axis.legend(fontsize=8)
            plain(axis)
        span_alike(row)
        low, high = row[0].get_ylim()
        if high > 4 * max(low, 0.0):
            row[0].set_yscale("log")
            low, high = row[0].get_ylim()
            row[0].set_yticks([tick for tick in TICKS if low < tick < high])
            row[0].yaxis.set_major_formatter("{x:g}")
            row[0].minorticks_off()
        row[0].set_ylabel(loss_label(record["setting"]))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def valley(axis: Axes, size: dict[str, Any], label: str, colour: Any) -> None:
    """Median loss of one size over learning rates, its range over seeds, and its best."""
    points = [p for p in size["points"] if p["median"] is not None]
    rates, medians = [p["learning_rate"] for p in points], [p["median"] for p in points]
    lowest, highest = [p["lowest"] for p in points], [p["highest"] for p in points]
    axis.plot(rates, medians, color=colour, label=label, marker=".")
    axis.fill_between(rates, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    best = int(np.argmin(medians))
    axis.plot(rates[best], medians[best], color=colour, marker="*", markersize=13)


def span_alike(row: Any) -> None:
    """Gives logarithmic axes of learning rates the same ratio of ends, so that equal drifts look equal."""
    for axis in row:
        axis.set_xscale("log")
    ratio = max(high / low for low, high in (axis.get_xlim() for axis in row)) ** 0.5
    for axis in row:
        low, high = axis.get_xlim()
        middle = (low * high) ** 0.5
        axis.set_xlim(middle / ratio, middle * ratio)
        axis.set_xticks([tick for tick in TICKS if middle / ratio < tick < middle * ratio])
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()


def plain(axis: Axes) -> None:
    """A light grid, and no frame."""
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
