"""Depthwise convolutions written out: products of shifted copies with a kernel's taps, one by one, which are summed."""

from collections.abc import Iterator, Sequence

from modula_optax._infer._graph import SHIFTS, Graph, moved_along
from modula_optax._infer._terms import Axis, Made, UseKind
from modula_optax._infer._trace import Trace
from modula_optax._infer._uses import Use
from modula_optax._infer._values import labels_of, size_of
from modula_optax._jaxpr import Kind, Op, Program, named

_SUMS = named(Kind.SUM, Kind.SAME)


def join_shifted(program: Program, trace: Trace) -> None:
    """Makes uses of a convolution of the products that are one; of all others, nothing is known here."""
    products = [i for i, use in enumerate(trace.uses) if _may_be_tap(use)]
    if not products:
        return
    graph = Graph.of(program, trace)
    groups: dict[tuple[int, int, int], list[int]] = {}
    for i in products:
        use = trace.uses[i]
        groups.setdefault((use.param, _source(trace, graph, use), _sum(graph, use.op)), []).append(i)
    for (_, source, total), members in groups.items():
        uses = [trace.uses[i] for i in members]
        if len(uses) > 1:
            apart = len({operands(trace, use)[1] for use in uses}) > 1
            taps = picked_apart(program, trace, graph, uses) if apart else set()
        else:
            taps = _picked_in_turn(trace, graph, uses[0], source, total)
        for i, use in zip(members, uses, strict=True) if taps else ():
            trace.uses[i] = _as_convolution(use, taps)


def _may_be_tap(use: Use) -> bool:
    roles = {axis.role for axis in use.axes} - {Axis.REORDERED}
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
    while (op := graph.makers.get(position)) is not None and op.name in SHIFTS | {"select_n"}:
        sources = {i for i in op.ins if trace.values[i].is_activation and trace.shape(i)}
        if op.name == "concatenate":
            # a copy that is rolled consists of two slices of one array
            sources = {_sliced(graph, i) for i in sources}
        source = sources.pop() if len(sources) == 1 else position
        if source == position or channels & moved_along(trace, op, source):
            break
        position = source
    return graph.numbers_before.get(position, position)


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
    ways = [list(path(trace, graph, use)) for use in uses]
    common = set(ways[0]).intersection(*ways[1:])
    # where each is made of several parameters, none of their ways lead to a common one
    meeting = next((position for position in ways[0] if position in common), None)
    if meeting is None or any(way[0] == meeting for way in ways):
        return set()
    starts = [_starts(program, graph, way[way.index(meeting) - 1]) for way in ways]
    if len(set(starts)) < len(starts) or any(None in picked for picked in starts):
        return set()
    varied = (
        dim
        for dim, entries in zip(trace.values[meeting].dims, zip(*starts, strict=True), strict=False)
        if len(set(entries)) > 1
    )
    return {axis for dim in varied for owner, axis in labels_of(dim) if owner == uses[0].param}


def _picked_in_turn(trace: Trace, graph: Graph, use: Use, source: int, total: int) -> set[int]:
    """The axes of which each turn of a loop takes an entry, where its products with shifted copies are summed."""
    loop = graph.loops.get(use.op.outs[0])
    carry = next((carry for carry in loop.carries if carry.end == total), None) if loop else None
    if loop is None or carry is None or not _is_summed(graph, carry.inside, total):
        return set()
    register = next(
        (c for c in loop.carries if c.inside == source and graph.numbers.get(c.end) == source != c.end), None
    )
    is_copy = (register is not None and register.end != source) or not graph.varies(source, loop, graph.numbers)
    if not (is_copy and graph.varies(operands(trace, use)[1], loop, {})):
        return set()
    way = list(path(trace, graph, use))
    stack = next((i for i, position in enumerate(way) if graph.loops.get(position) is not loop), None)
    if not stack:
        return set()
    dims, op = trace.values[way[stack]].dims, graph.makers[way[stack - 1]]
    picked = (
        dims[:1]
        if op.name == "scan_slice"
        else [dim for dim, kept in zip(dims, trace.shape(op.outs[0]), strict=True) if size_of(dim) > kept == 1]
    )
    return {axis for dim in picked for owner, axis in labels_of(dim) if owner == use.param}


def _is_summed(graph: Graph, position: int, total: int) -> bool:
    """Whether a value is a term of a sum, and nothing else."""
    readers = graph.readers.get(position, [])
    return len(readers) == 1 and readers[0].name in _SUMS and _sum(graph, readers[0]) == total


def _starts(program: Program, graph: Graph, position: int) -> tuple[int | None, ...]:
    """Where a slice starts along each axis; `None` where that is no number."""
    op = graph.makers[position]
    if op.name == "slice":
        return tuple(op.params["start_indices"])
    if op.name == "split":
        start = sum(map(int, op.params["sizes"][: op.outs.index(position)]))
        return tuple(start if axis == op.params["axis"] else 0 for axis in range(len(program.avals[position].shape)))
    if op.name != "dynamic_slice":
        return (None,)
    constants = [program.constants.get(i) for i in op.ins[1:]]
    return tuple(None if start is None else int(start) for start in constants)


def path(trace: Trace, graph: Graph, use: Use) -> Iterator[int]:
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
