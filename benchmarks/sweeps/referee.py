"""The referee's rule: when so many runs are said to reach a target."""

import math
import statistics
from collections.abc import Sequence

FEWEST = 8  # runs
SIGMAS = 3.1  # one-sided, one in a thousand


def reaches(losses: Sequence[float], target: float, sigma: float) -> bool:
    """Whether the mean of these losses lies below the target by more than chance, as in Track 3 of modded-nanogpt.

    Args:
      losses: of independent runs, at least eight.
      target: to be reached.
      sigma: standard deviation of a run.
    """
    margin = (target - statistics.fmean(losses)) * math.sqrt(len(losses))
    return len(losses) >= FEWEST and margin >= SIGMAS * sigma


def steps_to(steps: Sequence[int], losses: Sequence[float], target: float) -> float:
    """Steps to a loss, of mean losses after whole runs of so many steps each, by interpolation; infinite beyond them.

    Runs of different lengths are different runs, their schedules ending when they end; between two lengths the loss is
    taken for linear in the logarithm of the steps.
    """
    for (first, high), (last, low) in zip(
        list(zip(steps, losses, strict=True)), list(zip(steps, losses, strict=True))[1:], strict=False
    ):
        if low <= target <= high:
            share = (high - target) / (high - low) if high > low else 0.0
            return first * (last / first) ** share
    return float(steps[0]) if losses[0] <= target else math.inf
