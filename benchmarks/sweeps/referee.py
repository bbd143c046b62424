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
