"""Numbers that users give: taken of every kind that there is, and refused where no step could be made with them."""

import dataclasses
import math
import numbers
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1, of Python, NumPy or JAX."""
    try:
        return not isinstance(value, bool) and operator.index(value) >= 1
    except TypeError:
        return False


def as_count(name: str, value: Any) -> int:
    """A whole number of at least 1; what is none is refused by the name of the argument."""
    if not is_count(value):
        raise ValueError(f"{name} must be an integer of at least 1; {_got(value)}.")
    return operator.index(value)


def as_count_unless_traced(name: str, value: Any) -> Any:
    """The same of what is known; a traced number as it is."""
    return value if is_traced(value) else as_count(name, value)


class Kind(NamedTuple):
    """Which numbers an argument may be: in words, and those that are known."""

    words: str
    holds: Callable[[float], bool]


FINITE = Kind("a finite number", math.isfinite)
AT_LEAST_0 = Kind("a finite number of at least 0", lambda x: 0 <= x < math.inf)
ABOVE_0 = Kind("a finite number above 0", lambda x: 0 < x < math.inf)
DECAY = Kind("a number of at least 0 and below 1", lambda x: 0 <= x < 1)
SHARE = Kind("a number above 0 and at most 1", lambda x: 0 < x <= 1)


def as_positive(name: str, value: Any) -> float:
    """A finite number above 0, such as a radius or a strength; else refused."""
    return _as_known(name, value, ABOVE_0)


def as_mass(name: str, value: Any) -> float:
    """A finite number of at least 0; else refused."""
    return _as_known(name, value, AT_LEAST_0)


def _as_known(name: str, value: Any, kind: Kind) -> float:
    if not is_number(value) or is_traced(value) or not kind.holds(number := as_float(value)):
        raise ValueError(f"{name} must be {kind.words}; {_got(value)}.")
    return number


def as_float(number: Any) -> float:
    """A real number; an integer that is too large for one is infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def set_fields(instance: Any, **values: Any) -> None:
    """Sets fields of a frozen dataclass, from within its `__post_init__`, to what they were given as."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def brief_repr(self: Any) -> str:
    """How a dataclass shows itself: as the call that makes it, without arguments that are the defaults."""
    given = []
    for field in dataclasses.fields(self):
        value = getattr(self, field.name)
        if field.default is dataclasses.MISSING:
            # what has no default comes first, and needs no name
            given.append(repr(value))
        elif value != field.default:
            given.append(f"{field.name}={value!r}")
    return f"{type(self).__name__}({', '.join(given)})"


def is_number(value: Any) -> bool:
    """Whether a value is one real number of Python, NumPy or JAX, which may be traced."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return np.ndim(value) == 0 and any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.integer, jnp.floating))
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_traced(value: Any) -> bool:
    """Whether only the compiled program knows a number."""
    return isinstance(value, jax.core.Tracer)


def _got(value: Any) -> str:
    if is_traced(value):
        return "got a traced value, which is known to the compiled program alone: make specs outside of jit"
    if callable(value):
        return "got a function: masses, radii and strengths follow no schedule"
    return f"got {value!r}"
