"""A program as a graph: what makes and what reads each value, which are in a loop, which are copies of one another."""

from collections.abc import Iterator, Mapping, Set
from typing import Any, NamedTuple

import numpy as np

from modula_optax._infer._terms import Axis
from modula_optax._infer._trace import Trace
from modula_optax._infer._values import Label, labels_of
from modula_optax._jaxpr import Block, Kind, Loop, Op, Program, named, operations

SHIFTS = named(Kind.SHIFT, Kind.SAME, Kind.LOOKUP)


class Graph(NamedTuple):
    """What computes each value of a program, what reads it, the loop that each is in, and which values are alike.

    Values are alike if the same operations make them of the same: `numbers` has one number for copies that are shifted
    on the way, or last, and `numbers_before` for those that are shifted on the way only.
    """

    makers: dict[int, Op]
    readers: dict[int, list[Op]]
    loops: dict[int, Loop]
    numbers: dict[int, int]
    numbers_before: dict[int, int]

    @classmethod
    def of(cls, program: Program, trace: Trace) -> "Graph":
        return cls(trace.makers, trace.readers, dict(_loops(program.block)), *_numbered(program, trace))

    def varies(self, position: int, loop: Loop, numbers: Mapping[int, int]) -> bool:
        """Whether turns of a loop differ in a value, each operand of which is looked up in `numbers`."""
        queue, seen = [position], set[int]()
        while queue:
            position = queue.pop()
            if self.loops.get(position) is not loop or position in seen:
                continue
            op = self.makers.get(position)
            if op is None or op.name == "scan_slice":
                return True
            seen.add(position)
            queue += (numbers.get(i, i) for i in op.ins)
        return False


def _loops(block: Block) -> Iterator[tuple[int, Loop]]:
    for loop in (op for op in block if isinstance(op, Loop)):
        yield from ((carry.inside, loop) for carry in loop.carries)
        yield from ((out, loop) for op in loop.body if not isinstance(op, Loop) for out in op.outs)
        yield from _loops(loop.body)


def _numbered(program: Program, trace: Trace) -> tuple[dict[int, int], dict[int, int]]:
    numbers: dict[int, int] = {}
    before: dict[int, int] = {}
    first: dict[Any, int] = {}
    for position, constant in program.constants.items():
        numbers[position] = first.setdefault(repr(constant) if np.ndim(constant) == 0 else position, position)
    features = {Label(use.param, axis.axis) for use in trace.uses for axis in use.axes if axis.role is Axis.OUT}
    for op in operations(program.block):
        key = (op.name, repr(op.params), tuple(numbers.get(i, i) for i in op.ins))
        sources = {numbers.get(i, i) for i in _shifted(trace, op, features)}
        for n, out in enumerate(op.outs):
            before[out] = first.setdefault((n, *key), out)
            numbers[out] = min(sources) if len(sources) == 1 else before[out]
    return numbers, before


def _shifted(trace: Trace, op: Op, features: Set[Label]) -> list[int]:
    """The activations that an operation takes entries of, if it moves them along axes that no layer made."""
    if op.name not in SHIFTS or any(trace.values[i].is_weight for i in op.ins):
        return []
    sources = [i for i in op.ins if trace.values[i].is_activation and trace.shape(i)]
    return [] if any(_moves_any(trace, op, i, features) for i in sources) else sources


def _moves_any(trace: Trace, op: Op, source: int, features: Set[Label]) -> bool:
    """Whether an operation moves entries along axes that a layer made."""
    dims = trace.values[source].dims
    return any(labels_of(dims[i]) & features for i in moved_along(trace, op, source) if i < len(dims))


def moved_along(trace: Trace, op: Op, source: int) -> set[int]:
    """The axes of an operand that its entries are moved along; all, if the result has other axes."""
    before, after = trace.shape(source), trace.shape(op.outs[0])
    if len(before) != len(after):
        return set(range(len(before)))
    taken = op.params["slice_sizes"] if op.name == "gather" else before
    return {i for i, n in enumerate(before) if n != after[i] or n != taken[i] or i == op.params.get("dimension")}
