"""Rules of the primitives that take entries of an array by constants: slices, and all that an axis is cut into."""

import itertools
from collections.abc import Sequence

from modula_optax._infer._move import select_axes
from modula_optax._infer._terms import Axis
from modula_optax._infer._trace import Trace
from modula_optax._infer._values import Value, resize, size_of
from modula_optax._jaxpr import Op


def static_slice(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    shape = trace.shape(op.outs[0])
    for dim, start, stop in zip(ins[0].dims, op.params["start_indices"], op.params["limit_indices"], strict=True):
        trace.pieces.cut(dim, start, stop)
    value = _as_joined(trace, op, ins[0], op.params["start_indices"], op.params["limit_indices"])
    return _sliced(value, shape)


def split(trace: Trace, op: Op, ins: tuple[Value, ...]) -> tuple[Value, ...]:
    ends = (0, *itertools.accumulate(map(int, op.params["sizes"])))
    axis, ndim, found = op.params["axis"], len(ins[0].dims), []
    for out, (start, stop) in zip(op.outs, itertools.pairwise(ends), strict=True):
        trace.pieces.cut(ins[0].dims[axis], start, stop)
        value = _as_joined(trace, op, ins[0], [start] * ndim, [stop] * ndim)
        found.append(_sliced(value, trace.shape(out)))
    return tuple(found)


def unstack(trace: Trace, op: Op, ins: tuple[Value, ...]) -> tuple[Value, ...]:
    axis = op.params["axis"]
    for i in range(len(op.outs)):
        trace.pieces.cut(ins[0].dims[axis], i, i + 1)
    value = select_axes(ins[0], [axis], Axis.PICKED)
    return (value._replace(dims=(*value.dims[:axis], *value.dims[axis + 1 :])),) * len(op.outs)


def _sliced(value: Value, shape: Sequence[int]) -> Value:
    """What is left of a value; of an axis of which one entry is taken, this is."""
    selected = [i for i, dim in enumerate(value.dims) if shape[i] == 1 < size_of(dim)]
    return select_axes(value, selected, Axis.PICKED)._replace(dims=tuple(map(resize, value.dims, shape)))


def _as_joined(trace: Trace, op: Op, value: Value, starts: Sequence[int], stops: Sequence[int]) -> Value:
    """A value of several put one after the other, of which entries of one are taken: they are that one's."""
    if op.ins[0] in trace.joined:
        axis, values = trace.joined[op.ins[0]]
        ends = itertools.accumulate(size_of(one.dims[axis]) for one in values)
        for one, end in zip(values, ends, strict=True):
            if end - size_of(one.dims[axis]) <= starts[axis] and stops[axis] <= end:
                dims = (*value.dims[:axis], one.dims[axis], *value.dims[axis + 1 :])
                return value._replace(dims=dims, parts=one.parts, data=one.data)
    return value
