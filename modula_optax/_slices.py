"""One function of many stacks of matrices, a bounded number at a time."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Stack = Float[Array, "n m m"]

# How much a slice may hold: on CPUs what stays in their caches, elsewhere what keeps the device busy.
_SLICE_BYTES = {"cpu": 2**22, "otherwise": 2**28}


def map_slices(function: Callable[[Stack], Stack], stacks: Sequence[Stack]) -> list[Stack]:
    """`function` of every stack, in place, by a loop that holds the temporaries of one slice only.

    The stacks, all of one shape, are laid out in lanes, and every turn of the loop takes one stack from each lane.
    Lanes keep compilation short: XLA compiles a kernel for every offset at which a result is cut out, but one for all
    lanes, so that n results need about 2√n kernels instead of n.
    """
    if len(stacks) == 1:
        return [_in_slices(function, stacks[0])]
    length = _lane_length(len(stacks))
    count = -(-len(stacks) // length)
    # what fills the last lane must vary over devices as the stacks do, which zeros would not
    filled = [*stacks, *[stacks[-1]] * (count * length - len(stacks))]
    lanes = [jnp.stack(filled[i * length : (i + 1) * length]) for i in range(count)]

    def turn(i: Array, lanes: list[Array]) -> list[Array]:
        stack = jnp.concatenate([lax.dynamic_index_in_dim(lane, i, keepdims=False) for lane in lanes])
        results = jnp.split(_in_slices(function, stack), count)
        return [
            lax.dynamic_update_index_in_dim(lane, result, i, 0) for lane, result in zip(lanes, results, strict=True)
        ]

    lanes = lax.fori_loop(0, length, turn, lanes)
    return [lanes[i // length][i % length] for i in range(len(stacks))]


def _lane_length(count: int) -> int:
    """A length near √count with the least to fill up; up to four are one lane, in as many kernels and less memory."""
    if count <= 4:
        return count
    root = math.isqrt(count - 1) + 1
    return min(range(-(-root // 2), 2 * root + 1), key=lambda length: (-count % length, abs(length - root)))


def _in_slices(function: Callable[[Stack], Stack], stack: Stack) -> Stack:
    limit = _SLICE_BYTES["cpu" if jax.default_backend() == "cpu" else "otherwise"]
    matrix_bytes = math.prod(stack.shape[1:]) * stack.dtype.itemsize
    size = max(d for d in range(1, len(stack) + 1) if len(stack) % d == 0 and (d == 1 or d * matrix_bytes <= limit))
    if size == len(stack):
        return function(stack)

    def turn(i: Array, stack: Stack) -> Stack:
        result = function(lax.dynamic_slice_in_dim(stack, i * size, size))
        return lax.dynamic_update_slice_in_dim(stack, result, i * size, 0)

    return lax.fori_loop(0, len(stack) // size, turn, stack)
