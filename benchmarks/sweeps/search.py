"""Tuning: each number on a grid, walked until both neighbours of the best value are worse."""

from collections.abc import Callable, Collection, Mapping, Sequence

FACTOR = 1.5  # from one learning rate to the next, for every optimizer


def learning_rate(index: int) -> float:
    """The grid of learning rates, the same for all optimizers and sizes: 0.03 times powers of 1.5."""
    return 0.03 * FACTOR**index


def bracketed(loss: Callable[[int], float], start: int, count: int | None = None) -> int:
    """Index of the smallest loss, found by walking downhill; its neighbours are worse.

    Args:
      loss: of an index.
      start: where to begin.
      count: how many indices there are, from 0; `None`: all integers.
    """
    inside = range(count) if count is not None else None
    best = start
    while True:
        around = [i for i in (best, best - 1, best + 1) if inside is None or i in inside]
        # the first of equals, so that a plateau is no endless walk
        lowest = min(around, key=loss)
        if lowest == best:
            return best
        best = lowest


def values_of(indices: Mapping[str, int], grids: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The numbers that indices stand for: of learning rates, and of the grids of all others."""
    return {name: learning_rate(i) if name == "learning_rate" else grids[name][i] for name, i in indices.items()}


def tuned(
    loss: Callable[[Mapping[str, float]], float],
    start: Mapping[str, int],
    grids: Mapping[str, Sequence[float]],
    names: Collection[str] | None = None,
) -> dict[str, int]:
    """Best numbers of an optimizer: one after the other, over and over, until no single change is better.

    Args:
      loss: of a choice of numbers; asked for the same one several times.
      start: index of each number's first guess.
      grids: values of all numbers but the learning rate.
      names: the numbers to tune; `None`: all of them.

    Returns:
      An index for each number.
    """
    indices, before = dict(start), None
    while indices != before:
        before = dict(indices)
        for name in start if names is None else names:
            count = None if name == "learning_rate" else len(grids[name])
            indices[name] = bracketed(
                lambda i, name=name: loss(values_of(indices | {name: i}, grids)), indices[name], count
            )
    return indices
