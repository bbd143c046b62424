"""The README's picture: loss over steps, and final loss over learning rates as a network gets wider.

python docs/figures/front.py
"""

import matplotlib.pyplot as plt
import numpy as np

from style import COLOURS, NAMES, plain, save, widths  # isort: skip
from panel_tables import base, reported  # isort: skip

COLOURED = ("modular", "muon", "adamw")


def over_steps(axes, task: str) -> None:
    """Mean validation loss over the seeds that report, and its range."""
    where, found = next((where, found) for where, found in reported() if where == base(task))
    for name in COLOURED:
        if name in found:
            losses = np.array([curve for seed, curve in found[name].curves.items() if seed in found[name].reported])
            steps = where.steps // losses.shape[1] * np.arange(1, losses.shape[1] + 1)
            axes.plot(steps, losses.mean(axis=0), color=COLOURS[name], label=NAMES[name], linewidth=2)
            axes.fill_between(steps, losses.min(axis=0), losses.max(axis=0), color=COLOURS[name], alpha=0.15)
    top = found["adamw"] if "adamw" in found else found["muon"]
    axes.set_ylim(top=np.mean(list(top.reported.values())) + 0.6)
    axes.set(xlabel="step", ylabel="validation loss (nats per byte)")
    axes.set_title(f"a GPT of width {where.width}, depth {where.depth}: fewer steps")
    axes.legend(frameon=False)


def over_rates(axes) -> None:
    """The valley of learning rates at every width; a star where it is deepest."""
    for name in ("adamw", "modular"):
        sizes = widths(name)
        for i, (size, losses) in enumerate(sizes.items()):
            shade = {"color": COLOURS[name], "alpha": 0.35 + 0.65 * i / (len(sizes) - 1)}
            label = NAMES[name] if i == len(sizes) - 1 else None
            axes.plot(list(losses), list(losses.values()), **shade, linewidth=2, label=label)
            deepest = min(losses, key=lambda rate: losses[rate])
            axes.plot(deepest, losses[deepest], marker="*", markersize=12, **shade)
            end = list(losses.items())[-1]
            axes.annotate(f"{size}", end, xytext=(5, -3), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="learning rate (stars: best of each width)")
    axes.set_title(f"widths {min(sizes)} to {max(sizes)}: one learning rate")
    axes.legend(frameon=False, loc="upper right")


def main() -> None:
    """Draws both."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    over_steps(left, "usual gpt")
    over_rates(right)
    for axes in (left, right):
        plain(axes)
    save(figure, "front")


if __name__ == "__main__":
    main()
