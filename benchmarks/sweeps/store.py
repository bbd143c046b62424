"""Runs that were trained, a line of JSON each: small enough to commit, so that another machine goes on from them."""

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax

from sweeps.run import Curve, Run


class Store:
    """A file of runs, to which each new one is added as it ends.

    Args:
      path: of the file; a line that an interruption cut short is passed over.
      train: trains a run.
      identity: what else, beside the numbers of a run, makes it what it is: its norms, its data.
      data: what the data are called.
      expected: how many runs there will be, to say how long the rest takes.
    """

    def __init__(
        self,
        path: Path,
        train: Callable[[Run], Curve],
        identity: Callable[[Run], str],
        data: str = "",
        expected: int = 0,
    ):
        self.path, self.train, self.identity, self.data, self.expected = path, train, identity, data, expected
        self.trained, self.asked, self.seconds = 0, 0, 0.0
        self.runs = {entry["key"]: entry for entry in entries_of(path)} if path.exists() else {}

    def __call__(self, run: Run) -> Curve:
        """The curve of a run, read or trained."""
        key = hashlib.sha256((json.dumps(run.record(), sort_keys=True) + self.identity(run)).encode()).hexdigest()[:16]
        self.asked += 1
        if key not in self.runs:
            started = time.perf_counter()
            curve = self.train(run)
            seconds = time.perf_counter() - started
            losses = [round(loss, 5) if math.isfinite(loss) else None for loss in curve.losses]
            measured = {"data": self.data, "losses": losses, "seconds": round(seconds)}
            self._add({"key": key} | run.record() | measured | _versions())
            self._report(run, losses[-1], seconds)
        entry = self.runs[key]
        losses = [math.inf if loss is None else loss for loss in entry["losses"]]
        every = run.setting.steps // len(losses)
        return Curve([every * (i + 1) for i in range(len(losses))], losses)

    def _add(self, entry: dict[str, Any]) -> None:
        self.runs[entry["key"]] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _report(self, run: Run, loss: float | None, seconds: float) -> None:
        self.trained += 1
        self.seconds += seconds
        left = self.seconds / self.trained * max(0, self.expected - self.asked) / 60
        numbers = " ".join(f"{name} {value:.4g}" for name, value in run.hyper._asdict().items())
        print(f"{run.optimizer}: {numbers} seed {run.seed}: {loss} ({seconds:.0f} s, {left:.0f} min left)", flush=True)


def entries_of(path: Path) -> list[dict[str, Any]]:
    """The runs in a file."""
    entries = map(_entry, path.read_text().splitlines())
    return [entry for entry in entries if entry is not None]


def _entry(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _versions() -> dict[str, str]:
    return {
        "jax": jax.__version__,
        "optax": optax.__version__,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
    }
