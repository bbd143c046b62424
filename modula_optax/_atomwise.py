"""Links that change the atoms of updates, each by itself: in canonical layout and back, with what they remember."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

from modula_optax._align import Leaves
from modula_optax._canonical import Stack
from modula_optax._layout import atoms, restored
from modula_optax._mesh import automatic, shardings_of
from modula_optax._specs import NormSpec

# by path, what is remembered of a parameter
Memory = dict[str, Any]


def map_atoms(
    function: Callable[..., tuple[Stack, Any]],
    match: Callable[[Any], Leaves],
    selects: Callable[[NormSpec], bool],
    updates: Any,
    *others: Any,
    memory: Memory | None = None,
) -> tuple[Any, Memory]:
    """Updates, and what to remember, of the parameters whose specs are selected; others pass.

    Args:
      function: of an update, of what the same parameter is in the other trees, and of what is remembered of it.
      match: the leaves of trees beside their specs, by `matching`.
      selects: whether a parameter is changed.
      updates: the tree that is changed.
      *others: trees of its structure.
      memory: what is remembered; `None` where nothing is.
    """
    leaves = match(updates)
    chosen = leaves.where(selects)
    trees = [leaves.of(chosen, tree) for tree in (updates, *others)]
    before = {} if memory is None else memory

    def apply(trees: list[dict[str, Array]], memory: Memory) -> tuple[dict[str, Array], Memory]:
        changed, after = {}, {}
        for path, spec in chosen:
            stack, remembered = function(*(atoms(tree[path], spec) for tree in trees), memory.get(path))
            changed[path] = restored(stack, spec, trees[0][path])
            if memory:
                after[path] = remembered
        return changed, after

    like = shardings_of((trees[0], before))
    changed, after = automatic(apply, trees, before, shardings=like) if chosen else ({}, before)
    return leaves.rebuilt(changed), after
