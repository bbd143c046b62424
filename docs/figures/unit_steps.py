"""What a step of one size does to a layer's output as the layer gets wider, under three meanings of size.

python docs/figures/unit_steps.py
"""

import matplotlib.pyplot as plt
import numpy as np

from style import NORM_COLOURS, plain, save  # isort: skip

WIDTHS = 2 ** np.arange(4, 11)
BATCH = 64
ENTRY = 1 / WIDTHS[0]  # of a step by signs, fixed as Adam's learning rate fixes it; 1 / width at the smallest width


def steps(g: np.ndarray) -> dict[str, np.ndarray]:
    """A step of norm one under each norm, on a square layer."""
    u, _, v = np.linalg.svd(g)
    return {"Spectral": u @ v, "Frobenius": g / np.linalg.norm(g), "Sign": ENTRY * np.sign(g)}


def main() -> None:
    """Draws the change of the output over the change that is asked for, for the batch's inputs and the worst one."""
    rng = np.random.default_rng(0)
    typical, worst = {name: [] for name in ("Spectral", "Frobenius", "Sign")}, {}
    for width in WIDTHS:
        x, errors = rng.normal(size=(2, BATCH, width))
        for name, step in steps(x.T @ errors).items():
            typical[name].append(np.linalg.norm(x @ step) / np.linalg.norm(x))
            worst.setdefault(name, []).append(np.linalg.norm(step, 2))
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for axes, values, title in zip(panels, (typical, worst), ("inputs of the batch", "the worst input"), strict=True):
        for name, label in LABELS.items():
            axes.plot(WIDTHS, values[name], marker="o", color=NORM_COLOURS[name], label=label)
        axes.set(xscale="log", yscale="log", xlabel="width of the layer", title=title)
        axes.set_xticks(WIDTHS, [str(width) for width in WIDTHS], minor=False)
        axes.minorticks_off()
        plain(axes)
    panels[0].set_ylabel("RMS of the output's change\nover RMS of the input")
    panels[0].legend(frameon=False, fontsize=9)
    save(figure, "unit_steps")


LABELS = {
    "Spectral": "step of spectral norm 1",
    "Frobenius": "step of Frobenius norm 1",
    "Sign": "every entry of one size, as by Adam",
}


if __name__ == "__main__":
    main()
