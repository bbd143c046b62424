"""Arguments with compilers: what each avoids, the jaxlib it was seen with, and what it buys."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt16


def never(x: Shaped[Array, "..."]) -> Bool[Array, ""]:
    """False, which no compiler knows before `x` is there: nothing is both NaN and positive, no square is 2 modulo 4."""
    entry = x[(0,) * x.ndim]
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.isnan(entry) & (entry > 0.0)
    return entry * entry % 4 == 2


def to_half(x: Float[Array, "..."]) -> UInt16[Array, "..."]:
    """Numbers in bfloat16, as integers.

    As what they are the compiler for CPUs would exchange them in float32 (jaxlib 0.10), and any may take excess
    precision for as good.
    """
    return jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)


def from_half(x: UInt16[Array, "..."]) -> Float[Array, "..."]:
    """The same in float32."""
    return jax.lax.bitcast_convert_type(x, jnp.bfloat16).astype(jnp.float32)


def cut(x: Shaped[Array, "total *item"], lengths: Sequence[int], at_run_time: bool) -> list[Shaped[Array, "_ *item"]]:
    """Pieces of these lengths, one after the other.

    XLA for CPUs (jaxlib 0.7 to 0.10) compiles a kernel for every offset that a matrix is cut out at, unless offsets are
    known at run time only: a third of the compile time of an update (`benchmarks/compile_time.py`). Of what lies on
    several devices they must be known.
    """
    ends = list(itertools.accumulate(lengths))
    if not at_run_time:
        return [x[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    starts = [np.uint32(end - length) for end, length in zip(ends, lengths, strict=True)]
    if len(lengths) > 1:
        starts = jax.lax.cond(never(x), lambda: [np.uint32(0)] * len(starts), lambda: starts)
    return [rows_from(x, start, length) for start, length in zip(starts, lengths, strict=True)]


def rows_from(x: Shaped[Array, "total *item"], start: jax.typing.ArrayLike, length: int) -> Shaped[Array, "_ *item"]:
    """Items that lie together, found by an unsigned number.

    A signed one is first asked, in kernels of its own, whether it counts from the end (jaxlib 0.7 to 0.10).
    """
    zeros = (jnp.uint32(0),) * (x.ndim - 1)
    return jax.lax.dynamic_slice(x, (start, *zeros), (length, *x.shape[1:]))


def at_once(read: Callable[[Array], Any], start: Array, x: Float[Array, "..."]) -> Any:
    """`read(start)` in memory of its own, before anything is written to where it was read.

    XLA for CPUs (jaxlib 0.7 to 0.10) would read it again for each of its uses, some of them after the place was written
    to, and so copy all of it in every turn of a loop: a branch is taken once. `x` is what it is read from.
    """
    return jax.lax.cond(never(x), lambda: read(jnp.zeros_like(start)), lambda: read(start))


def once(done: Bool[Array, ""], x: Array) -> Array:
    """The same array, which is not made before what says so is done.

    Compilers would exchange everything at once and hold it until its turn; `optimization_barrier` does not keep them
    from it, as the one for CPUs (jaxlib 0.7 to 0.10) drops it before it orders what is left. It buys three quarters of
    the memory of a step on eight devices (`tests/test_spread.py`).
    """
    return jnp.where(done, x, jnp.zeros_like(x))


def placed_like(result: Array, x: Array) -> Array:
    """A result, sharded as what it was made of: compilers shard alike what one elementwise operation joins.

    No result of a NaN is anything else, so that nothing changes, which no compiler knows. `shard_alike` did this until
    it went from JAX (0.11.2).
    """
    return jnp.where(jnp.isnan(x), x, result) if jnp.issubdtype(x.dtype, jnp.floating) else result
