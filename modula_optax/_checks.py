"""Refusals of numbers that a norm, a constraint or a polynomial cannot be made with."""

import math
import numbers


def check_count(name: str, value: int) -> None:
    """Refuses a number of iterations that is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1; got {value!r}.")


def check_positive(name: str, value: float) -> None:
    """Refuses a radius or a strength that is not a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0; got {value!r}.")
