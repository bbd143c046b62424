"""The interpreter: runs a program on abstract values, by a rule for each primitive."""

from collections.abc import Collection, Mapping, Sequence, Set

from modula_optax._infer._move import unite, unknown_primitive
from modula_optax._infer._notes import record_content
from modula_optax._infer._rules import rule_for
from modula_optax._infer._trace import Stack, Trace
from modula_optax._infer._values import Value, join, parameter, plain
from modula_optax._jax import Params, UnfamiliarError, familiar
from modula_optax._jaxpr import Block, Loop, Op, Program, is_backward


def run(
    program: Program,
    consumers: Mapping[int, int],
    parameters: Sequence[int],
    inputs: frozenset[int],
    latents: Collection[int] = (),
    stacks: Set[Stack] = frozenset(),
) -> Trace:
    """Interprets a program.

    Args:
      program: see `flatten`.
      consumers: how many operations read each value.
      parameters: positions of the parameters.
      inputs: positions that hold data.
      latents: numbers of the parameters that are taken for tables of vectors, which meet matrices as data do.
      stacks: see `Trace`.
    """
    trace = Trace(program, consumers, parameters, stacks)
    values = trace.values
    for position in program.constants:
        shape = trace.shape(position)
        is_scalar = not shape
        values[position] = Value(plain(shape), uniform=is_scalar)
    for position in inputs:
        values[position] = Value(plain(trace.shape(position)), data=True, looked_up_by=position)
    for number, position in enumerate(parameters):
        value = parameter(number, trace.shape(position))
        values[position] = Value(value.dims, data=True, deep=True) if number in latents else value
    _run_block(trace, program.block)
    trace.is_backward = False
    return trace


def _run_block(trace: Trace, block: Block) -> None:
    for op in block:
        if isinstance(op, Loop):
            _run_loop(trace, op)
            continue
        ins = tuple(trace.values[i] for i in op.ins)
        trace.is_backward = is_backward(op)
        try:
            with familiar(op.name):
                result = rule_for(op.name)(trace, op, ins)
        except UnfamiliarError as error:
            trace.unfamiliar[op.name] = str(error)
            result = unknown_primitive(trace, op, ins)
        results = (result,) if isinstance(result, Value) else result
        trace.values.update(zip(op.outs, results, strict=True))


_ROUNDS = 12  # labels only grow, and settle after as many rounds as a value takes to pass through all carries


def _run_loop(trace: Trace, loop: Loop) -> None:
    values = trace.values
    for carry in loop.carries:
        values[carry.inside] = values[carry.start]
    seen = (trace.uses, trace.evidence, trace.meetings, trace.kernels)
    before = [len(some) for some in seen]
    for _ in range(_ROUNDS):
        # what was seen before a carry settled is not to be trusted: a state that starts at zero is no constant
        for some, count in zip(seen, before, strict=True):
            del some[count:]
        trace.used = {use.param for use in trace.uses}
        _run_block(trace, loop.body)
        joined = {c.inside: _carried(trace, loop, values[c.start], values[c.end]) for c in loop.carries}
        if all(values[position] == value for position, value in joined.items()):
            return
        values.update(joined)


def _carried(trace: Trace, loop: Loop, start: Value, end: Value) -> Value:
    if start == end:
        return start
    dims = join(start.dims, end.dims)
    if start.is_weight and end.is_weight:
        parts = unite(start.parts + end.parts)
        return Value(dims, start.data or end.data, parts, deep=start.deep or end.deep)
    for one, other in ((start, end), (end, start)):
        if one.is_weight and other.is_activation:
            record_content(
                trace,
                Op("carry", Params("carry", {}), (), tuple(c.inside for c in loop.carries), loop.eqn, (loop.eqn,)),
                one,
                other,
            )
    data = start.data or end.data
    parts = () if data else start.parts + end.parts
    uniform = start.uniform and end.uniform and not data and not parts
    return Value(dims, data, parts, uniform, start.deep or end.deep)
