"""Retraction of many parameters: together where they share norm and constraint, spread over devices."""

from collections import defaultdict
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modula_optax._canonical import Canonical, Stack, stacked
from modula_optax._constraints import Constraint, Step
from modula_optax._norms import Norm
from modula_optax._specs import NormSpec
from modula_optax._spread import in_stacks, spread

Weights = dict[str, Canonical]
Memory = dict[str, Any]


class Held(NamedTuple):
    """Atoms of one parameter, or of several, and all that their constraint looks at."""

    weights: Stack
    memory: Any
    step: Step


def remember(specs: dict[str, NormSpec], weights: Weights) -> Memory:
    """What the constraints of weights remember of them at first; those that remember nothing have no entry."""
    first = {}
    for (norm, constraint), paths in _groups(specs).items():

        def init(ws: list[Stack], norm: Norm = norm, constraint: Constraint = constraint) -> list[Any]:
            return [constraint.init(norm, w) for w in ws]

        first.update(zip(paths, in_stacks(init, [stacked(weights[path]) for path in paths]), strict=True))
    return {path: first[path] for path in weights if jax.tree.leaves(first[path])}


def retract(
    specs: dict[str, NormSpec],
    weights: Weights,
    memory: Memory,
    rates: tuple[jax.typing.ArrayLike, ...],
    axes: tuple[str, ...],
) -> tuple[Weights, Memory]:
    """Weights in the sets of their constraints, and what to remember of them.

    Args:
      specs: norm and constraint of every path.
      weights: canonical.
      memory: what is remembered of them.
      rates: learning rate and weight decay of the step that led to them.
      axes: those of the mesh to share them out over.
    """

    def held(path: str, w: Stack) -> Held:
        step = Step(*(jnp.full(len(w), number, w.dtype) for number in (*rates, specs[path].target)))
        return Held(w, memory.get(path, ()), step)

    stacks = {path: held(path, stacked(w)) for path, w in weights.items()}
    for (norm, constraint), paths in _groups(specs).items():
        put_back = partial(_put_back, norm, constraint)
        shared_axes = axes if constraint.is_expensive(norm) else ()
        stacks.update(zip(paths, spread(put_back, [stacks[path] for path in paths], shared_axes), strict=True))
    kept = {path: stacks[path].weights.reshape(w.shape) for path, w in weights.items()}
    return kept, {path: stacks[path].memory for path in memory}


def _put_back(norm: Norm, constraint: Constraint, stacks: list[Held]) -> list[Held]:
    kept = constraint.retract_all(norm, *map(list, zip(*stacks, strict=True)))
    return [held._replace(weights=w, memory=memory) for held, (w, memory) in zip(stacks, kept, strict=True)]


def _groups(specs: dict[str, NormSpec]) -> dict[tuple[Norm, Constraint], list[str]]:
    """Paths of the parameters that share norm and constraint."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for path, spec in specs.items():
        groups[spec.norm, spec.constraint].append(path)
    return groups
