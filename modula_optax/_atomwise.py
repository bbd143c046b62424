"""Links that change the atoms of updates, each by itself: in canonical layout and back, with what they remember."""

from collections.abc import Callable
from typing import Any

import optax
from jaxtyping import Array

from modula_optax._align import Leaves
from modula_optax._canonical import Stack
from modula_optax._guard import guarded, refuse_without
from modula_optax._layout import atoms, restored
from modula_optax._match import matching
from modula_optax._mesh import automatic, shardings_of
from modula_optax._specs import NormSpec

# by path, what is remembered of a parameter
Memory = dict[str, Any]


def link_of_atoms(
    name: str, function: Callable[[Stack, Stack], Stack], specs: Any, selects: Callable[[NormSpec], bool]
) -> optax.GradientTransformationExtraArgs:
    """The link of this name that makes `function(u, w)` of updates and weights, and remembers nothing."""
    match = matching(specs, f"mo.{name}(specs)")

    def init(params: optax.Params) -> optax.EmptyState:
        # refuses specs that do not fit
        match(params)
        return optax.EmptyState()

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        del extra_args
        refuse_without(params, name)
        return map_atoms(lambda u, w, _: (function(u, w), None), match(updates), selects, params)[0], state

    return guarded(init, update)


def map_atoms(
    function: Callable[..., tuple[Stack, Any]],
    updates: Leaves,
    selects: Callable[[NormSpec], bool],
    *others: Any,
    memory: Memory | None = None,
) -> tuple[Any, Memory]:
    """Updates, and what to remember, of the parameters whose specs are selected; others pass.

    Args:
      function: of an update, of what the same parameter is in the other trees, and of what is remembered of it.
      updates: what is changed, beside its specs.
      selects: whether a parameter is changed.
      *others: trees of the same structure.
      memory: what is remembered; `None` where nothing is.
    """
    chosen = updates.where(selects)
    trees = [updates.of(chosen), *(updates.of(chosen, tree) for tree in others)]
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
    return updates.rebuilt(changed), after
