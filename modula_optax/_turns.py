"""Turns: one function of stacks, some indices at a time, where they lie, as many as memory allows."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from modula_optax._mesh import varying_alike
from modula_optax._xla import at_once, rows_from

# a tree of arrays `[n, ...]`
Stacks = Any
# what a function changes, and what it looks at
Item = tuple[Stacks, ...]
Rows = Shaped[Array, "_ width"]

# How much a turn may hold: on CPUs what stays in caches, which the devices of a host share; elsewhere what keeps the
# device busy.
_TURN_BYTES = {"cpu": 2**22, "otherwise": 2**30}


def turn_size(items: Sequence[Item]) -> int:
    """How many indices of items that are alike a device works on at a time."""
    return turn_of_shape(jax.tree.leaves(items[0])[0].shape[1:])


def turn_of_shape(shape: tuple[int, ...]) -> int:
    """How many indices of this shape a device works on at a time."""
    return max(1, turn_bytes() // _held_bytes(shape))


def turn_bytes() -> int:
    """How much is worked on at a time on one device."""
    if jax.default_backend() == "cpu":
        return _TURN_BYTES["cpu"] // jax.local_device_count()
    return _TURN_BYTES["otherwise"]


def _held_bytes(shape: tuple[int, ...]) -> int:
    """What a polar factor has in memory at a time: two more of its size, and five of its Gram matrix, in float32."""
    *taps, m, n = shape
    return math.prod(taps) * (2 * m * n + 5 * min(m, n) ** 2) * 4


def is_taken_apart(size: int, items: Sequence[Item]) -> bool:
    """Whether turns are of one item each, which stays where it is; several small ones are joined for a turn."""
    return all(length_of(item) % size == 0 for item in items)


def of_stack(function: Callable[..., Stacks], size: int, item: Item) -> Stacks:
    return in_turns_of(function, size, [item])[0]


def in_turns_of(function: Callable[..., Stacks], size: int, items: Sequence[Item]) -> list[Stacks]:
    """`function` of stacks, so many indices at a time, in place, by a loop that holds the temporaries of one turn."""
    # inside `shard_map`, branches and loops want what they work on to vary over the same devices
    items = varying_alike(list(items))
    if count_of(items) == size:
        return [function(*item) for item in items]

    def turn(stacks: list[Stacks], where: _Turn) -> tuple[list[Stacks], None]:
        if len(items) == 1:
            changing, fixed = stacks[0], items[0][1:]
            read = at_once(partial(_part, size, changing), where.start, jax.tree.leaves(changing)[0])
            return [_put(where.start, changing, function(read, *_part(size, fixed, where.start)))], None
        each = [(stack, *item[1:]) for stack, item in zip(stacks, items, strict=True)]
        return where.written(stacks, function(*where.read(size, each))), None

    # a scan can be differentiated backwards, and changes its carry in place
    return jax.lax.scan(turn, [changing for changing, *_ in items], _turns(size, items))[0]


def in_turns_beside(
    function: Callable[..., tuple[Stacks, Stacks]], size: int, stacks: Sequence[Stacks], known: Stacks
) -> tuple[list[Stacks], Stacks]:
    """`function` of several stacks, and of one with what is known of each of their indices, both changed in place."""
    begun = varying_alike((list(stacks), known))

    def turn(carry: tuple[list[Stacks], Stacks], where: _Turn) -> tuple[tuple[list[Stacks], Stacks], None]:
        stacks, known = carry
        (read,) = where.read(size, [(stack,) for stack in stacks])
        before = at_once(partial(_part, size, known), where.place, jax.tree.leaves(known)[0])
        changed, after = function(read, before)
        return (where.written(stacks, changed), _put(where.place, known, after)), None

    return jax.lax.scan(turn, begun, _turns(size, [(stack,) for stack in stacks]))[0]


class _Turn(NamedTuple):
    """Which item a turn is of, as a number and as a flag of each, and where it starts in that and in all of them."""

    k: Array
    flags: list[Array]
    start: Array
    place: Array

    def read(self, size: int, items: Sequence[Item]) -> Item:
        """What the turn is of."""
        return jax.lax.switch(self.k, [partial(_part, size, item) for item in items], self.start)

    def written(self, stacks: list[Stacks], changed: Stacks) -> list[Stacks]:
        """The stacks with what has changed: a branch for each, as one that chose among all would copy them all."""
        flags = zip(stacks, self.flags, strict=True)
        return [jax.lax.cond(flag, _put, _left, self.start, stack, changed) for stack, flag in flags]


def _turns(size: int, items: Sequence[Item]) -> _Turn:
    """All turns, one after the other."""
    turns = [(k, start) for k, item in enumerate(items) for start in range(0, length_of(item), size)]
    owners, starts = (np.array(column) for column in zip(*turns, strict=True))
    # XLA for CPUs (jaxlib 0.10) would compile a comparison of k with each number, where flags are found by one kernel
    flags = [jnp.asarray(owners == k) for k in range(len(items))]
    places = size * np.arange(len(turns))
    return _Turn(jnp.asarray(owners, jnp.int32), flags, *(jnp.asarray(x, jnp.uint32) for x in (starts, places)))


def _part(size: int, tree: Any, start: Array) -> Any:
    return jax.tree.map(lambda x: _rows_of(x, start, size), tree)


def visit(function: Callable[..., Any], reads: Sequence[Callable[[], Any]], *rows: Any) -> Any:
    """`function(*read(), *row)` of every parameter, compiled once and changing none, as trees `[len(reads), ...]`.

    Args:
      function: what is done with each.
      reads: functions that read a parameter when its turn comes: tuples of arrays that agree in shapes.
      *rows: trees of arrays `[len(reads), ...]`.
    """
    if len(reads) == 1:
        return jax.tree.map(lambda x: x[None], function(*reads[0](), *jax.tree.map(lambda x: x[0], rows)))

    def turn(k: Array, row: tuple[Any, ...]) -> tuple[Array, Any]:
        return k + 1, function(*jax.lax.switch(k, reads), *row)

    return jax.lax.scan(turn, jnp.int32(0), rows, length=len(reads))[1]


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
    return rows_from(rows_of(x), start * jnp.uint32(height), size * height).reshape(size, *x.shape[1:])


def _with_rows(x: Array, changed: Array, start: Array) -> Array:
    if len(x) == len(changed):
        return changed
    first = start * jnp.uint32(_height(x))
    return jax.lax.dynamic_update_slice(rows_of(x), rows_of(changed), (first, jnp.uint32(0))).reshape(x.shape)


def rows_of(x: Array) -> Rows:
    return x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x[:, None]


def _height(x: Array) -> int:
    """How many rows an index has."""
    return math.prod(x.shape[1:-1])


def length_of(item: Item) -> int:
    return len(jax.tree.leaves(item)[0])


def count_of(items: Sequence[Item]) -> int:
    return sum(map(length_of, items))
