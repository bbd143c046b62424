"""Rules of lookups: `gather`, `dynamic_slice` and their transposes, where embeddings meet indices."""

from collections.abc import Mapping, Sequence

from modula_optax._infer._move import combine, select_axes
from modula_optax._infer._notes import record_content, settle
from modula_optax._infer._terms import Axis, Clue, UseKind
from modula_optax._infer._trace import Stack, Trace, axes_of
from modula_optax._infer._values import (
    CHOSEN,
    ONE,
    Dims,
    Factor,
    Part,
    Value,
    join,
    join_dim,
    labels_in,
    labels_of,
    plain,
    relabel,
    resize,
    size_of,
    unmarked,
)
from modula_optax._jaxpr import Op


def gather(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    operand, indices = ins
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    shape = trace.shape(op.outs[0])
    batching = tuple(numbers.operand_batching_dims)
    absent = (*numbers.collapsed_slice_dims, *batching)
    # a gather made by vmap of dynamic_slice collapses nothing, but takes slices of size 1
    selected = [i for i in numbers.start_index_map if sizes[i] == 1 < size_of(operand.dims[i])]
    windows = [i for i in range(len(operand.dims)) if i not in absent]
    n_indices = [i for i in range(len(shape)) if i not in numbers.offset_dims]

    dims = list(plain(shape))
    for out, i in zip(numbers.offset_dims, windows, strict=True):
        dims[out] = dims[out] if i in selected else resize(operand.dims[i], shape[out])
    for out, dim in zip(n_indices, indices.dims[:-1], strict=True):
        dims[out] = dim
    single = [i for i in numbers.collapsed_slice_dims if size_of(operand.dims[i]) == 1]
    if len(single) == len(n_indices) == 1 == shape[n_indices[0]]:
        # the only entry of an axis was taken, and stays
        dims[n_indices[0]] = operand.dims[single[0]]
    for i, j in zip(batching, numbers.start_indices_batching_dims, strict=True):
        dims[n_indices[j]] = join_dim(dims[n_indices[j]], operand.dims[i])
    operand = select_axes(operand, batching, Axis.BATCH)
    return look_up(trace, op, operand, indices, selected, tuple(dims), n_indices)


def dynamic_slice(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    operand, *indices = ins
    shape = trace.shape(op.outs[0])
    selected = [i for i, dim in enumerate(operand.dims) if shape[i] == 1 < size_of(dim)]
    dims = tuple(ONE if i in selected else resize(dim, shape[i]) for i, dim in enumerate(operand.dims))
    index = next((indices[i] for i in selected if indices[i].data), indices[0] if indices else operand)
    return look_up(trace, op, operand, index, selected, dims, [])


def look_up(
    trace: Trace, op: Op, operand: Value, index: Value, selected: Sequence[int], dims: Dims, index_dims: Sequence[int]
) -> Value:
    """Entries `selected` of some axes of the operand, chosen by an index.

    Args:
      trace: the interpreter's state.
      op: the lookup.
      operand: what is looked into.
      index: what says where.
      selected: the axes of the operand of which one entry is taken.
      dims: axes of the result.
      index_dims: axes of the result that run along the index.
    """
    data = index.data or operand.is_activation
    if not operand.is_weight:
        return Value(unmarked(dims), data=data, deep=operand.deep or index.deep)
    if index.data and selected:
        trace.note(labels_in(dims[: max(index_dims, default=0)]), Clue.LEADING)
        return chosen(trace, op, operand, index, selected, dims)
    if index_dims and selected:
        # looked up by constants: the rows stay an axis, for a permuted weight is still a weight
        labels = operand.along(selected)
        dims = tuple(
            (Factor(size_of(dim), labels_of(dim) | labels),) if i in index_dims else dim for i, dim in enumerate(dims)
        )
        role = Axis.REORDERED if len(index_dims) == 1 else Axis.LOOKED
        return select_axes(operand, selected, role)._replace(dims=dims)
    return select_axes(operand, selected, Axis.PICKED)._replace(dims=dims, deep=index.deep)


def chosen(trace: Trace, op: Op, weight: Value, index: Value, selected: Sequence[int], dims: Dims) -> Value:
    """What data look up of a weight: rows of a table, or one of several layers."""
    stack = Stack(index.looked_up_by, tuple(size_of(weight.dims[i]) for i in selected))
    if stack in trace.stacks:
        trace.picked.update(dict.fromkeys(weight.along(selected), stack))
        picked = select_axes(weight, selected, Axis.PICKED)
        return picked._replace(dims=dims, deep=index.deep, looked_up_by=index.looked_up_by)
    found = select_axes(weight, selected, Axis.LOOKED)
    found = found._replace(dims=dims, data=True, deep=index.deep, looked_up_by=index.looked_up_by)
    if not any(_is_matrix(found, part) for part in found.parts):
        return settle(trace, op, found)
    # a looked up matrix may be that of an expert, a looked up vector, of each member as well, is an embedding
    trace.undecided[stack] = None
    return found


def _is_matrix(found: Value, part: Part) -> bool:
    members = {axis for axis, role in part.fixed if role is Axis.BATCH}
    return len({axis for _, axis, factor in axes_of(found, part) if factor.size > 1} - members) > 1


def as_table(trace: Trace, op: Op, weight: Value) -> Value:
    """A vector that an index picked, and that goes into a matrix as data do, was a row of a table after all."""
    if weight.looked_up_by is None or any(_is_matrix(weight, part) for part in weight.parts):
        return weight

    def looked(part: Part) -> Part:
        fixed = ((axis, Axis.LOOKED if (part.param, axis) in trace.picked else role) for axis, role in part.fixed)
        return part._replace(fixed=frozenset(fixed))

    return settle(trace, op, weight._replace(parts=tuple(map(looked, weight.parts)), data=True))


def settle_apart(trace: Trace, op: Op, a: Value, b: Value) -> tuple[Value, Value]:
    """Settles two weights that meet, unless they are of the same parameters: a norm that a weight is divided by."""
    if {part.param for part in a.parts} & {part.param for part in b.parts} and not (a.data or b.data):
        return a, b
    return settle(trace, op, a), settle(trace, op, b)


def scatter(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    """Updates written into an operand, as by segment sums."""
    operand, indices, updates = ins
    numbers = op.params["dimension_numbers"]
    inserted = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windows = [i for i in range(len(operand.dims)) if i not in inserted]
    dims = list(operand.dims)
    for i, j in zip(windows, numbers.update_window_dims, strict=True):
        dims[i] = join_dim(dims[i], resize(updates.dims[j], size_of(dims[i])))
    for i in numbers.scatter_dims_to_operand_dims if indices.chosen else ():
        dims[i] = relabel(dims[i], add=frozenset([CHOSEN]))
    facing = _facing(operand, updates, dict(zip(windows, numbers.update_window_dims, strict=True)))
    return _written(trace, op, operand, facing or updates, tuple(dims), aligned=facing is not None)


def _facing(operand: Value, updates: Value, windows: Mapping[int, int]) -> Value | None:
    """Updates with the axes of the operand, by those that both have; `None` if they run along the indices, too."""
    if len(operand.dims) == len(updates.dims):
        return updates
    if any(labels_of(dim) for i, dim in enumerate(updates.dims) if i not in windows.values()):
        return None
    return updates._replace(
        dims=tuple(updates.dims[windows[i]] if i in windows else ONE for i in range(len(operand.dims)))
    )


def dynamic_update_slice(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    operand, updates = ins[:2]
    shape = trace.shape(op.outs[0])
    dims = join(operand.dims, tuple(map(resize, updates.dims, shape)))
    return _written(trace, op, operand, updates, dims, aligned=True)


def _written(trace: Trace, op: Op, operand: Value, updates: Value, dims: Dims, aligned: bool) -> Value:
    for one, other in ((operand, updates), (updates, operand)):
        if one.is_weight and other.is_activation:
            kind, reason = (UseKind.ADD, "") if aligned else (UseKind.OTHER, f"operand of {op.name}")
            record_content(trace, op, one, other, kind, reason)
    if updates.is_weight and not operand.is_activation and not aligned:
        parts = tuple(part.otherwise(f"operand of {op.name}") for part in updates.parts)
        updates = updates._replace(parts=parts)
    return combine((operand, updates), unmarked(dims))
