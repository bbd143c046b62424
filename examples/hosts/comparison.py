"""How far the training in shards is from the same training on one device, and how far it may be."""

import dataclasses
from typing import Any

import jax
import numpy as np
from rich import box
from rich.table import Table

from gpt.errors import UserError
from hosts.task import Layout, Report

# Devices add up in another order, and orthogonalisation amplifies that in the directions in which a gradient is next to
# zero: in float32, permuting the rows of each batch on one device moves the parameters as far as sharding does.
# Float64 tells such rounding from a mistake. Its tolerances are wide because JAX's attention takes softmax in float32.
LOSS_TOLERANCE = {"float32": 1e-4, "float64": 1e-7}
PARAMETER_TOLERANCE = {"float32": 1e-3, "float64": 1e-5}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Results side by side.

    Attributes:
      stretches: the groups that trained one after the other, and what each measured.
      losses: of every step, on one device.
      parameters: relative difference of every parameter at the end, by its path.
      whole: bytes of the state.
    """

    stretches: list[tuple[Layout, Report]]
    losses: list[float]
    parameters: dict[str, float]
    whole: int

    @property
    def loss_differences(self) -> np.ndarray:
        """Relative difference of the loss of every step."""
        found = [loss for _, report in self.stretches for loss in report.losses]
        return np.abs(np.subtract(found, self.losses)) / np.abs(self.losses)

    def refuse_disagreement(self, dtype: str) -> None:
        """Raises what the user is to see if results differ by more than rounding explains.

        Raises:
          UserError: they do; it names the first step and every parameter.
        """
        # so written that NaN is refused
        steps = np.flatnonzero(~(self.loss_differences <= LOSS_TOLERANCE[dtype]))
        wrong = [path for path, difference in self.parameters.items() if not difference <= PARAMETER_TOLERANCE[dtype]]
        offenders = [f"the loss of step {step + 1}" for step in steps[:1]] + wrong
        if offenders:
            raise UserError(f"not the results of one device: {', '.join(offenders)}")

    def table(self) -> Table:
        """The numbers, for people."""
        result = Table(box=box.SIMPLE)
        for heading in (
            "steps",
            "processes\nx devices",
            "state per\ndevice",
            "last\nloss",
            "on one\ndevice",
            "largest\ndifference",
        ):
            result.add_column(heading, justify="right")
        done = 0
        for layout, report in self.stretches:
            begin, done = done, done + len(report.losses)
            result.add_row(
                f"{begin + 1}-{done}",
                str(layout),
                f"{report.bytes_per_device / self.whole:.1%}",
                f"{report.losses[-1]:.6f}",
                f"{self.losses[done - 1]:.6f}",
                f"{max(self.loss_differences[begin:done]):.1e}",
            )
        result.add_row("parameters", *[""] * 4, f"{max(self.parameters.values()):.1e}")
        return result


def relative_differences(found: Any, expected: Any) -> dict[str, float]:
    """Norm of the difference of every array, relative to that of the array."""
    differences = jax.tree.map(lambda x, y: float(np.linalg.norm(x - y) / np.linalg.norm(y)), found, expected)
    leaves = jax.tree_util.tree_leaves_with_path(differences)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): value for path, value in leaves}
