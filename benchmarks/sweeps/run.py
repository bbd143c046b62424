"""What one training run is, and what it measured."""

import dataclasses
from typing import Any, NamedTuple


class Hyper(NamedTuple):
    """What is tuned. Arrays in a compiled step, so that a grid compiles once; each optimizer reads those it has.

    Attributes:
      learning_rate: highest of the schedule.
      b2: decay of AdamW's second moment.
      weight_decay: decoupled, multiplied with the learning rate.
      second_rate: learning rate of what Muon leaves to Adam, relative to `learning_rate`.
      b1: decay of the momentum.
    """

    learning_rate: float
    b2: float = 0.95
    weight_decay: float = 0.03
    second_rate: float = 0.25
    b1: float = 0.9


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained: all runs of a comparison share it.

    Attributes:
      width: of the residual stream, or of the hidden layers.
      depth: blocks, or hidden layers.
      steps: optimizer steps.
      batch: sequences or images per step.
      context: bytes per sequence.
      task: a key of `panel.TASKS`.
      evaluations: how often the validation loss is measured.
    """

    width: int
    depth: int
    steps: int
    batch: int = 32
    context: int = 64
    task: str = "gpt"
    evaluations: int = 20


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
      setting: what is trained.
      optimizer: a key of `entrants.PANEL`.
      hyper: the tuned numbers.
      seed: of the initial weights and of the order of the data.
    """

    setting: Setting
    optimizer: str
    hyper: Hyper
    seed: int = 0

    def record(self) -> dict[str, Any]:
        """The run as JSON can hold it."""
        return (
            dataclasses.asdict(self.setting) | self.hyper._asdict() | {"optimizer": self.optimizer, "seed": self.seed}
        )


class Curve(NamedTuple):
    """Validation loss over the steps; infinite where training diverged."""

    steps: list[int]
    losses: list[float]

    @property
    def final(self) -> float:
        """Loss after the last step."""
        return self.losses[-1]
