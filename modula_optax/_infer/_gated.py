"""Gated units whose kernels are entries of one parameter, picked one by one: together they are one layer."""

from collections.abc import Iterable, Mapping, Sequence

from modula_optax._infer._graph import Graph
from modula_optax._infer._shifted import operands, path, picked_apart
from modula_optax._infer._terms import Axis, Made, UseKind
from modula_optax._infer._trace import Trace
from modula_optax._infer._uses import Use
from modula_optax._infer._values import Label, Labels, labels_in, size_of
from modula_optax._jaxpr import Kind, Program, named, operations

_ENTRYWISE = named(
    *(Kind.SAME, Kind.NEGATION, Kind.SUM, Kind.PRODUCT, Kind.EXTREME, Kind.SELECT, Kind.ENTRYWISE, Kind.STEP)
)

Group = tuple[int, int]  # a parameter, and the data that it meets


def join_gated(program: Program, trace: Trace) -> None:
    """Makes outputs of the axis that kernels were picked along, where they take the same data and gate each other."""
    groups: dict[Group, list[int]] = {}
    for i, use in enumerate(trace.uses):
        if _is_picked(use):
            groups.setdefault((use.param, operands(trace, use)[1]), []).append(i)
    groups = {key: members for key, members in groups.items() if len(members) > 1}
    if not groups:
        return
    graph = Graph.of(program, trace)
    of_group = {trace.uses[i].op.outs[0]: key for key, members in groups.items() for i in members}
    gated = _gated(program, trace, of_group)
    for key, members in groups.items():
        for together in _by_stack(trace, graph, members):
            uses = [trace.uses[i] for i in together]
            # each branch of a model, or turn of an inner training, picks them anew
            kernels = {graph.numbers.get(at, at): use for use in uses for at in operands(trace, use)[:1]}
            along = picked_apart(program, trace, graph, list(kernels.values()))
            whole = len(along) == 1 and trace.shape(trace.parameters[key[0]])[min(along)] == len(kernels)
            if whole and all(use.op.outs[0] in gated for use in uses):
                for i, use in zip(together, uses, strict=True):
                    trace.uses[i] = _as_outputs(use, min(along))


def _by_stack(trace: Trace, graph: Graph, members: Sequence[int]) -> Iterable[list[int]]:
    """The uses of kernels that are picked from the same value: a parameter, or what a step of training made of it."""
    found: dict[int, list[int]] = {}
    for i in members:
        use = trace.uses[i]
        picked = {Label(use.param, piece.axis) for piece in use.axes if piece.role is Axis.PICKED}
        way = path(trace, graph, use)
        stack = next((at for at in way if picked & _labels_of_many(trace, at)), trace.parameters[use.param])
        found.setdefault(graph.numbers.get(stack, stack), []).append(i)
    return found.values()


def _labels_of_many(trace: Trace, position: int) -> Labels:
    return labels_in(dim for dim in trace.values[position].dims if size_of(dim) > 1)


def _is_picked(use: Use) -> bool:
    is_layer = use.kind is UseKind.LINEAR and use.part.made is Made.WHOLE and len(use.op.ins) == 2
    return is_layer and any(piece.role is Axis.PICKED for piece in use.axes)


def _gated(program: Program, trace: Trace, of_group: Mapping[int, Group]) -> set[int]:
    """Those of some outputs that another one of their group is multiplied with, entry by entry."""
    origins = {position: frozenset([position]) for position in of_group}
    found: set[int] = set()
    for op in operations(program.block):
        if op.name not in _ENTRYWISE or op.outs[0] in origins:
            continue
        of_operands = [origins[i] for i in op.ins if i in origins and trace.shape(i) == trace.shape(op.outs[0])]
        if of_operands:
            origins[op.outs[0]] = frozenset().union(*of_operands)
        if op.name == "mul" and len(of_operands) == 2:
            one, other = of_operands
            groups = {of_group[i] for i in one - other} & {of_group[i] for i in other - one}
            found |= {i for i in one ^ other if of_group[i] in groups}
    return found


def _as_outputs(use: Use, axis: int) -> Use:
    axes = (piece._replace(role=Axis.OUT) if piece.axis == axis else piece for piece in use.axes)
    return use._replace(axes=tuple(axes))
