"""Rules of the primitives that move entries of an array around, whatever the array is."""

from collections.abc import Iterable, Sequence

from modula_optax._infer._blocks import folded
from modula_optax._infer._notes import record_content
from modula_optax._infer._terms import Axis, Clue, Made
from modula_optax._infer._trace import Trace, operand_of
from modula_optax._infer._values import (
    COUNTING,
    NONE,
    ONE,
    Dim,
    Dims,
    Factor,
    Label,
    Part,
    Value,
    join_dim,
    labels_in,
    labels_of,
    plain,
    relabel,
    reshape,
    resize,
    size_of,
    unmarked,
)
from modula_optax._jax import Params
from modula_optax._jaxpr import Op


def keep(trace: Trace, op: Op, ins: tuple[Value, ...]) -> tuple[Value, ...]:
    """Casts, copies, constraints, what shards exchange: each value itself; of `tie`, the last."""
    count = len(op.outs)
    for before, out in zip(op.ins[-count:], op.outs, strict=True):
        if before in trace.products and trace.consumers.get(before) == 1:
            trace.products[out] = trace.products[before]
        if before in trace.exponentials:
            trace.exponentials.add(out)
        if before in trace.joined:
            trace.joined[out] = trace.joined[before]
    kept = zip(ins[-count:], op.outs, strict=True)
    return tuple(v._replace(dims=resized_dims(v.dims, trace.shape(out))) for v, out in kept)


def resized_dims(dims: Dims, shape: Sequence[int]) -> Dims:
    return tuple(map(resize, dims, shape)) if len(dims) == len(shape) else plain(shape)


