"""The README's picture: loss over steps, and final loss over learning rates as a network gets wider.

python docs/figures/front.py
"""

import matplotlib.pyplot as plt
import numpy as np

from style import COLOURS, NAMES, plain, save  # isort: skip
from results import load  # isort: skip


def over_steps(axes, comparison) -> None:
    """Median validation loss and its range over seeds."""
    setting = comparison["setting"]
    for name, label in NAMES.items():
        curves = comparison["optimizers"][name]["curves"]
        losses = np.array([curve["losses"] for curve in curves])
        axes.plot(curves[0]["steps"], np.median(losses, axis=0), color=COLOURS[name], label=label, linewidth=2)
        axes.fill_between(curves[0]["steps"], losses.min(axis=0), losses.max(axis=0), color=COLOURS[name], alpha=0.15)
    axes.set_ylim(top=comparison["optimizers"]["adamw"]["final_loss"]["median"] + 0.8)
    axes.set(xlabel="step", ylabel="validation loss (nats per byte)")
    axes.set_title(f"a GPT of width {setting['width']}: fewer steps")
    axes.legend(frameon=False)


def over_rates(axes, growth) -> None:
    """The valley of learning rates at every width; a star where it is deepest."""
    for name in ("modular", "adamw"):
        sizes = growth["optimizers"][name]["sizes"]
        for i, size in enumerate(sizes):
            points = size["points"]
            rates = [point["learning_rate"] for point in points]
            losses = [point["median"] for point in points]
            shade = {"color": COLOURS[name], "alpha": 0.35 + 0.65 * i / (len(sizes) - 1)}
            axes.plot(rates, losses, **shade, linewidth=2, label=NAMES[name] if i == len(sizes) - 1 else None)
            axes.plot(size["best_learning_rate"], size["best_loss"], marker="*", markersize=12, **shade)
            end = (rates[-1], losses[-1])
            axes.annotate(f"{size['size']}", end, xytext=(5, -3), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="learning rate (stars: best of each width)")
    axes.set_title("widths 16 to 128: one learning rate")
    axes.legend(frameon=False, loc="upper right")


def main() -> None:
    """Draws both."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    over_steps(left, load("training")["comparisons"][-1])
    over_rates(right, load("learning_rate_transfer")["growths"]["width"])
    for axes in (left, right):
        plain(axes)
    save(figure, "front")


if __name__ == "__main__":
    main()
