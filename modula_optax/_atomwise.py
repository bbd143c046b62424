"""Links that change the atoms of updates, each by itself: in canonical layout and back, with what they remember."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

from modula_optax._canonical import Stack
from modula_optax._layout import atoms, restored
from modula_optax._match import Leaves
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
    entries, treedef = match(updates)
    chosen = {i: leaf for i, leaf in enumerate(entries) if selects(leaf.spec)}
    flat = [treedef.flatten_up_to(tree) for tree in (updates, *others)]
    arrays = {i: tuple(tree[i] for tree in flat) for i in chosen}
    before = {} if memory is None else memory

    def apply(arrays: dict[int, tuple[Array, ...]], memory: Memory) -> tuple[dict[int, Array], Memory]:
        changed, after = {}, {}
        for i, leaf in chosen.items():
            stacks = [atoms(x, leaf.spec) for x in arrays[i]]
            stack, remembered = function(*stacks, memory.get(leaf.path))
            changed[i] = restored(stack, leaf.spec, leaf.value)
            if memory:
                after[leaf.path] = remembered
        return changed, after

    like = shardings_of(({i: leaf.value for i, leaf in chosen.items()}, before))
    changed, after = automatic(apply, arrays, before, shardings=like) if chosen else ({}, before)
    return treedef.unflatten([changed.get(i, u) for i, u in enumerate(flat[0])]), after


def refuse_without(params: Any, name: str) -> None:
    """Refuses a call without the parameters."""
    if params is None:
        raise ValueError(f"{name} needs the parameters: call tx.update(grads, state, params).")
