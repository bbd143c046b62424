"""Retraction of many parameters: together where they share norm and constraint, over the members of an ensemble."""

from collections import defaultdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._align import Named
from modula_optax._canonical import Stack
from modula_optax._constraints import Constraint, Step
from modula_optax._layout import atoms, restored
from modula_optax._members import over_members
from modula_optax._mesh import automatic, replicated, shardings_of, varying_alike
from modula_optax._norms import Norm
from modula_optax._stacks import apply_alike

# by path
Arrays = dict[str, Array]
Memory = dict[str, Any]


# `jit`: compiled once for all optimizers that hold the same, and outside of it jax 0.7 finds no shardings for stacks
# that are uneven over devices
@partial(jax.jit, static_argnums=0)
def remember(held: Named, weights: Arrays) -> Memory:
    """What the constraints of weights remember of them at first; those that remember nothing have no entry."""

    def first(weights: Arrays) -> Memory:
        return _first_memory(held, {path: atoms(weights[path], spec) for path, spec in held})

    # a few vectors, on every device
    return replicated(first)(weights)


def _first_memory(held: Named, weights: dict[str, Stack]) -> Memory:
    first = {}
    for (norm, constraint), paths in _groups(held).items():
        memories = apply_alike(partial(constraint.init, norm), [(weights[path],) for path in paths])
        first |= zip(paths, memories, strict=True)
    return {path: first[path] for path in weights if jax.tree.leaves(first[path])}


@over_members
def retract(
    held: Named,
    axes: tuple[str, ...],
    members: int,
    params: Arrays,
    updates: Arrays,
    memory: Memory | None,
    rates: Float[Array, "*members 2"],
) -> tuple[Arrays, Memory]:
    """Parameters, or updates if there are any, that lead into the sets of their constraints; what to remember of them.

    Args:
      held: norm and constraint of every path.
      axes: those of the mesh to share them out over.
      members: how many axes of members every array begins with.
      params: the parameters.
      updates: what is about to be added to them; empty: nothing, and parameters are returned.
      memory: what is remembered of them; `None`: nothing yet.
      rates: learning rate and weight decay of the step that led to them.
    """

    def put_back(params: Arrays, updates: Arrays, memory: Memory | None, rates: Array) -> tuple[Arrays, Memory]:
        specs, kept, remembered = dict(held), {}, {}
        before, changes = (
            {path: atoms(tree[path], spec, members) for path, spec in held if tree} for tree in (params, updates)
        )
        known = _first_memory(held, before) if memory is None else _known(held, before, _flat(memory, members))
        # the difference of the low-precision sum would lose the step: add and subtract in float32
        for path, u in changes.items():
            dtype = jnp.promote_types(before[path].dtype, u.dtype)
            before[path], changes[path] = before[path].astype(dtype), u.astype(dtype)
        for (norm, constraint), paths in _groups(held).items():
            costly = constraint.is_expensive(norm)
            # devices are sent the sums alone; on one, none is made of all parameters at a time
            by_turns = bool(updates) and costly and not axes
            items = []
            for path in paths:
                w, u = before[path], changes.get(path)
                now = w if u is None else u if by_turns else w + u
                step = _step(w, rates, specs[path].target, members)
                items.append(((now, known.get(path, ())), step, *([w] if by_turns else [])))
            put = partial(_put_back, norm, constraint)
            results = apply_alike(put, items, axes=axes if costly else (), in_turns=costly)
            for path, (x, after) in zip(paths, results, strict=True):
                kept[path] = x - before[path] if updates and not by_turns else x
                remembered[path] = after
        like = updates or params
        return (
            {path: restored(kept[path], spec, like[path], members=members) for path, spec in held},
            {path: jax.tree.map(_like, remembered[path], of) for path, of in (memory or {}).items()},
        )

    return automatic(
        put_back, params, updates, memory, rates, shardings=shardings_of((updates or params, memory or {}))
    )


def _put_back(
    norm: Norm, constraint: Constraint, now: tuple[Stack, Any], step: Step, before: Stack | None = None
) -> tuple[Stack, Any]:
    """Weights in the set, and what to remember; of changes to the weights `before`, those that lead there."""
    x, memory = now
    if before is None:
        return constraint.retract(norm, x, memory, step)
    after, memory = constraint.retract(norm, before + x, memory, step)
    return after - before, memory


def _known(held: Named, weights: dict[str, Stack], memory: Memory) -> Memory:
    """What is remembered, or what is remembered at first where that is nothing yet: the state was made of shapes."""

    def is_unknown(path: str) -> Array:
        entries = [(x != 0).reshape(len(weights[path]), -1) for x in jax.tree.leaves(memory[path])]
        return ~jnp.any(jnp.concatenate(entries, axis=1), axis=1)

    def completed() -> Memory:
        first = _first_memory(held, weights)

        def choose(unknown: Array, x: Array, fresh: Array) -> Array:
            return jnp.where(unknown.reshape(-1, *[1] * (x.ndim - 1)), fresh, x)

        return {path: jax.tree.map(partial(choose, is_unknown(path)), memory[path], first[path]) for path in memory}

    if not memory:
        return memory
    weights, memory = varying_alike((weights, memory))
    nothing_new = ~jnp.any(jnp.concatenate([is_unknown(path) for path in memory]))
    return jax.lax.cond(nothing_new, lambda: memory, completed)


def _step(w: Stack, rates: Float[Array, "*members 2"], target: float, members: int) -> Step:
    """The step that led to every atom."""
    of_member = rates.reshape(-1, 2).astype(w.dtype)
    of_atoms = jnp.repeat(of_member, len(w) // len(of_member), axis=0, total_repeat_length=len(w))
    return Step(of_atoms[:, 0], of_atoms[:, 1], jnp.full(len(w), target, w.dtype))


def _flat(memory: Memory, members: int) -> Memory:
    """Memory of all members along one axis."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[members + 1 :]), memory)


def _like(x: Array, before: Array) -> Array:
    """Memory as it was kept before: with the axes of its members, and in its dtype, however wide the updates are."""
    return x.reshape(before.shape).astype(before.dtype)


def _groups(held: Named) -> dict[tuple[Norm, Constraint], list[str]]:
    """Paths of the parameters that share norm and constraint."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for path, spec in held:
        groups[spec.norm, spec.constraint].append(path)
    return groups
