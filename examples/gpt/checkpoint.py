"""Checkpoints: each complete or absent, the newest two kept, none trusted before its digests are checked."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from gpt.errors import UserError

KEEP = 2
DIGESTS = "SHA256SUMS"


class Checkpoints:
    """The checkpoints of one optimizer, in numbered directories.

    They are numbered by saves, not by steps: a run that starts over never writes over the run before it.

    Args:
      directory: where they are; created at the first save.
      identity: all that makes the run what it is; a checkpoint of another one is refused.
    """

    def __init__(self, directory: Path, identity: dict[str, Any]):
        self.directory = directory
        self.identity = identity

    def save(self, state: Any, record: dict[str, Any]) -> None:
        """Writes a checkpoint under a provisional name, gives it its own, then removes the oldest.

        Args:
          state: tree of arrays.
          record: anything else, as JSON can hold it.

        Raises:
          UserError: the disk is full, or the checkpoint cannot be written for another reason.
        """
        numbers = self._numbers()
        provisional = self.directory.absolute() / ".incomplete"
        shutil.rmtree(provisional, ignore_errors=True)
        provisional.mkdir(parents=True)
        write_state(provisional / "state", state)
        (provisional / "record.json").write_text(json.dumps({"identity": self.identity, "record": record}))
        (provisional / DIGESTS).write_text(digests(provisional))
        # atomic: whenever the process is killed, what has a number is complete
        provisional.rename(self._path(max(numbers, default=0) + 1))
        for number in numbers[: 1 - KEEP]:
            # renamed first, since deleting takes several steps
            self._path(number).rename(provisional)
            shutil.rmtree(provisional)

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """State and record of the newest checkpoint, or `None` if there is none.

        Args:
          like: a state of the same structure, shapes and dtypes.

        Raises:
          UserError: the checkpoint is damaged or of another configuration.
        """
        numbers = self._numbers()
        if not numbers:
            return None
        path = self._path(numbers[-1])
        if not is_intact(path):
            older = f" to go on from {self._path(numbers[-2])}" if len(numbers) > 1 else ""
            raise UserError(f"the checkpoint {path} is damaged; remove it{older}, or start over without --resume")
        saved = json.loads((path / "record.json").read_text())
        self._refuse_others(path, saved["identity"])
        return read_state(path.absolute() / "state", like), saved["record"]

    def _numbers(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal())

    def _path(self, number: int) -> Path:
        return self.directory / str(number)

    def _refuse_others(self, path: Path, saved: dict[str, Any]) -> None:
        differences = [
            f"{name} {saved.get(name)} there, {value} here"
            for name, value in self.identity.items()
            if saved.get(name) != value
        ]
        if differences:
            raise UserError(f"the checkpoint {path} is of another configuration: {'; '.join(differences)}")


def write_state(path: Path, state: Any) -> None:
    """Saves a tree of arrays.

    Raises:
      UserError: it cannot be written.
    """
    # seen beforehand, because Orbax's writer threads meet a full disk with a traceback each
    if shutil.disk_usage(path.parent).free < sum(x.nbytes for x in jax.tree.leaves(state)):
        raise UserError(f"no space left for the checkpoint {path.parent}")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, state)
    except Exception as error:  # what the storage library reports has no narrower type
        raise UserError(f"cannot write the checkpoint {path.parent}: {error}") from error


def read_state(path: Path, like: Any) -> Any:
    """Loads a tree of arrays.

    Raises:
      UserError: it was written for another structure, as by another version of a library.
    """
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path, like)
    except Exception as error:  # what the storage library reports has no narrower type
        raise UserError(f"the checkpoint {path.parent} does not fit: {error}") from error


def is_intact(path: Path) -> bool:
    """Whether all files are as they were when the checkpoint was complete."""
    try:
        return (path / DIGESTS).read_text() == digests(path)
    except (OSError, UnicodeDecodeError):
        return False


def digests(directory: Path) -> str:
    """Digest of every file below a directory, in the format of `sha256sum`."""
    files = sorted(Path(root, name) for root, _, names in os.walk(directory) for name in names if name != DIGESTS)
    return "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(directory)}\n" for file in files
    )
