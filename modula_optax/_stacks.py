"""One function of many stacks: alike together, in turns that memory allows, over the devices of a mesh."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from modula_optax._mesh import devices_along, on_each_device, varying_alike
from modula_optax._xla import cut, once, placed_like, rows_from

# a tree of arrays `[n, ...]`
Stacks = Any
# what a function changes, and what it looks at
Item = tuple[Stacks, ...]
Rows = Shaped[Array, "_ width"]

# How much a turn may hold: on CPUs what stays in caches, which the devices of a host share; elsewhere what keeps the
# device busy.
_TURN_BYTES = {"cpu": 2**22, "otherwise": 2**30}


def apply_alike(
    function: Callable[..., Stacks], items: Sequence[Item], *, axes: tuple[str, ...] = (), in_turns: bool = False
) -> list[Stacks]:
    """`function` of every item, called once for all that are alike.

    Args:
      function: of as many trees as an item has, of arrays `[n, ...]`, each index of the first axis on its own.
      items: those whose arrays agree in dtype and in all axes but the first are alike.
      axes: axes of the mesh in force to share out the work over. Items that are alike travel together: one exchange
        takes every index to its device, and one brings it back into the sharding it came in. What is more than a device
        should hold is done in rounds.
      in_turns: whether a device takes no more at a time than what stays in its caches, or keeps it busy.

    Returns:
      One tree for each item. In turns and over devices it must be like the first tree of the item, whose place it
      takes.
    """
    if axes:
        return _over_devices(function, items, axes, in_turns)
    results: list[Stacks] = [None] * len(items)
    for group in _alike(items):
        members = [items[i] for i in group]
        size = _turn_size(members) if in_turns else _count(members)
        if _is_taken_apart(size, members):
            changed = _in_turns(function, size, members)
        else:
            turns = -(-_count(members) // size)
            size = -(-_count(members) // turns)
            (stack,) = _in_turns(function, size, [_joined(members, size * turns, _below)])
            changed = _apart(stack, [_length(item) for item in members], at_run_time=True)
        for i, result in zip(group, changed, strict=True):
            results[i] = result
    return results


def _over_devices(
    function: Callable[..., Stacks], items: Sequence[Item], axes: tuple[str, ...], in_turns: bool
) -> list[Stacks]:
    """The same, every index on one of the devices along these axes of the mesh."""
    results: list[Stacks] = [None] * len(items)
    devices, done = devices_along(axes), jnp.bool_(True)
    for groups in _rounds(items, devices):
        stacks, functions = [], []
        for group in groups:
            members = [items[i] for i in group]
            on_a_device = -(-_count(members) // devices)
            turns = -(-on_a_device // _turn_size(members)) if in_turns else 1
            size = -(-on_a_device // turns)
            stacks.append(_joined(members, size * turns * devices, _beside))
            functions.append(partial(_of_stack, function, size))
        stacks = jax.tree.map(partial(once, done), stacks)
        stacks, done = on_each_device(functions, stacks, axes)
        for group, stack in zip(groups, stacks, strict=True):
            pieces = _apart(stack, [_length(items[i]) for i in group], at_run_time=False)
            for i, piece in zip(group, pieces, strict=True):
                results[i] = jax.tree.map(placed_like, piece, items[i][0])
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


def _turn_size(items: Sequence[Item]) -> int:
    """How many indices of items that are alike a device works on at a time."""
    return max(1, turn_bytes() // _held_bytes(jax.tree.leaves(items[0])[0].shape[1:]))


def turn_bytes() -> int:
    """How much is worked on at a time on one device."""
    if jax.default_backend() == "cpu":
        return _TURN_BYTES["cpu"] // jax.local_device_count()
    return _TURN_BYTES["otherwise"]


def _held_bytes(shape: tuple[int, ...]) -> int:
    """What a polar factor has in memory at a time: two more of its size, and five of its Gram matrix, in float32."""
    *taps, m, n = shape
    return math.prod(taps) * (2 * m * n + 5 * min(m, n) ** 2) * 4


def _joined(items: Sequence[Item], total: int, join: Callable[..., Array]) -> Item:
    """All items in one, and behind them the zeros that make up the total."""
    missing = total - _count(items)
    if len(items) == 1 and not missing:
        return items[0]
    return jax.tree.map(lambda *arrays: join(arrays, missing), *items)


def _below(arrays: Sequence[Array], missing: int) -> Array:
    """By copies of rows: along an axis of several others XLA would compile a loop for each array."""
    shape = arrays[0].shape[1:]
    filler = [jnp.zeros((missing, *shape), arrays[0].dtype)] if missing else []
    return jnp.concatenate([*map(_rows, arrays), *map(_rows, filler)]).reshape(-1, *shape)


def _beside(arrays: Sequence[Array], missing: int) -> Array:
    """By axes as they are: rows that are sharded would be gathered to be counted in one with others."""
    return jnp.pad(jnp.concatenate(arrays), ((0, missing), *[(0, 0)] * (arrays[0].ndim - 1)))


def _apart(stacks: Stacks, lengths: list[int], at_run_time: bool) -> list[Stacks]:
    """The items of a joined one."""
    leaves, treedef = jax.tree.flatten(stacks)
    pieces = [cut(x, lengths, at_run_time and x.ndim > 2) for x in leaves]
    return [treedef.unflatten([piece[i] for piece in pieces]) for i in range(len(lengths))]


def _is_taken_apart(size: int, items: Sequence[Item]) -> bool:
    """Whether turns are of one item each, which stays where it is; several small ones are joined for a turn."""
    return all(_length(item) % size == 0 for item in items)


def _of_stack(function: Callable[..., Stacks], size: int, item: Item) -> Stacks:
    return _in_turns(function, size, [item])[0]


def _in_turns(function: Callable[..., Stacks], size: int, items: Sequence[Item]) -> list[Stacks]:
    """`function` of stacks, so many indices at a time, in place, by a loop that holds the temporaries of one turn."""
    # inside `shard_map`, branches and loops want what they work on to vary over the same devices
    items = varying_alike(list(items))
    if _count(items) == size:
        return [function(*item) for item in items]
    turns = [(k, start) for k, item in enumerate(items) for start in range(0, _length(item), size)]
    owners, starts = (np.array(column) for column in zip(*turns, strict=True))

    def part(start: Array, item: Item) -> Item:
        return jax.tree.map(lambda x: _rows_of(x, start, size), item)

    def turn(stacks: list[Stacks], where: tuple[Array, Array]) -> tuple[list[Stacks], None]:
        k, start = where
        each = [(stack, *item[1:]) for stack, item in zip(stacks, items, strict=True)]
        changed = function(*_chosen(k, [partial(part, start, item) for item in each]))
        if len(items) == 1:
            return [_put(start, stacks[0], changed)], None
        # a branch for each: one that chose among all would copy them all
        return [jax.lax.cond(k == i, _put, _left, start, stack, changed) for i, stack in enumerate(stacks)], None

    # a scan can be differentiated backwards, and changes its carry in place
    where = jnp.asarray(owners, jnp.int32), jnp.asarray(starts, jnp.uint32)
    return jax.lax.scan(turn, [changing for changing, *_ in items], where)[0]


def _chosen(k: Array, functions: Sequence[Callable[[], Any]]) -> Any:
    return jax.lax.switch(k, functions) if len(functions) > 1 else functions[0]()


def _put(start: Array, stack: Stacks, changed: Stacks) -> Stacks:
    return jax.tree.map(partial(_with_rows, start=start), stack, changed)


def _left(start: Array, stack: Stacks, changed: Stacks) -> Stacks:
    del start, changed
    return stack


def _rows_of(x: Array, start: Array, size: int) -> Array:
    """So many indices from `start`, by copies of rows; all of it, if these are all."""
    if len(x) == size:
        return x
    height = _height(x)
    return rows_from(_rows(x), start * jnp.uint32(height), size * height).reshape(size, *x.shape[1:])


def _with_rows(x: Array, changed: Array, start: Array) -> Array:
    if len(x) == len(changed):
        return changed
    first = start * jnp.uint32(_height(x))
    return jax.lax.dynamic_update_slice(_rows(x), _rows(changed), (first, jnp.uint32(0))).reshape(x.shape)


def _rows(x: Array) -> Rows:
    return x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x[:, None]


def _height(x: Array) -> int:
    """How many rows an index has."""
    return math.prod(x.shape[1:-1])


def _length(item: Item) -> int:
    return len(jax.tree.leaves(item)[0])


def _count(items: Sequence[Item]) -> int:
    return sum(map(_length, items))
