"""The valley of learning rates over width: one panel for each optimizer, a curve for each width.

python docs/figures/valleys.py
"""

import matplotlib.pyplot as plt
import numpy as np

from style import NAMES, plain, save, widths  # isort: skip

TICKS = [digit * 10.0**power for power in range(-4, 1) for digit in (1, 2, 5)]


def main() -> None:
    """Draws the loss over learning rates; all panels have one scale of losses."""
    optimizers = {name: sizes for name in NAMES if (sizes := widths(name))}
    figure, panels = plt.subplots(
        1, len(optimizers), figsize=(4.5 * len(optimizers), 3.8), layout="constrained", sharey=True
    )
    for axes, (name, sizes) in zip(panels, optimizers.items(), strict=True):
        for (size, losses), shade in zip(
            sizes.items(), plt.get_cmap("viridis")(np.linspace(0, 0.85, len(sizes))), strict=True
        ):
            axes.plot(list(losses), list(losses.values()), marker="o", markersize=3, color=shade, label=f"width {size}")
            deepest = min(losses, key=lambda rate, of=losses: of[rate])
            axes.plot(deepest, losses[deepest], marker="*", markersize=14, color=shade)
        axes.set(xscale="log", title=NAMES[name], xlabel="learning rate (stars: best of each width)")
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in TICKS if low < tick < high], minor=False)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
        plain(axes)
    panels[0].set_ylabel("validation loss (nats per byte)")
    save(figure, "valleys")


if __name__ == "__main__":
    main()
