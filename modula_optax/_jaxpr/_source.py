"""Where in a model's code an operation was written, and on which pass."""

import contextlib
import re
from pathlib import Path

from modula_optax._jax import Equation, frames, is_transposed
from modula_optax._jaxpr._program import Op

# frames of these are no place in a model: our own, Python's own, and those of frameworks that models are written in
_OURS, _PYTHONS = str(Path(__file__).parents[1]), str(Path(contextlib.__file__).parent)
_FRAMEWORKS = (
    *("jax", "jaxlib", "flax", "haiku", "equinox", "ninjax", "optax", "chex", "einops", "jaxtyping", "beartype"),
)
_PACKAGED = re.compile(r".*[/\\](?:site|dist)-packages[/\\]([^/\\]+)")


def _is_of_model(file: str) -> bool:
    packaged = _PACKAGED.match(file)
    if packaged:
        return packaged[1] not in _FRAMEWORKS and not file.startswith(_OURS)
    return not file.startswith((_OURS, _PYTHONS, "<"))


def source(*eqns: Equation) -> str:
    """Where in the model's code an equation was written, such as `model.py:12 (attention)`; empty if unknown.

    Of an equation inside calls, the innermost that shows a place outside of frameworks.
    """
    for eqn in eqns:
        for file, line, function in frames(eqn):
            if _is_of_model(file):
                return f"{Path(file).name}:{line} ({function})"
    return ""


def is_backward(op: Op) -> bool:
    """Whether an operation belongs to the backward pass of a gradient taken inside the model."""
    return any(map(is_transposed, op.calls))
