"""Do initial weights survive training? Under modular duality no trace of them is left; under Adam they stay.

    python examples/weight_erasure.py                    # some minutes on two cores
    python examples/weight_erasure.py --widths 64 256    # other widths

An MLP learns the classes of random inputs by heart. A letter is hidden in the initial weights of its middle layer:
where it has ink, weights are 0. Adam fits the data with changes that are small, the smaller the wider the layer: the
letter stays. Dualized steps change all singular values alike, and by as much at every width: the letter goes. Results
go to `out-erasure/`: `erasure.png` and `summary.json`.

After the notebook "Weight erasure" of Modula, with a task that needs no download.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

import modula_optax as mo
from common.command import run_command
from gpt.cli import Parser, whole_number
from gpt.results import write_summary
from train_gpt import prepare_directory

INPUTS, OUTPUTS, SAMPLES = 32, 10, 256
# the letter M, as seven rows of seven
LETTER = np.array(
    [[int(ink) for ink in row] for row in ["1000001", "1100011", "1010101", "1001001", "1000001", "1000001", "1000001"]]
)


class Outcome(NamedTuple):
    """A run: the middle layer before and after, the accuracy at the end."""

    before: np.ndarray
    after: np.ndarray
    accuracy: float

    @property
    def change(self) -> float:
        """Spectral norm of the change, relative to that of the initial weights."""
        return float(np.linalg.norm(self.after - self.before, 2) / np.linalg.norm(self.before, 2))

    @property
    def trace(self) -> float:
        """Correlation of the weights with the initial ones: 1 if nothing happened, 0 if nothing is left."""
        a, b = self.before.ravel(), self.after.ravel()
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, 1 for what the user can put right, 130 for an interruption."""
    return run_command(lambda: compare(parse_arguments(argv)), "weight_erasure.py")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked.

    Raises:
      UserError: an argument is unknown or has no good value.
    """
    parser = Parser(description="Compares what Adam and modular duality leave of the initial weights.")
    parser.add_argument(
        "--widths",
        type=whole_number(28),
        nargs="+",
        default=[64, 256, 1024],
        help="of the layers; default: 64 256 1024",
    )
    parser.add_argument("--steps", type=whole_number(1), default=500, help="default: %(default)s")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out-erasure"), help="default: %(default)s")
    return parser.parse_args(argv)


def compare(arguments: argparse.Namespace) -> None:
    """Trains at every width with both optimizers, and reports."""
    prepare_directory(arguments.out)
    console, outcomes = Console(), {}
    for width in sorted(set(arguments.widths)):
        for name, optimizer in OPTIMIZERS.items():
            outcomes[name, width] = train(optimizer, width, arguments.steps, arguments.seed)
            console.print(f"{name}, width {width}: accuracy {outcomes[name, width].accuracy:.3f}", highlight=False)
    console.print(table(outcomes))
    rows = [
        {"optimizer": name, "width": width, "accuracy": run.accuracy, "change": run.change, "trace": run.trace}
        for (name, width), run in outcomes.items()
    ]
    write_summary(arguments.out / "summary.json", {"runs": rows, "steps": arguments.steps, "seed": arguments.seed})
    write_picture(arguments.out / "erasure.png", outcomes)
    console.print(f"Written: {arguments.out / 'summary.json'}, {arguments.out / 'erasure.png'}", highlight=False)


def predict(params: dict[str, Array], x: Float[Array, "n inputs"]) -> Float[Array, "n outputs"]:
    """Three layers and two relus."""
    return jax.nn.relu(jax.nn.relu(x @ params["first"]) @ params["middle"]) @ params["last"]


def adam(steps: int, params: Any) -> optax.GradientTransformation:
    """Adam at its default learning rate."""
    del params
    return optax.adam(optax.linear_schedule(1e-3, 0.0, steps))


def modular(steps: int, params: Any) -> optax.GradientTransformation:
    """Modular duality: at this rate each layer can change by 25 times its size, at every width."""
    specs = mo.infer_specs(predict, params, jax.ShapeDtypeStruct((SAMPLES, INPUTS), jnp.float32))
    # decay would erase initial weights by itself
    return mo.modular(optax.linear_schedule(0.1, 0.0, steps), specs, weight_decay=0.0)


OPTIMIZERS: dict[str, Callable[[int, Any], optax.GradientTransformation]] = {"Adam": adam, "modular": modular}


def train(optimizer: Callable[[int, Any], optax.GradientTransformation], width: int, steps: int, seed: int) -> Outcome:
    """Fits the labels on all samples at once."""
    data, weights = jax.random.split(jax.random.key(seed))
    x, labels = task(data)
    params = initial(weights, width)
    tx = optimizer(steps, params)

    def loss(params: Any) -> Float[Array, ""]:
        return optax.softmax_cross_entropy_with_integer_labels(predict(params, x), labels).mean()

    @jax.jit
    def run(params: Any) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, length=steps)[0][0]

    after = run(params)
    accuracy = float(jnp.mean(jnp.argmax(predict(after, x), axis=-1) == labels))
    return Outcome(np.asarray(params["middle"]), np.asarray(after["middle"]), accuracy)


def task(key: Array) -> tuple[Float[Array, "n inputs"], Array]:
    """Random inputs, and the classes that a random linear map and a square give them."""
    a, b = jax.random.split(key)
    x = jax.random.normal(a, (SAMPLES, INPUTS))
    return x, jnp.argmax((x @ jax.random.normal(b, (INPUTS, OUTPUTS))) ** 2, axis=-1)


def initial(key: Array, width: int) -> dict[str, Array]:
    """Gaussian weights of variance 2 / fan-in, and none where the letter has ink."""
    first, middle, last = jax.random.split(key, 3)
    gaussian = jax.nn.initializers.he_normal()
    return {
        "first": gaussian(first, (INPUTS, width)),
        "middle": gaussian(middle, (width, width)) * (1 - ink(width)),
        "last": gaussian(last, (width, OUTPUTS)),
    }


def ink(width: int) -> np.ndarray:
    """The letter in the middle half of a square."""
    scale = width // (2 * len(LETTER))
    letter = np.kron(LETTER, np.ones((scale, scale)))
    margin = width - len(letter)
    return np.pad(letter, (margin // 2, margin - margin // 2)).astype(np.float32)


def table(outcomes: dict[tuple[str, int], Outcome]) -> Table:
    """The numbers, for people."""
    result = Table(title="Middle layer after training", box=box.SIMPLE)
    result.add_column("optimizer")
    for heading in ("width", "accuracy", "change / initial\nspectral norm", "correlation with\ninitial weights"):
        result.add_column(heading, justify="right")
    for (name, width), run in outcomes.items():
        result.add_row(name, str(width), f"{run.accuracy:.3f}", f"{run.change:.2f}", f"{run.trace:.3f}")
    return result


def write_picture(path: Path, outcomes: dict[tuple[str, int], Outcome]) -> None:
    """Sizes of the widest middle layer before and after, and how far it moved at every width."""
    widths = sorted({width for _, width in outcomes})
    figure = Figure(figsize=(3.2 * (len(OPTIMIZERS) + 2), 3.4), layout="constrained")
    first, *after, change = figure.subplots(1, len(OPTIMIZERS) + 2)
    show(first, "initial weights", outcomes["Adam", widths[-1]].before)
    for axes, name in zip(after, OPTIMIZERS, strict=True):
        show(axes, f"after {name}", outcomes[name, widths[-1]].after)
    for name in OPTIMIZERS:
        change.plot(widths, [outcomes[name, width].change for width in widths], marker="o", label=name)
    change.set(xlabel="width", ylabel="change / initial spectral norm", xscale="log", yscale="log")
    change.set_xticks(widths, [str(width) for width in widths], minor=False)
    change.legend()
    change.grid(alpha=0.3)
    provisional = path.with_name(f".{path.name}")
    figure.savefig(provisional, format="png", dpi=150)
    os.replace(provisional, path)


def show(axes: Any, title: str, weights: np.ndarray) -> None:
    """Absolute values, dark where they are large."""
    axes.imshow(np.abs(weights), cmap="gray_r", vmin=0, vmax=2.5 * np.abs(weights).mean(), interpolation="antialiased")
    axes.set(title=title, xticks=[], yticks=[])


if __name__ == "__main__":
    sys.exit(main())
