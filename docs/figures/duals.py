"""A gradient beside its dual maps: the matrices above, their singular values below.

python docs/figures/duals.py
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from style import NORM_COLOURS, plain, save  # isort: skip
import modula_optax as mo

SIZE = 32


def gradient() -> np.ndarray:
    """Of the kind that training has: a few large singular values, many small ones."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0] for _ in range(2))
    return (u * np.exp(-np.arange(SIZE) / 5)) @ v.T


def main() -> None:
    """Draws a column for the gradient and for each norm."""
    g = gradient()
    columns = {"gradient": g}
    for norm in (mo.Frobenius(), mo.Sign(), mo.RowL2(), mo.Spectral()):
        step, _ = mo.dualize(mo.NormSpec(norm)).update(jnp.asarray(g), optax.EmptyState())
        columns[type(norm).__name__] = np.asarray(step)
    figure, axes = plt.subplots(2, len(columns), figsize=(11, 4.6), layout="constrained", height_ratios=[3, 2])
    for (top, bottom), (name, matrix) in zip(axes.T, columns.items(), strict=True):
        limit = np.abs(matrix).max()
        top.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
        top.set(title=name, xticks=[], yticks=[])
        singular = np.linalg.svd(matrix, compute_uv=False)
        bottom.bar(range(SIZE), singular / singular.max(), color=NORM_COLOURS[name], width=1.0)
        bottom.set(ylim=(0, 1.1), xticks=[], yticks=[0, 1])
        plain(bottom)
    axes[1, 0].set_ylabel("singular values\n(largest: 1)")
    save(figure, "duals")


if __name__ == "__main__":
    main()
