"""Numbers of several runs: over seeds, at a step, around the best learning rate."""

import math
import statistics
from collections.abc import Mapping, Sequence

from sweeps.run import Curve
from sweeps.search import FACTOR


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Median and range over seeds; `None` for what is not finite."""
    numbers = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def at(curve: Curve, step: float) -> float:
    """The last loss that was measured by this step."""
    return next((v for s, v in reversed(list(zip(*curve, strict=True))) if s <= step), math.inf)


def basin(losses: Mapping[int, float], tolerance: float = 0.01) -> float:
    """Ratio of the largest to the smallest learning rate within `tolerance` of the best loss, by interpolation.

    A side that the grid does not reach the end of counts as far as it goes.
    """
    best = min(losses, key=lambda index: losses[index])
    goal = losses[best] * (1 + tolerance)

    def side(direction: int) -> float:
        at = best
        while at + direction in losses:
            here, there = losses[at], losses[at + direction]
            if there > goal:
                return abs(at - best) + (goal - here) / (there - here)
            at += direction
        return abs(at - best)

    return FACTOR ** (side(1) + side(-1))
