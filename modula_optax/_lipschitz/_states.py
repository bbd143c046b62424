"""What is known of a value on the way through a network: its size and its Lipschitz constant, and in which norm."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

Axes = frozenset[int]


@dataclasses.dataclass(frozen=True)
class Bound:
    """Bounds on a value: Euclidean length over `features`, sum over `summed`, largest over all other axes.

    `size` bounds the value itself, and is infinite where nothing does; `lipschitz` bounds its change per unit of change
    of the input.
    """

    features: Axes
    size: float
    lipschitz: float
    summed: Axes = frozenset()


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Integers and booleans of the input, and what is computed from them: unknown, but the same for both inputs."""


@dataclasses.dataclass(frozen=True)
class Unproven:
    """A value that no rule bounds, and why; it matters only if it reaches the output."""

    reason: str


Known = np.ndarray | jax.Array  # random keys are no array of NumPy's
State = Any  # Known | Bound | Fixed | Unproven


class NoRuleError(Exception):
    """An operation has no proven rule for these operands; the message, which follows its name, says why."""


def proper(state: State, shape: Sequence[int]) -> State:
    """Axes of size 1 say nothing as features, and would be taken for what they are repeated to by broadcasting."""
    if not isinstance(state, Bound):
        return state
    long = frozenset(axis for axis, size in enumerate(shape) if size > 1)
    return dataclasses.replace(state, features=state.features & long, summed=state.summed & long)


def times(factor: float, value: float) -> float:
    """Product in which zero wins: 0 times something finite, of which no bound is known."""
    return 0.0 if factor == 0 or value == 0 else factor * value


def scaled(bound: Bound, factor: float) -> Bound:
    """The bound after a linear map that no norm grows under by more than `factor`."""
    return dataclasses.replace(bound, size=times(factor, bound.size), lipschitz=times(factor, bound.lipschitz))


def euclidean(bound: Bound) -> Bound:
    """The bound with lengths in place of sums, which are never smaller."""
    return dataclasses.replace(bound, features=bound.features | bound.summed, summed=frozenset())


def over(bound: Bound, features: Iterable[int], shape: Sequence[int]) -> Bound:
    """The bound in the norm of other features: a length of n numbers is at most sqrt(n) times the largest of them."""
    bound, features = euclidean(bound), frozenset(features)
    factor = math.sqrt(math.prod(shape[axis] for axis in features - bound.features))
    return dataclasses.replace(scaled(bound, factor), features=features)


def length(x: np.ndarray, features: Iterable[int]) -> float:
    """Norm of an array: Euclidean over features, largest over all other axes; 0 of an empty one."""
    squares = np.sum(np.square(np.asarray(x, np.float64)), axis=tuple(features))
    return float(np.sqrt(np.max(squares, initial=0.0)))


def as_bound(state: State, features: Axes, shape: Sequence[int]) -> Bound:
    """A constant or a bound in the norm of these features."""
    if isinstance(state, Bound):
        return over(state, features, shape)
    return Bound(features, length(np.broadcast_to(state, shape), features), 0.0)


def common(states: Sequence[State], shapes: Iterable[Sequence[int]]) -> list[Bound]:
    """Constants and bounds of these shapes, all in the norm of all features that any of them has."""
    features = frozenset().union(*(euclidean(state).features for state in states if isinstance(state, Bound)))
    return [as_bound(state, features, shape) for state, shape in zip(states, shapes, strict=True)]


def alike(states: Sequence[State], shape: Sequence[int]) -> list[Bound]:
    """The same of values that have one shape, or are broadcast to it."""
    return common(states, [shape] * len(states))


def product(a: Bound, b: Bound, features: Axes) -> Bound:
    """A product whose norm is at most that of its factors: each moves while the other has its size."""
    lipschitz = times(a.lipschitz, b.size) + times(a.size, b.lipschitz)
    if not math.isfinite(lipschitz):
        raise NoRuleError(
            "multiplies two activations, whose product is Lipschitz only where they are bounded: normalise them, or "
            "pass input_bound="
        )
    return Bound(features, times(a.size, b.size), lipschitz)
