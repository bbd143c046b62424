"""What the processes of a group are told: the training, how many they are, and where their stretch begins and ends."""

import dataclasses
import json
from pathlib import Path

from hosts.problem import Problem


@dataclasses.dataclass(frozen=True)
class Layout:
    """A number of processes with a number of devices each."""

    processes: int
    devices: int

    def __str__(self):
        return f"{self.processes} x {self.devices}"


@dataclasses.dataclass(frozen=True)
class Task:
    """A stretch of a training, for all processes of a group.

    Attributes:
      problem: the training.
      corpus: a text file; `None`: the default.
      layout: the group.
      restore: directory of the stretch to go on from; `None`: the initial weights.
      until: the step to stop after.
      out: directory for what comes out.
      timeout: seconds that the group may take.
    """

    problem: Problem
    corpus: Path | None
    layout: Layout
    restore: Path | None
    until: int
    out: Path
    timeout: int

    def to_json(self) -> str:
        """The task as one argument of a command line."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """The inverse of `to_json`."""
        fields = json.loads(text)
        paths = {name: fields[name] and Path(fields[name]) for name in ("corpus", "restore", "out")}
        return cls(**fields | paths | {"problem": Problem(**fields["problem"]), "layout": Layout(**fields["layout"])})


@dataclasses.dataclass(frozen=True)
class Report:
    """What a group has measured.

    Attributes:
      losses: of the batch of every step of the stretch.
      bytes_per_device: of the state, on one device.
    """

    losses: list[float]
    bytes_per_device: int

    def write(self, out: Path) -> None:
        """Writes the report into the directory of a stretch."""
        (out / "report.json").write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, out: Path) -> "Report":
        """The report in the directory of a stretch."""
        return cls(**json.loads((out / "report.json").read_text()))
