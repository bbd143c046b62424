"""One function of many stacks of matrices, a bounded number at a time."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Square = Float[Array, "... m m"]
Stack = Float[Array, "n m m"]
Rows = Float[Array, "_ m"]
# matrices again, each as one line of numbers
Lines = Float[Array, "_ mm"]

# How much a turn may hold: on CPUs what stays in their caches, elsewhere what keeps the device busy.
_SLICE_BYTES = {"cpu": 2**21, "otherwise": 2**30}
# How many matrices of the size of each the functions hold at a time.
_TEMPORARIES = 5
# How many results a lane has that they are cut out of.
_LANE = 4

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


def map_slices(function: Callable[[Stack], Stack], arrays: Sequence[Square]) -> list[Square]:
    """`function` of stacks of matrices of one size, of as many matrices at a time as memory allows."""
    alike: dict[int, list[int]] = defaultdict(list)
    for i, x in enumerate(arrays):
        alike[math.prod(x.shape[:-2])].append(i)
    # rows of matrices, which XLA puts together by copies of memory: along a new axis it would compile a loop for each
    rows = jnp.concatenate([_rows(arrays[i]) for members in alike.values() for i in members])
    lines = _in_turns(function, rows).reshape(-1, rows.shape[-1] ** 2)
    results, start = list(arrays), 0
    for size, members in alike.items():
        for i, piece in zip(members, _cut(lines, start, size, len(members)), strict=True):
            results[i] = piece.reshape(arrays[i].shape)
        start += size * len(members)
    return results


def _in_turns(function: Callable[[Stack], Stack], rows: Rows) -> Rows:
    """`function` of matrices one below the other, in place, by a loop that holds the temporaries of one turn only.

    Behind them comes what fills the last turn.
    """
    side = rows.shape[-1]
    matrices = len(rows) // side
    turns = -(-matrices // max(1, slice_bytes() // (_TEMPORARIES * side * side * rows.dtype.itemsize)))
    if turns == 1:
        return _rows(function(rows.reshape(matrices, side, side)))
    size = -(-matrices // turns)
    rows = jnp.pad(rows, ((0, turns * size * side - len(rows)), (0, 0)))

    def turn(i: Array, rows: Rows) -> Rows:
        # an unsigned index: a signed one is first asked, in kernels of its own, whether it counts from the end
        start = (i * jnp.uint32(size * side), jnp.uint32(0))
        part = lax.dynamic_slice(rows, start, (size * side, side))
        return lax.dynamic_update_slice(rows, _rows(function(part.reshape(size, side, side))), start)

    return lax.fori_loop(jnp.uint32(0), jnp.uint32(turns), turn, rows)


def _cut(lines: Lines, start: int, size: int, count: int) -> list[Lines]:
    """As many pieces of `size` lines each as `count` says, from `start` on."""
    if count <= _LANE:
        return jnp.split(lines[start : start + count * size], count)

    # XLA compiles a kernel for every offset that something is cut out at. Pieces are dealt to lanes first, by a kernel
    # that all lanes share, and lanes need as many as pieces are in one.
    def deal(i: Array, state: tuple[list[Lines], list[Array]]) -> tuple[list[Lines], list[Array]]:
        lanes, numbers = state
        lanes = [_dealt(lane, lines, start, n, i, size) for lane, n in zip(lanes, numbers, strict=True)]
        return lanes, [n + 1 for n in numbers]

    # of the right size and sharding; what they hold is overwritten
    lanes = [lines[: _LANE * size]] * -(-count // _LANE)
    # floats, since XLA takes integer counters for one and an offset each, which would be a kernel each again
    numbers = [jnp.float32(_LANE * lane) for lane in range(len(lanes))]
    lanes, _ = lax.fori_loop(jnp.uint32(0), jnp.uint32(_LANE), deal, (lanes, numbers))
    return [piece for lane in lanes for piece in jnp.split(lane, _LANE)][:count]


@partial(jax.jit, static_argnames=("start", "size"))
def _dealt(lane: Lines, lines: Lines, start: int, number: Array, i: Array, size: int) -> Lines:
    """A lane whose piece `i` is the one of this number; those past the end are asked for by nobody."""
    zero = jnp.uint32(0)
    first = jnp.uint32(start) + number.astype(jnp.uint32) * jnp.uint32(size)
    piece = lax.dynamic_slice(lines, (first, zero), (size, lines.shape[1]))
    return lax.dynamic_update_slice(lane, piece, (i * jnp.uint32(size), zero))


def _rows(x: Square) -> Rows:
    return x.reshape(-1, x.shape[-1])


def slice_bytes() -> int:
    """How much is worked on at a time on one device."""
    return _SLICE_BYTES["cpu" if jax.default_backend() == "cpu" else "otherwise"]
