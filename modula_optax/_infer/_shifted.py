"""Depthwise convolutions written out: products of shifted copies with a kernel's taps, one by one, which are summed."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from modula_optax._infer._terms import Axis, Made, UseKind
from modula_optax._infer._trace import Trace, Use
from modula_optax._infer._values import labels_of
from modula_optax._jaxpr import Block, Kind, Op, Program, named, operations, producers_of

_SUMS = named(Kind.SUM, Kind.SAME)
_SHIFTS = named(Kind.SHIFT, Kind.SAME) | {"dynamic_slice"}


def join_shifted(program: Program, trace: Trace) -> None:
    """Makes uses of a convolution of the products that are one; of all others, nothing is known here."""
    graph = Graph.of(program.block)
    groups: dict[tuple[int, int, int], list[int]] = {}
    for i, use in enumerate(trace.uses):
        if _may_be_tap(use):
            groups.setdefault((use.param, _source(trace, graph, use), _sum(graph, use.op)), []).append(i)
    for members in groups.values():
        uses = [trace.uses[i] for i in members]
        taps = picked_apart(program, trace, graph, uses)
        if taps and len({operands(trace, use)[1] for use in uses}) > 1:
            for i, use in zip(members, uses, strict=True):
                trace.uses[i] = _as_convolution(use, taps)


class Graph(NamedTuple):
    """What computes each value of a program, and what reads it."""

    makers: dict[int, Op]
    readers: dict[int, list[Op]]

    @classmethod
    def of(cls, block: Block) -> "Graph":
        readers: dict[int, list[Op]] = {}
        for op in operations(block):
            for position in set(op.ins):
                readers.setdefault(position, []).append(op)
        return cls(producers_of(block), readers)


def _may_be_tap(use: Use) -> bool:
    roles = {axis.role for axis in use.axes}
    is_product = use.kind is UseKind.MUL and use.op.name == "mul" and use.part.made is Made.WHOLE
    return is_product and roles == {Axis.PICKED, Axis.ALIGNED}


def operands(trace: Trace, use: Use) -> tuple[int, int]:
    """Where the weight of a product or a contraction is, and where the activation."""
    a, b = use.op.ins
    return (a, b) if trace.values[a].is_weight else (b, a)


def _source(trace: Trace, graph: Graph, use: Use) -> int:
    """What the activation is a shifted copy of, but for shifts along its channels, and what it was joined with."""
    channels = {axis.position for axis in use.axes if axis.role is Axis.ALIGNED}
    position = operands(trace, use)[1]
    while (op := graph.makers.get(position)) is not None and op.name in _SHIFTS:
        sources = {i for i in op.ins if trace.values[i].is_activation and trace.shape(i)}
        if op.name == "concatenate":
            # a copy that is rolled consists of two slices of one array
            sources = {_sliced(graph, i) for i in sources}
        source = sources.pop() if len(sources) == 1 else position
        before, after = trace.shape(source), trace.shape(op.outs[0])
        if source == position or any(before[i] != after[i] for i in channels) or op.params.get("dimension") in channels:
            break
        position = source
    return position


def _sliced(graph: Graph, position: int) -> int:
    op = graph.makers.get(position)
    return op.ins[0] if op is not None and op.name in ("slice", "dynamic_slice") else position


def _sum(graph: Graph, op: Op) -> int:
    """Where all that the product is added to has come together."""
    position = op.outs[0]
    while len(readers := graph.readers.get(position, [])) == 1 and readers[0].name in _SUMS:
        position = readers[0].outs[0]
    return position


def picked_apart(program: Program, trace: Trace, graph: Graph, uses: Sequence[Use]) -> set[int]:
    """The axes of which each use has an entry of its own; what was picked for all of them alike is none."""
    paths = [list(_path(trace, graph, use)) for use in uses]
    common = set(paths[0]).intersection(*paths[1:])
    meeting = next(position for position in paths[0] if position in common)
    if any(path[0] == meeting for path in paths):
        return set()
    starts = [_starts(program, graph.makers[path[path.index(meeting) - 1]]) for path in paths]
    if len(set(starts)) < len(starts) or any(None in picked for picked in starts):
        return set()
    varied = (
        dim
        for dim, entries in zip(trace.values[meeting].dims, zip(*starts, strict=True), strict=False)
        if len(set(entries)) > 1
    )
    return {axis for dim in varied for owner, axis in labels_of(dim) if owner == uses[0].param}


def _starts(program: Program, op: Op) -> tuple[int | None, ...]:
    """Where a slice starts along each axis; `None` where that is no number."""
    if op.name == "slice":
        return tuple(op.params["start_indices"])
    if op.name != "dynamic_slice":
        return (None,)
    constants = [program.constants.get(i) for i in op.ins[1:]]
    return tuple(None if start is None else int(start) for start in constants)


def _path(trace: Trace, graph: Graph, use: Use) -> Iterator[int]:
    """From the weight of a product back to the parameter, as long as it is one value."""
    position = operands(trace, use)[0]
    yield position
    while (op := graph.makers.get(position)) is not None:
        weights = {i for i in op.ins if trace.values[i].is_weight}
        if len(weights) != 1:
            return
        position = weights.pop()
        yield position


def _as_convolution(use: Use, taps: set[int]) -> Use:
    groups = 1
    axes = []
    for axis in use.axes:
        if axis.role is Axis.ALIGNED:
            groups *= axis.size
        role = Axis.TAP if axis.axis in taps else Axis.OUT if axis.role is Axis.ALIGNED else axis.role
        axes.append(axis._replace(role=role))
    return use._replace(kind=UseKind.CONV, axes=tuple(axes), groups=groups)
