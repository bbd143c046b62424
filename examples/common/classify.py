"""The command of every image example: reads arguments and images, lets the example train, prints a table."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import optax
from jaxtyping import ArrayLike, Float, Int

from common.command import run_command
from common.images import Images, load_images
from gpt.cli import Parser, learning_rate, whole_number
from gpt.errors import UserError

Batch = tuple[Float[np.ndarray, "batch height width 1"], Int[np.ndarray, " batch"]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
      learning_rate: the highest, at the first step.
      epochs: passes over the images.
      batch: images per step.
      seed: of the weights and of the order of the images.
    """

    learning_rate: float
    epochs: int
    batch: int
    seed: int

    def schedule(self, data: Images) -> optax.Schedule:
        """The learning rate over all steps, linearly down to zero."""
        return optax.linear_schedule(self.learning_rate, 0.0, self.epochs * self.steps_per_epoch(data))

    def steps_per_epoch(self, data: Images) -> int:
        """Batches that a pass over the images fills."""
        return len(data.images) // self.batch

    def batches(self, data: Images) -> Iterator[Batch]:
        """Images and labels of every step, in a new order for every epoch."""
        rng = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            order = rng.permutation(len(data.images))
            for i in range(self.steps_per_epoch(data)):
                chosen = order[i * self.batch : (i + 1) * self.batch]
                yield data.images[chosen], data.labels[chosen]


# the loss of a step, and the model after it: a function from images to scores
Progress = Iterator[tuple[ArrayLike, Callable[[np.ndarray], ArrayLike]]]


def main(
    train: Callable[[Images, Settings], Progress],
    description: str | None,
    *,
    rate: float,
    epochs: int,
    argv: list[str] | None = None,
) -> int:
    """Runs the command line of an example.

    Args:
      train: yields the loss of every step, and a function from images to scores.
      description: what `--help` says, in its first line.
      rate: the default learning rate.
      epochs: the default number of epochs.
      argv: arguments; `None`: those of the process.

    Returns:
      The exit status; see `run_command`.
    """

    def body() -> None:
        parser = Parser(description=(description or "").partition("\n")[0])
        parser.add_argument("--epochs", type=whole_number(1), default=epochs, help="default: %(default)s")
        parser.add_argument("--batch", type=whole_number(1), default=64, help="default: %(default)s")
        parser.add_argument("--learning-rate", type=learning_rate, default=rate, help="default: %(default)s")
        parser.add_argument("--seed", type=whole_number(0), default=0, help="default: %(default)s")
        parser.add_argument("--data", type=Path, metavar="DIR", help="IDX files, as of MNIST; default: digits")
        arguments = parser.parse_args(argv)
        data = load_images(arguments.data)
        if arguments.batch > len(data.images):
            raise UserError(f"--batch {arguments.batch} is more than the {len(data.images)} images there are")
        settings = Settings(arguments.learning_rate, arguments.epochs, arguments.batch, arguments.seed)
        report(train(data, settings), data, settings.steps_per_epoch(data))

    return run_command(body)


def report(progress: Progress, data: Images, steps_per_epoch: int) -> None:
    """Prints a line for every epoch, as soon as it is over; the first has the seconds of compilation."""
    height, width = data.images.shape[1:3]
    print(f"{data.name}: {len(data.images)} images of {height} x {width} to train on, {len(data.test_images)} held out")
    print("epoch   loss  accuracy  seconds")
    begin, losses = time.perf_counter(), []
    for step, (loss, predict) in enumerate(progress, 1):
        losses.append(loss)
        if step % steps_per_epoch == 0:
            mean, losses = np.mean([float(loss) for loss in losses]), []
            seconds = time.perf_counter() - begin
            print(f"{step // steps_per_epoch:5}{mean:7.3f}{data.accuracy(predict):10.4f}{seconds:9.1f}", flush=True)
