"""One function of many stacks of matrices, a bounded number at a time."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Stack = Float[Array, "n m m"]

# How much a slice may hold: on CPUs what stays in their caches, elsewhere what keeps the device busy.
_SLICE_BYTES = {"cpu": 2**21, "otherwise": 2**28}
# How many matrices of the size of each the functions hold at a time.
_TEMPORARIES = 5

# What costs less to copy than to work on by itself.
_SMALL_BYTES = 2**16
# How many of these are one: as many kernels are compiled to cut them out again, whatever the number of leaves.
_JOINED = 8


def joined(function: Callable[[list[Array]], list[Array]], arrays: Sequence[Array]) -> list[Array]:
    """`function` of fewer arrays: every eight small ones of one shape and dtype are one along a new first axis."""
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for i, x in enumerate(arrays):
        if x.nbytes <= _SMALL_BYTES:
            alike[x.shape, x.dtype].append(i)
    together = [
        members[start : start + _JOINED]
        for members in alike.values()
        for start in range(0, len(members) - _JOINED + 1, _JOINED)
    ]
    alone = sorted(set(range(len(arrays))) - {i for members in together for i in members})
    results = function([jnp.stack([arrays[i] for i in members]) for members in together] + [arrays[i] for i in alone])
    of_each = dict(zip(alone, results[len(together) :], strict=True))
    for members, result in zip(together, results, strict=False):
        of_each.update(zip(members, result, strict=True))
    return [of_each[i] for i in range(len(arrays))]


def map_slices(function: Callable[[Stack], Stack], stacks: Sequence[Stack]) -> list[Stack]:
    """`function` of stacks of matrices of one size: of all at once, or in slices where that would take much memory."""
    if _fit(_TEMPORARIES * sum(stack.nbytes for stack in stacks)):
        ends = np.cumsum([len(stack) for stack in stacks])
        return jnp.split(function(jnp.concatenate(stacks)), ends[:-1])
    alike: dict[int, list[int]] = defaultdict(list)
    for i, stack in enumerate(stacks):
        alike[len(stack)].append(i)
    results = list(stacks)
    for members in alike.values():
        for i, result in zip(members, _map_lanes(function, [stacks[i] for i in members]), strict=True):
            results[i] = result
    return results


def _map_lanes(function: Callable[[Stack], Stack], stacks: Sequence[Stack]) -> list[Stack]:
    """`function` of stacks of one shape, in place, by a loop that holds the temporaries of one slice only.

    The stacks are laid out in lanes, and every turn of the loop takes one stack from each lane. Lanes keep compilation
    short: XLA compiles a kernel for every offset at which a result is cut out, but one for all lanes, so that n results
    need about 2√n kernels instead of n.
    """
    if len(stacks) == 1:
        return [_in_slices(function, stacks[0])]
    length = _lane_length(len(stacks))
    count = -(-len(stacks) // length)
    # what fills the last lane must vary over devices as the stacks do, which zeros would not
    filled = [*stacks, *[stacks[-1]] * (count * length - len(stacks))]
    lanes = [jnp.stack(filled[i * length : (i + 1) * length]) for i in range(count)]

    def turn(i: Array, lanes: list[Array]) -> list[Array]:
        stack = jnp.concatenate([_taken(lane, i, 1)[0] for lane in lanes])
        results = jnp.split(_in_slices(function, stack), count)
        return [_put(lane, result[None], i) for lane, result in zip(lanes, results, strict=True)]

    lanes = lax.fori_loop(jnp.uint32(0), jnp.uint32(length), turn, lanes)
    return [lanes[i // length][i % length] for i in range(len(stacks))]


def _lane_length(count: int) -> int:
    """A length near √count with the least to fill up; up to four are one lane, in as many kernels and less memory."""
    if count <= 4:
        return count
    root = math.isqrt(count - 1) + 1
    return min(range(-(-root // 2), 2 * root + 1), key=lambda length: (-count % length, abs(length - root)))


def _in_slices(function: Callable[[Stack], Stack], stack: Stack) -> Stack:
    matrix_bytes = math.prod(stack.shape[1:]) * stack.dtype.itemsize
    size = max(d for d in range(1, len(stack) + 1) if len(stack) % d == 0 and (d == 1 or _fit(d * matrix_bytes)))
    if size == len(stack):
        return function(stack)

    def turn(i: Array, stack: Stack) -> Stack:
        start = i * jnp.uint32(size)
        return _put(stack, function(_taken(stack, start, size)), start)

    return lax.fori_loop(jnp.uint32(0), jnp.uint32(len(stack) // size), turn, stack)


def _fit(nbytes: int) -> bool:
    return nbytes <= _SLICE_BYTES["cpu" if jax.default_backend() == "cpu" else "otherwise"]


# Counters are unsigned: a signed index is first asked, in kernels of its own, whether it counts from the end.


def _taken(stack: Array, start: Array, size: int) -> Array:
    return lax.dynamic_slice(stack, (start, *_origin(stack)), (size, *stack.shape[1:]))


def _put(stack: Array, part: Array, start: Array) -> Array:
    return lax.dynamic_update_slice(stack, part, (start, *_origin(stack)))


def _origin(stack: Array) -> list[Array]:
    return [jnp.uint32(0)] * (stack.ndim - 1)
