"""One function of many arrays: those of one shape together, a bounded number at a time."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

Stack = Float[Array, "n *item"]
Rows = Float[Array, "_ width"]

# How much a turn may hold: on CPUs what stays in caches, which the devices of a host share; elsewhere what keeps the
# device busy.
_SLICE_BYTES = {"cpu": 2**22, "otherwise": 2**30}


def map_alike(function: Callable[[Stack], Stack], arrays: Sequence[Array], rank: int) -> list[Array]:
    """`function` of all that agree in dtype and the last `rank` axes as one stack, in turns that memory allows.

    Args:
      function: from stacks of items to stacks like them, each index of the first axis by itself; hashable, since it is
        traced anew for every function that is not equal to an earlier one.
      arrays: `[*batch, *item]`, where an item has `rank` axes, the last two of them those of a matrix.
      rank: at least 2.
    """
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for i, x in enumerate(arrays):
        if x.size:
            alike[x.shape[-rank:], x.dtype].append(i)
    results = list(arrays)
    for members in alike.values():
        stack = [arrays[i] for i in members]
        for i, result in zip(members, _map_stack(function, stack, stack[0].shape[-rank:]), strict=True):
            results[i] = result
    return results


# `inline`, here and below: what is traced once is copied where it is used again, and outside of `jit` compiled once
@partial(jax.jit, static_argnames=("function", "item"), inline=True)
def _map_stack(function: Callable[[Stack], Stack], arrays: list[Array], item: tuple[int, ...]) -> list[Array]:
    """`function` of arrays of these items, in place, by a loop that holds the temporaries of one turn only."""
    count = sum(x.size for x in arrays) // math.prod(item)
    turns = -(-count // max(1, slice_bytes() // _held_bytes(item)))
    size = -(-count // turns)
    height = math.prod(item[:-1])
    # One below the other, by copies of memory: along a new axis XLA would compile a loop for each. Behind them comes
    # what fills the last turn.
    filler = jnp.zeros(((turns * size - count) * height, item[-1]), arrays[0].dtype)
    rows = jnp.concatenate([*map(_rows, arrays), *([filler] if len(filler) else [])])

    def turn(i: Array, rows: Rows) -> Rows:
        # an unsigned index: a signed one is first asked, in kernels of its own, whether it counts from the end
        start = (i * jnp.uint32(size * height), jnp.uint32(0))
        part = lax.dynamic_slice(rows, start, (size * height, item[-1]))
        return lax.dynamic_update_slice(rows, _rows(function(part.reshape(size, *item))), start)

    if turns == 1:
        rows = _rows(function(rows.reshape(size, *item)))
    else:
        rows = lax.fori_loop(jnp.uint32(0), jnp.uint32(turns), turn, rows)
    return _cut(rows, arrays)


def _held_bytes(item: tuple[int, ...]) -> int:
    """What a polar factor has in memory at a time: two more of its size, and five of its Gram matrix, in float32."""
    m, n = item[-2:]
    return math.prod(item[:-2]) * (2 * m * n + 5 * min(m, n) ** 2) * 4


def _cut(rows: Rows, like: Sequence[Array]) -> list[Array]:
    """Arrays of these shapes, one after the other."""
    lengths = [math.prod(x.shape[:-1]) for x in like]
    starts = [np.uint32(start) for start in itertools.accumulate(lengths[:-1], initial=0)]
    if len(like) > 1:
        # XLA compiles a kernel for every offset that something is cut out at, unless offsets are known at run time only
        starts = lax.cond(never(rows), lambda: [np.uint32(0)] * len(starts), lambda: starts)
    return [_piece(rows, start, x.shape) for start, x in zip(starts, like, strict=True)]


@partial(jax.jit, static_argnames="shape", inline=True)
def _piece(rows: Rows, start: Array, shape: tuple[int, ...]) -> Array:
    length, width = math.prod(shape[:-1]), shape[-1]
    return lax.dynamic_slice(rows, (start, jnp.uint32(0)), (length, width)).reshape(shape)


def never(x: Float[Array, "..."]) -> Bool[Array, ""]:
    """False, which no compiler knows before `x` is there: no number is both NaN and positive."""
    return nowhere(x[(0,) * x.ndim])


def nowhere(x: Float[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """False at every entry; see `never`."""
    return jnp.isnan(x) & (x > 0.0)


def _rows(x: Array) -> Rows:
    return x.reshape(-1, x.shape[-1])


def slice_bytes() -> int:
    """How much is worked on at a time on one device."""
    if jax.default_backend() == "cpu":
        return _SLICE_BYTES["cpu"] // jax.local_device_count()
    return _SLICE_BYTES["otherwise"]
