"""Learning rates that are not what their number looks like: those of Adam, a hundred times too small here."""

import numbers
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from modula_optax._checks import is_traced

SMALL = 2e-3
FIRST = 1000  # values of a schedule that are looked at


def warn_of_small_rate(name: str, learning_rate: optax.ScalarOrSchedule) -> None:
    """Warns of a learning rate that hardly moves the parameters, if it is known.

    Args:
      name: of the optimizer.
      learning_rate: of the optimizer. Nothing is said of arrays, which may be traced or changed later.
    """
    highest = _highest(learning_rate)
    if highest is not None and highest < SMALL:
        found = f"at most {highest:g} in its first {FIRST} steps" if callable(learning_rate) else f"{highest:g}"
        warnings.warn(
            f"{name}: the learning rate is {found}. It is no learning rate of Adam's but how far a step moves every "
            f"parameter, in its own norm: 0.05 changes what a layer puts out by some 5 %. Start with 0.05; usual are "
            "0.02 to 0.2. If so small a step is meant, silence this with "
            f'warnings.filterwarnings("ignore", "{name}: the learning rate").',
            # the line that calls `init`
            stacklevel=3,
        )


def _highest(learning_rate: optax.ScalarOrSchedule) -> float | None:
    """The rate uphill or downhill, or the highest of the first of a schedule; `None` where it cannot be known."""
    if isinstance(learning_rate, numbers.Real):
        return abs(float(learning_rate))
    if not callable(learning_rate):
        return None
    try:
        # also where `init` is being traced, the steps of a schedule are numbers
        with jax.ensure_compile_time_eval():
            rates: Any = jax.vmap(learning_rate)(jnp.arange(FIRST))
    except (TypeError, ValueError):
        # one that asks for the number of the step in Python
        rates = [learning_rate(step) for step in range(FIRST)]
    if any(map(is_traced, jax.tree.leaves(rates))):
        return None
    return float(np.max(np.abs(np.asarray(rates, np.float64))))
