"""One function of many stacks: alike together, in turns that memory allows, over the devices of a mesh."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from modula_optax._mesh import devices_along, on_each_device, travelling
from modula_optax._turns import (
    Item,
    Stacks,
    count_of,
    in_turns_beside,
    in_turns_of,
    is_taken_apart,
    length_of,
    of_stack,
    rows_of,
    turn_bytes,
    turn_of_shape,
    turn_size,
)
from modula_optax._xla import cut, once, placed_like


def apply_alike(
    function: Callable[..., Stacks],
    items: Sequence[Item],
    *,
    axes: tuple[str, ...] = (),
    in_turns: bool = False,
    settled: Collection[int] = (),
    stays: Any = False,
) -> list[Stacks]:
    """`function` of every item, called once for all that are alike.

    Args:
      function: of as many trees as an item has, of arrays `[n, ...]`, each index of the first axis on its own.
      items: those whose arrays agree in dtype and in all axes but the first are alike.
      axes: axes of the mesh in force to share out the work over. Items that are alike travel together: one exchange
        takes every index to its device, and one brings it back into the sharding it came in. What is more than a device
        should hold is done in rounds.
      in_turns: whether a device takes no more at a time than what stays in its caches, or keeps it busy.
      settled: numbers of the items whose indices may be on devices of their own already, to stay there.
      stays: whether what an item holds lies on the devices that work on it, and does not travel: a prefix of items.

    Returns:
      One tree for each item. In turns and over devices it must be like the first tree of the item, whose place it
      takes.
    """
    if axes:
        return _over_devices(function, items, axes, in_turns, settled, stays)
    results: list[Stacks] = [None] * len(items)
    for group in _alike(items):
        members = [items[i] for i in group]
        size = turn_size(members) if in_turns else count_of(members)
        if is_taken_apart(size, members):
            changed = in_turns_of(function, size, members)
        else:
            turns = -(-count_of(members) // size)
            size = -(-count_of(members) // turns)
            (stack,) = in_turns_of(function, size, [_joined(members, size * turns, _below)])
            changed = _pieces_below(stack, [length_of(item) for item in members])
        for i, result in zip(group, changed, strict=True):
            results[i] = result
    return results


def apply_beside(
    function: Callable[..., tuple[Stacks, Stacks]], stacks: Sequence[Stacks], known: Stacks
) -> tuple[list[Stacks], Stacks]:
    """`function` of stacks that are alike, and of one with what is known of each of their indices, in turns.

    Stacks stay where they are, as in `apply_alike`, unless several of them make up a turn.
    """
    items = [(stack,) for stack in stacks]
    size = turn_size(items)
    if len(items) > 1 and is_taken_apart(size, items):
        return in_turns_beside(function, size, stacks, known)
    # that of a state which was made on a mesh has rows to fill it
    (stack,) = joined(items, length_of((known,)), ())
    ((stack, known),) = apply_alike(lambda both: function(*both), [((stack, known),)], in_turns=True)
    return apart(stack, [length_of(item) for item in items], ()), known


def _over_devices(
    function: Callable[..., Stacks],
    items: Sequence[Item],
    axes: tuple[str, ...],
    in_turns: bool,
    settled: Collection[int],
    stays: Any,
) -> list[Stacks]:
    """The same, every index on one of the devices along these axes of the mesh."""
    results: list[Stacks] = [None] * len(items)
    devices, done = devices_along(axes), jnp.bool_(True)
    of_results = stays[0] if isinstance(stays, tuple) else stays
    for groups in _rounds(items, devices):
        stacks, functions, even = [], [], []
        for group in groups:
            members = [items[i] for i in group]
            even.append(all(i in settled and length_of(items[i]) % devices == 0 for i in group))
            on_a_device = -(-count_of(members) // devices)
            turns = -(-on_a_device // turn_size(members)) if in_turns else 1
            size = -(-on_a_device // turns)
            parts = devices if even[-1] else 1
            stacks.append(_joined(members, size * turns * devices, partial(_beside, parts)))
            functions.append(partial(of_stack, function, size))
        stacks = [travelling(stays, partial(once, done), stack) for stack in stacks]
        stacks, done = on_each_device(functions, stacks, axes, even, stays)
        for group, stack, is_even in zip(groups, stacks, even, strict=True):
            pieces = _pieces_beside(stack, [length_of(items[i]) for i in group], devices if is_even else 1)
            for i, piece in zip(group, pieces, strict=True):
                results[i] = travelling(of_results, placed_like, piece, items[i][0])
    return results


def _alike(items: Sequence[Item]) -> list[list[int]]:
    """Numbers of the items whose arrays agree in dtype and in all axes but the first."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        leaves, treedef = jax.tree.flatten(item)
        groups[treedef, tuple((x.shape[1:], x.dtype) for x in leaves)].append(i)
    return list(groups.values())