def resized(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    """Axes stay, sizes change: pooling, padding, strided slices, shards."""
    return ins[0]._replace(dims=resized_dims(ins[0].dims, trace.shape(op.outs[0])), uniform=False)


def reshaped(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    value, shape = ins[0], trace.shape(op.outs[0])
    dims = value.dims
    if op.params.get("dimensions") is not None:
        dims = tuple(dims[i] for i in op.params["dimensions"])
    result = _restored(trace, value._replace(dims=reshape(dims, shape)))
    trace.pieces.reshaped(dims, result.dims)
    trace.heads.reshaped(dims, result.dims)
    if value.is_activation:
        for dim in result.dims:
            if len(dim) > 1:
                _note_merged(trace, dim)
    return result


def _restored(trace: Trace, weight: Value) -> Value:
    """A parameter with the axes of one entry that were lost where it was flattened, once it has room for them again."""
    if len(weight.parts) != 1:
        return weight
    (part,) = weight.parts
    gone = {axis for axis, _ in part.fixed} | {axis for param, axis in labels_in(weight.dims) if param == part.param}
    shape = trace.shape(trace.parameters[part.param])
    lost = iter([Label(part.param, axis) for axis, size in enumerate(shape) if size == 1 and axis not in gone])
    dims = (
        (Factor(1, frozenset([label])),) if dim == ONE and (label := next(lost, None)) else dim for dim in weight.dims
    )
    return weight._replace(dims=tuple(dims))


def _note_merged(trace: Trace, dim: tuple[Factor, ...]) -> None:
    """Two axes that a parameter made become one, as heads do: both are features."""
    labels = labels_of(dim)
    makers = [param for param, axis in labels if any((param, other) in labels for other in range(axis))]
    if makers:
        trace.note([label for label in labels if label[0] in makers], Clue.MERGED)


def transpose(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    return ins[0]._replace(dims=tuple(ins[0].dims[i] for i in op.params["permutation"]))


def squeeze(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    dropped = {i % len(ins[0].dims) for i in op.params["dimensions"]}
    return ins[0]._replace(dims=tuple(dim for i, dim in enumerate(ins[0].dims) if i not in dropped))


def broadcast_in_dim(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    shape = trace.shape(op.outs[0])
    dims = list(plain(shape))
    for dim, i in zip(ins[0].dims, op.params["broadcast_dimensions"], strict=True):
        if size_of(dim) == shape[i]:
            dims[i] = dim
    return ins[0]._replace(dims=tuple(dims))


def iota(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    dims = list(plain(trace.shape(op.outs[0])))
    dims[op.params["dimension"]] = relabel(dims[op.params["dimension"]], add=frozenset([COUNTING]))
    return Value(tuple(dims))


def select_axes(value: Value, selected: Sequence[int], role: Axis) -> Value:
    """One entry of these axes is taken: the parameters lose them, and remember how."""
    return value.losing(value.along(selected), role)


def concatenate(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    axis = op.params["dimension"]
    trace.pieces.rejoined([v.dims[axis] for v in ins])
    activations = [v for v in ins if v.is_activation]
    if len(activations) in (0, len(ins)):
        trace.joined[op.outs[0]] = axis, ins
    if activations:
        for value in ins:
            if value.is_weight:
                record_content(trace, op, value, activations[0], joined=axis)
    dims = ins[0].dims
    for value in ins[1:]:
        pairs = enumerate(zip(dims, value.dims, strict=True))
        dims = tuple(_append(a, b) if i == axis else join_dim(a, b) for i, (a, b) in pairs)
    combined = combine(ins, (*dims[:axis], *unmarked(dims[axis : axis + 1]), *dims[axis + 1 :]))
    folded_params = folded([v.dims for v in ins if v.is_weight], axis, trace.entries)
    reason = "slices of it are joined along an axis that was not sliced"
    parts = (part.otherwise(reason) if part.param in folded_params else part for part in combined.parts)
    return combined._replace(parts=tuple(parts))


def _append(a: Dim, b: Dim) -> Dim:
    """An axis that is one after the other."""
    if [factor.size for factor in a[1:]] == [factor.size for factor in b[1:]]:
        return (Factor(a[0].size + b[0].size, a[0].labels | b[0].labels), *map(_joined_factor, a[1:], b[1:]))
    return (Factor(size_of(a) + size_of(b), labels_of(a) | labels_of(b)),)


def _joined_factor(a: Factor, b: Factor) -> Factor:
    return Factor(a.size, a.labels | b.labels)


def combine(ins: Sequence[Value], dims: Dims) -> Value:
    """A value that holds entries of all of these."""
    data, deep = any(v.is_activation for v in ins), any(v.deep for v in ins)
    parts = () if data else unite(part for v in ins for part in v.parts)
    looked_up = any(v.data for v in ins)
    uniform, is_chosen = all(v.uniform for v in ins), any(v.chosen for v in ins)
    return Value(dims, data or looked_up, parts, uniform, deep, _common_index(ins), chosen=is_chosen)


def _common_index(ins: Iterable[Value]) -> int | None:
    found = {v.looked_up_by for v in ins if v.looked_up_by is not None}
    return found.pop() if len(found) == 1 else None


def unite(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Parts of a value made of several; what is known of a parameter is put together."""
    found: dict[int, Part] = {}
    for part in parts:
        known = found.get(part.param) or part
        if (known.made, known.reason) != (part.made, part.reason):
            found[part.param] = _reconciled(known, part)
            continue
        found[part.param] = known._replace(
            fixed=known.fixed | part.fixed, reparameterised=known.reparameterised or part.reparameterised
        )
    return tuple(found.values())


def _reconciled(a: Part, b: Part) -> Part:
    """A statistic of a parameter says nothing beside the parameter itself; anything else is one thing too many."""
    made = {a.made, b.made}
    if made == {Made.WHOLE, Made.COFACTOR}:
        return a._replace(made=Made.COFACTOR, fixed=a.fixed | b.fixed, reparameterised=True)
    if made == {Made.FACTOR, Made.COFACTOR}:
        # a gain in the scale of a standardised weight, and in the shift by its mean
        return a._replace(made=Made.FACTOR, fixed=a.fixed | b.fixed, reparameterised=True)
    proper = [part for part in (a, b) if part.made is not Made.STATISTIC]
    return proper[0]._replace(reparameterised=True) if len(proper) == 1 else a._replace(made=Made.SEVERAL)


def random_bits(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    """What is drawn from a key is data, also where the key is a constant of the function."""
    return Value(plain(trace.shape(op.outs[0])), data=True, looked_up_by=op.outs[0], noise=True)


def scan_slice(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    value = select_axes(ins[0], [0], Axis.PICKED)
    return value._replace(dims=value.dims[1:])


def scan_stack(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    return ins[0]._replace(dims=(*plain(trace.shape(op.outs[0])[:1]), *ins[0].dims))


def tile(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    repeated = zip(op.params["reps"], ins[0].dims, strict=True)
    dims = tuple(dim if n == 1 else (Factor(n, NONE), *(f for f in dim if f.size > 1)) for n, dim in repeated)
    return ins[0]._replace(dims=dims)


def stack(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    """Arrays side by side, along an axis of their own."""
    axis = op.params["axis"]
    lifted = [v._replace(dims=(*v.dims[:axis], *plain([1]), *v.dims[axis:])) for v in ins]
    return concatenate(trace, op._replace(params=Params("concatenate", {"dimension": axis})), tuple(lifted))


def same_axes(trace: Trace, op: Op, ins: tuple[Value, ...]) -> tuple[Value, ...]:
    """Transforms of activations along their axes: sorting, Fourier. A parameter is not followed through them."""
    if any(v.is_weight for v in ins):
        return unknown_primitive(trace, op, ins)
    data, deep, dims = any(v.data for v in ins), any(v.deep for v in ins), ins[0].dims
    found = [Value(resized_dims(dims, trace.shape(out)), data=data, deep=deep, looked_up_by=out) for out in op.outs]
    if op.name in ("top_k", "approx_top_k"):
        found[1] = found[1]._replace(chosen=data)
    return tuple(found)


def unknown_primitive(trace: Trace, op: Op, ins: tuple[Value, ...]) -> tuple[Value, ...]:
    """Any other primitive: what it makes of a parameter is not the parameter any more."""
    if any(v.data for v in ins):
        trace.refuse(op, ins)
        return trace.forget(op, ins)
    parts = unite(part.otherwise(operand_of(op)) for v in ins for part in v.parts)
    return tuple(Value(plain(trace.shape(out)), parts=parts) for out in op.outs)
