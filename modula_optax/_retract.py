"""Retraction of many parameters: one for all that are of equal norm, constraint and canonical shape."""

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modula_optax._canonical import Canonical, stacked
from modula_optax._constraints import Step
from modula_optax._specs import NormSpec

Weights = dict[str, Canonical]
Memory = dict[str, Any]


def remember(specs: dict[str, NormSpec], weights: Weights) -> Memory:
    """What the constraints of weights remember of them at first; those that remember nothing have no entry."""
    stacks = {path: stacked(w) for path, w in weights.items()}
    first = _map_stacks(lambda spec, w: _constraint(spec).init(spec.norm, w), specs, stacks)
    return {path: memory for path, memory in first.items() if jax.tree.leaves(memory)}


def retract(
    specs: dict[str, NormSpec],
    weights: Weights,
    memory: Memory,
    learning_rate: jax.typing.ArrayLike,
    weight_decay: jax.typing.ArrayLike,
) -> tuple[Weights, Memory]:
    """Weights in the sets of their constraints, and what to remember of them."""

    def put_back(spec: NormSpec, stack: Any) -> tuple[Any, Any]:
        w, remembered, target = stack
        step = Step(jnp.asarray(learning_rate, w.dtype), jnp.asarray(weight_decay, w.dtype), target)
        return _constraint(spec).retract(spec.norm, w, remembered, step)

    stacks = {path: stacked(w) for path, w in weights.items()}
    targets = {path: jnp.full(len(w), specs[path].target, w.dtype) for path, w in stacks.items()}
    results = _map_stacks(
        put_back, specs, {path: (w, memory.get(path, ()), targets[path]) for path, w in stacks.items()}
    )
    kept = {path: w.reshape(weights[path].shape) for path, (w, _) in results.items()}
    return kept, {path: remembered for path, (_, remembered) in results.items() if path in memory}


def _constraint(spec: NormSpec) -> Any:
    return spec.constraint


def _map_stacks(
    function: Callable[[NormSpec, Any], Any], specs: dict[str, NormSpec], trees: dict[str, Any]
) -> dict[str, Any]:
    """`function` of one of the specs and the stacked atoms of all parameters that share norm, constraint and shape.

    Args:
      function: takes and returns trees of arrays `[n, ...]`, each atom on its own.
      specs: of every path.
      trees: of every path; their first arrays are the weights.
    """
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for path, tree in trees.items():
        w, spec = jax.tree.leaves(tree)[0], specs[path]
        groups[spec.norm, spec.constraint, w.shape[1:], w.dtype].append(path)
    results = {}
    for paths in groups.values():
        together = function(specs[paths[0]], jax.tree.map(lambda *x: jnp.concatenate(x), *(trees[p] for p in paths)))
        ends = np.cumsum([len(jax.tree.leaves(trees[path])[0]) for path in paths])
        for path, start, end in zip(paths, [0, *ends[:-1]], ends, strict=True):
            results[path] = jax.tree.map(lambda x, start=start, end=end: x[start:end], together)
    return results