def _rounds(items: Sequence[Item], devices: int) -> list[list[list[int]]]:
    """Groups of items that are alike, as many at a time as devices have room to exchange."""
    groups = _alike(items)
    # as they come, as they are worked on, and as they go
    room = turn_bytes() * devices / 3
    rounds, held = [[]], 0
    for group in groups:
        size = sum(x.nbytes for i in group for x in jax.tree.leaves(items[i]))
        if rounds[-1] and held + size > room:
            rounds.append([])
            held = 0
        rounds[-1].append(group)
        held += size
    return rounds


def filled(count: int, shape: tuple[int, ...], axes: tuple[str, ...]) -> int:
    """How many indices of a stack, of this count and shape, fill the turns of the devices along these axes."""
    devices = devices_along(axes)
    on_a_device = -(-count // devices)
    turns = -(-on_a_device // turn_of_shape(shape))
    return -(-on_a_device // turns) * turns * devices


def joined(items: Sequence[Item], total: int, axes: tuple[str, ...]) -> Item:
    """All items in one, and behind them the zeros that make up the total, to be shared out over these axes or none."""
    return _joined(items, total, partial(_beside, 1) if axes else _below)


def apart(stacks: Stacks, lengths: list[int], axes: tuple[str, ...]) -> list[Stacks]:
    """Inverse of `joined`."""
    return _pieces_beside(stacks, lengths, 1) if axes else _pieces_below(stacks, lengths)


def _joined(items: Sequence[Item], total: int, join: Callable[..., Array]) -> Item:
    """All items in one, and behind them the zeros that make up the total."""
    missing = total - count_of(items)
    if len(items) == 1 and not missing:
        return items[0]
    return jax.tree.map(lambda *arrays: join(arrays, missing), *items)


def _below(arrays: Sequence[Array], missing: int) -> Array:
    """By copies of rows: along an axis of several others XLA would compile a loop for each array."""
    shape = arrays[0].shape[1:]
    filler = [jnp.zeros((missing, *shape), arrays[0].dtype)] if missing else []
    return jnp.concatenate([*map(rows_of, arrays), *map(rows_of, filler)]).reshape(-1, *shape)


def _beside(parts: int, arrays: Sequence[Array], missing: int) -> Array:
    """By axes as they are: rows that are sharded would be gathered to be counted in one with others.

    In so many parts, one for each device, each of which has its share of every array.
    """
    shares = [x.reshape(parts, -1, *x.shape[1:]) for x in arrays]
    padding = (0, 0), (0, missing // parts), *[(0, 0)] * (arrays[0].ndim - 1)
    return jnp.pad(jnp.concatenate(shares, axis=1), padding).reshape(-1, *arrays[0].shape[1:])


def _pieces_beside(stacks: Stacks, lengths: list[int], parts: int) -> list[Stacks]:
    """The items of what was joined beside each other, in so many parts."""
    leaves, treedef = jax.tree.flatten(stacks)
    ends = list(itertools.accumulate(n // parts for n in lengths))
    shares = [x.reshape(parts, -1, *x.shape[1:]) for x in leaves]
    return [
        treedef.unflatten(
            [share[:, end - n // parts : end].reshape(n, *x.shape[1:]) for share, x in zip(shares, leaves, strict=True)]
        )
        for n, end in zip(lengths, ends, strict=True)
    ]


def _pieces_below(stacks: Stacks, lengths: list[int]) -> list[Stacks]:
    """The items of what was joined below each other."""
    leaves, treedef = jax.tree.flatten(stacks)
    pieces = [cut(x, lengths, at_run_time=x.ndim > 2) for x in leaves]
    return [treedef.unflatten([piece[i] for piece in pieces]) for i in range(len(lengths))]
