"""One function of many stacks: alike together, in turns that memory allows, over the devices of a mesh."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from modula_optax._mesh import devices_along, on_each_device, travelling, varying_alike
from modula_optax._xla import at_once, cut, once, placed_like, rows_from

# a tree of arrays `[n, ...]`
Stacks = Any
# what a function changes, and what it looks at
Item = tuple[Stacks, ...]
Rows = Float[Array, "_ width"]

# How much a turn may hold: on CPUs what stays in caches, which the devices of a host share; elsewhere what keeps the
# device busy.
_TURN_BYTES = {"cpu": 2**22, "otherwise": 2**30}


def apply_alike(
    function: Callable[..., Stacks],
    items: Sequence[Item],
    *,
    axes: tuple[str, ...] = (),
    in_turns: bool = False,
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
      stays: whether what an item holds lies on the devices that work on it, and does not travel: a prefix of items.

    Returns:
      One tree for each item. In turns and over devices it must be like the first tree of the item, whose place it
      takes.
    """
    results: list[Stacks] = [None] * len(items)
    devices, done = devices_along(axes), jnp.bool_(True)
    of_results = stays[0] if isinstance(stays, tuple) else stays
    for groups in _rounds(items, devices):
        stacks, functions = [], []
        for group in groups:
            members = [items[i] for i in group]
            count, shape = _count(members), jax.tree.leaves(members[0])[0].shape[1:]
            turns, total = _turns(count, shape, devices) if in_turns else (1, -(-count // devices) * devices)
            stacks.append(joined(members, total, axes))
            functions.append(partial(_in_turns, function, turns))
        if axes:
            stacks = [travelling(stays, partial(once, done), stack) for stack in stacks]
            stacks, done = on_each_device(functions, stacks, axes, stays)
        else:
            stacks = [on_stack(stack) for on_stack, stack in zip(functions, stacks, strict=True)]
        for group, stack in zip(groups, stacks, strict=True):
            for i, result in zip(group, apart(stack, [_length(items[i]) for i in group], axes), strict=True):
                like = items[i][0]
                results[i] = travelling(of_results, placed_like, result, like) if axes else result
    return results


def _alike(items: Sequence[Item]) -> list[list[int]]:
    """Numbers of the items whose arrays agree in dtype and in all axes but the first."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        leaves, treedef = jax.tree.flatten(item)
        groups[treedef, tuple((x.shape[1:], x.dtype) for x in leaves)].append(i)
    return list(groups.values())


def _rounds(items: Sequence[Item], devices: int) -> list[list[list[int]]]:
    """Groups of items that are alike, as many at a time as devices have room to exchange; alone, one at a time."""
    groups = _alike(items)
    if devices == 1:
        return [[group] for group in groups]
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
    return _turns(count, shape, devices_along(axes))[1]


def _turns(count: int, shape: tuple[int, ...], devices: int) -> tuple[int, int]:
    """In how many turns every device works on items that are alike, and how many indices fill these up."""
    on_a_device = -(-count // devices)
    turns = -(-on_a_device // max(1, turn_bytes() // _held_bytes(shape)))
    return turns, -(-on_a_device // turns) * turns * devices


def turn_bytes() -> int:
    """How much is worked on at a time on one device."""
    if jax.default_backend() == "cpu":
        return _TURN_BYTES["cpu"] // jax.local_device_count()
    return _TURN_BYTES["otherwise"]


def _held_bytes(shape: tuple[int, ...]) -> int:
    """What a polar factor has in memory at a time: two more of its size, and five of its Gram matrix, in float32."""
    *taps, m, n = shape
    return math.prod(taps) * (2 * m * n + 5 * min(m, n) ** 2) * 4


def joined(items: Sequence[Item], total: int, axes: tuple[str, ...]) -> Item:
    """All items in one, and behind them the zeros that make up the total, to be shared out over these axes or none."""
    missing, join = total - _count(items), _beside if axes else _below
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


def apart(stacks: Stacks, lengths: list[int], axes: tuple[str, ...]) -> list[Stacks]:
    """Inverse of `joined`."""
    leaves, treedef = jax.tree.flatten(stacks)
    pieces = [cut(x, lengths, not axes and x.ndim > 2) for x in leaves]
    return [treedef.unflatten([piece[i] for piece in pieces]) for i in range(len(lengths))]


def _in_turns(function: Callable[..., Stacks], turns: int, item: Item) -> Stacks:
    """`function` of a stack, in place, by a loop that holds the temporaries of one turn only."""
    # inside `shard_map`, branches and loops want what they work on to vary over the same devices
    item = varying_alike(item)
    if turns == 1:
        return function(*item)
    changing, *fixed = item
    size = _length(item) // turns

    def part(start: Array, rows: Rows, like: Array) -> Array:
        height = _height(like)
        return rows_from(rows, start * jnp.uint32(height), size * height).reshape(size, *like.shape[1:])

    def put(start: Array, rows: Rows, changed: Array) -> Rows:
        first = start * jnp.uint32(_height(changed))
        return jax.lax.dynamic_update_slice(rows, _rows(changed), (first, jnp.uint32(0)))

    def turn(carry: tuple[Array, Stacks], _: None) -> tuple[tuple[Array, Stacks], None]:
        start, rows = carry
        looked_at = [jax.tree.map(lambda x: part(start, _rows(x), x), tree) for tree in fixed]
        read = at_once(
            lambda start: jax.tree.map(partial(part, start), rows, changing), start, jax.tree.leaves(rows)[0]
        )
        changed = function(read, *looked_at)
        return (start + jnp.uint32(size), jax.tree.map(partial(put, start), rows, changed)), None

    # a scan can be differentiated backwards, and changes its carry in place
    (_, rows), _ = jax.lax.scan(turn, (jnp.uint32(0), jax.tree.map(_rows, changing)), length=turns)
    return jax.tree.map(lambda rows, like: rows.reshape(like.shape), rows, changing)


def _rows(x: Array) -> Rows:
    return x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x[:, None]


def _height(x: Array) -> int:
    """How many rows an index has."""
    return math.prod(x.shape[1:-1])


def _length(item: Item) -> int:
    return len(jax.tree.leaves(item)[0])


def _count(items: Sequence[Item]) -> int:
    return sum(map(_length, items))
