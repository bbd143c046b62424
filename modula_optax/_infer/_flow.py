"""Backwards through a program: which values reach the output, and through which matrices."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from modula_optax._jaxpr import PRIMITIVES, Block, Loop, Op, Program

# does not reach the output; chooses what does, as an index; only where gradients are stopped; does
DEAD, CHOICE, STOPPED, STRONG = range(4)


class Reach(NamedTuple):
    """How a value reaches the output, and (two of) the matrices that it meets on the way."""

    level: int = DEAD
    matrices: frozenset[int] = frozenset()


_NOT_REACHED = Reach()
# no gradient comes back through these, nor through what makes integers of real numbers
_WITHOUT_DERIVATIVE = frozenset(name for name, row in PRIMITIVES.items() if not row.has_derivative)


def reach(
    program: Program, matrices: Mapping[int, frozenset[int]] | None = None, cut: Iterable[tuple[int, int]] = ()
) -> dict[int, Reach]:
    """What becomes of every value.

    Args:
      program: see `flatten`.
      matrices: parameters that are matrices in an operation, by where its first output is.
      cut: pairs (operand, result) that no role is decided through.

    Returns:
      By position, for all values that reach the output.
    """
    found = dict.fromkeys(program.outputs, Reach(STRONG))
    edges = _Edges(program.avals, matrices or {}, frozenset(cut))
    _backwards(program.block, found, edges)
    return found


class _Edges(NamedTuple):
    avals: list[Any]
    matrices: Mapping[int, frozenset[int]]
    cut: frozenset[tuple[int, int]]

    def level(self, op: Op, operand: int) -> int:
        """The most that an operand can be through what an operation makes of it."""
        result = op.outs[0]
        if op.name == "stop_gradient" or (operand, result) in self.cut:
            return STOPPED
        is_choice = not _is_real(self.avals[result]) and _is_real(self.avals[operand])
        return CHOICE if is_choice or op.name in _WITHOUT_DERIVATIVE else STRONG


def _is_real(aval: Any) -> bool:
    return _is_inexact(getattr(aval, "dtype", jnp.float32))


@functools.cache
def _is_inexact(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _backwards(block: Block, found: dict[int, Reach], edges: _Edges) -> None:
    for op in reversed(block):
        if isinstance(op, Loop):
            _through_loop(op, found, edges)
            continue
        after = _merge(found.get(out, _NOT_REACHED) for out in op.outs)
        if after.level == DEAD:
            continue
        passed = Reach(after.level, _capped(after.matrices | edges.matrices.get(op.outs[0], frozenset())))
        for operand in op.ins:
            level = edges.level(op, operand)
            here = passed if level == STRONG else Reach(min(level, after.level))
            before = found.get(operand, here)
            found[operand] = here if before == here else _merge((before, here))


def _through_loop(loop: Loop, found: dict[int, Reach], edges: _Edges) -> None:
    settled = False
    while not settled:
        _backwards(loop.body, found, edges)
        settled = True
        for carry in loop.carries:
            inside = found.get(carry.inside, _NOT_REACHED)
            for source in (carry.end, carry.start):
                before = found.get(source, _NOT_REACHED)
                after = _merge((before, inside))
                if after != before:
                    found[source] = after
                    settled = False


def _merge(reaches: Iterable[Reach]) -> Reach:
    level, matrices = DEAD, frozenset()
    for reached in reaches:
        level, matrices = max(level, reached.level), matrices | reached.matrices
    return Reach(level, _capped(matrices))


def _capped(matrices: frozenset[int]) -> frozenset[int]:
    # two are enough to know that there is another one
    return matrices if len(matrices) <= 2 else frozenset(sorted(matrices)[:2])


def count_consumers(block: Block, found: Mapping[int, Reach]) -> Counter[int]:
    """How many operations that reach the output read each value; of a value that does not, how many there are."""
    counts: Counter[int] = Counter()
    for op in block:
        if isinstance(op, Loop):
            counts += count_consumers(op.body, found)
            counts.update(c.start for c in op.carries)
            counts.update(c.end for c in op.carries)
        else:
            is_alive = any(out in found for out in op.outs)
            counts.update(i for i in op.ins if is_alive or i not in found)
    return counts
