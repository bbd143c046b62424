"""Many matrices visited one after the other, where they lie: compiled once for all of one shape, and never copied.

Joined in a stack, they would be held twice; each for itself, they would be compiled as often as there are layers.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from modula_optax._canonical import Canonical

# some rows for every matrix, of its shorter side, and a number for each
Rows = Float[Array, "n k short"]
PerMatrix = Float[Array, " n"]


class Matrices(NamedTuple):
    """Some matrices of one shape: `read` makes a canonical array of them where it is called, and not before."""

    read: Callable[[], Canonical]
    shape: tuple[int, int, int, int]

    @property
    def total(self) -> int:
        """How many there are."""
        return self.shape[0] * self.shape[1]


def visit(looks: Sequence[Callable[..., Any]], *rows: Any, then: Callable[[Any], Any] = lambda seen: seen) -> Any:
    """What `then` makes of what every look sees of its rows, as trees of arrays `[len(looks), ...]`.

    Args:
      looks: functions of as many arrays as there are rows, whose results agree in shapes; what they look at is read in
        place. They are compiled one by one: little but products of matrices, and copies, should be done there.
      *rows: arrays `[len(looks), ...]`.
      then: what is done with every result, compiled once.
    """
    if len(looks) == 1:
        return jax.tree.map(lambda x: x[None], then(looks[0](*(x[0] for x in rows))))

    def one(i: Array, rows: tuple[Array, ...]) -> tuple[Array, Any]:
        return i + 1, then(jax.lax.switch(i, looks, *rows))

    return jax.lax.scan(one, jnp.int32(0), rows, length=len(looks))[1]


def gram_products(matrices: Sequence[Matrices], scales: PerMatrix) -> Callable[[Rows], Rows]:
    r"""Rows times :math:`XX^\top / \text{scale}^2` (of what is tall, :math:`X^\top X`), every matrix its own rows.

    Shorter sides must be of one length. Longer ones need not, and the matrices may lie either way: those that are as
    many are visited in one loop.
    """
    order = sorted(range(len(matrices)), key=lambda i: matrices[i].total)
    ends = np.cumsum([m.total for m in matrices])
    there = np.concatenate([np.arange(ends[i] - matrices[i].total, ends[i]) for i in order])
    runs = [list(run) for _, run in itertools.groupby((matrices[i] for i in order), key=lambda m: m.total)]
    scales = scales[:, None, None]

    def times(rows: Rows) -> Rows:
        # one row alone would be multiplied by loops, which take as long to compile as all the rest
        missing = max(0, 2 - rows.shape[1])
        # 1e-30 squared is 0 in float32: over the scale before and after
        scaled = _reordered(jnp.pad(rows / scales, ((0, 0), (0, missing), (0, 0))), there)
        start, results = 0, []
        for run in runs:
            each = scaled[start : start + len(run) * run[0].total].reshape(len(run), run[0].total, *scaled.shape[1:])
            start += len(run) * run[0].total
            seen = visit([_twice(m) for m in run], each)
            results.append(seen.reshape(-1, *scaled.shape[1:]))
        return _reordered(jnp.concatenate(results)[:, : rows.shape[1]], np.argsort(there)) / scales

    return times


def _reordered(x: Array, order: np.ndarray) -> Array:
    return x if (order == np.arange(len(order))).all() else x[order]


def _twice(matrices: Matrices) -> Callable[[Rows], Rows]:
    """Rows times X, and times X again, the other way."""

    def products(rows: Rows) -> Rows:
        x = matrices.read().reshape(-1, *matrices.shape[2:])
        # not a product with a transpose, which would be written to memory
        to_long, to_short = (2, 1) if x.shape[-2] > x.shape[-1] else (1, 2)
        for contracted in (to_long, to_short):
            dimensions = ((2,), (contracted,)), ((0,), (0,))
            rows = jax.lax.dot_general(rows, x, dimensions, precision=jax.lax.Precision.HIGHEST)
        return rows

    return products
