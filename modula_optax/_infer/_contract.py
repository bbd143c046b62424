"""Rules of contractions: where matrices meet activations."""

from collections.abc import Sequence
from typing import NamedTuple

from modula_optax._infer._lookup import as_table, chosen, settle_apart
from modula_optax._infer._masks import primal_of
from modula_optax._infer._move import unite
from modula_optax._infer._notes import note_gates, settle
from modula_optax._infer._terms import Axis, Clue, Made, Normaliser, UseKind
from modula_optax._infer._trace import Trace, axes_of
from modula_optax._infer._uses import AxisUse, Meeting
from modula_optax._infer._values import (
    ONE,
    ONE_HOT,
    Dim,
    Dims,
    Factor,
    Part,
    Value,
    join_dim,
    labels_in,
    labels_of,
    params_in,
    plain,
    resize,
    size_of,
    unmarked,
)
from modula_optax._jaxpr import Op


class Pairs(NamedTuple):
    """Which axes of two arrays belong together: of the one, and of the other, in the same order."""

    contracted: tuple[tuple[int, ...], tuple[int, ...]]
    batched: tuple[tuple[int, ...], tuple[int, ...]]

    def swapped(self) -> "Pairs":
        """The same from the side of the other."""
        (own, other), (own_batch, other_batch) = self
        return Pairs((other, own), (other_batch, own_batch))

    def roles(self, ndim: int) -> dict[int, Axis]:
        """What becomes of each axis of the one."""
        contracted, batched = self.contracted[0], self.batched[0]
        return (
            dict.fromkeys(range(ndim), Axis.OUT)
            | dict.fromkeys(batched, Axis.BATCH)
            | dict.fromkeys(contracted, Axis.IN)
        )


def dot_general(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    """Matrix products of any form."""
    left, right = ins
    contracted, batched = op.params["dimension_numbers"]
    for i, j in ((0, 1), (1, 0)):
        primal = primal_of(trace, op, i, j) if ins[i].is_weight and ins[j].is_activation and not ins[j].deep else None
        if primal is not None:
            left, right = (primal, ins[1]) if i else (ins[0], primal)
    return _contract(trace, op, left, right, Pairs(_tuples(contracted), _tuples(batched)))


def _tuples(pair: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    left, right = pair
    return tuple(left), tuple(right)


def ragged_dot(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    """Rows in groups, every group times a matrix of its own: experts."""
    numbers = op.params["ragged_dot_dimension_numbers"]
    contracted, batched = numbers.dot_dimension_numbers
    pairs, groups = Pairs(_tuples(contracted), _tuples(batched)), tuple(numbers.rhs_group_dimensions)
    rows, matrices = settle(trace, op, ins[0]), settle(trace, op, ins[1])
    roles = pairs.swapped().roles(len(matrices.dims)) | dict.fromkeys(groups, Axis.BATCH)
    if matrices.is_weight and rows.is_weight:
        trace.refuse(op, (rows, matrices))
    elif matrices.is_weight:
        _record_linear(trace, op, matrices, rows, roles, pairs.swapped())
    columns = [dim for i, dim in enumerate(matrices.dims) if roles[i] is Axis.OUT]
    kept = [dim for i, dim in enumerate(rows.dims) if i not in pairs.contracted[0]]
    shape = trace.shape(op.outs[0])
    dims = (*kept, *columns)
    return Value(tuple(map(resize, dims, shape)) if len(dims) == len(shape) else plain(shape), data=True, deep=True)


def _contract(trace: Trace, op: Op, left: Value, right: Value, pairs: Pairs) -> Value:
    """The product of two arrays over some of their axes."""
    left = _settled(trace, op, left, right, pairs.contracted[0])
    right = _settled(trace, op, right, left, pairs.contracted[1])
    left_roles, right_roles = pairs.roles(len(left.dims)), pairs.swapped().roles(len(right.dims))
    batch = (join_dim(left.dims[i], right.dims[j]) for i, j in zip(*pairs.batched, strict=True))
    free = (v.dims[i] for v, roles in ((left, left_roles), (right, right_roles)) for i in roles if roles[i] is Axis.OUT)
    dims = unmarked((*batch, *free))
    if left.is_weight and right.is_weight:
        settled = settle_apart(trace, op, as_table(trace, op, left), as_table(trace, op, right))
        if settled != (left, right):
            return _contract(trace, op, *settled, pairs)
        parts = (
            _contracted(v, roles, part) for v, roles in ((left, left_roles), (right, right_roles)) for part in v.parts
        )
        return Value(dims, parts=unite(parts))
    if right.is_weight:
        return _meet(trace, op, right, left, right_roles, pairs.swapped(), dims, comes_second=True)
    if left.is_weight:
        return _meet(trace, op, left, right, left_roles, pairs, dims)
    if not pairs.contracted[0]:
        note_gates(trace, _facing(left, left_roles, right, pairs))
        note_gates(trace, _facing(right, right_roles, left, pairs.swapped()))
    if pairs.contracted[0]:
        for one, other, own in ((left, right, pairs), (right, left, pairs.swapped())):
            trace.heads.met(one.dims, other.dims, zip(*own.batched, strict=True), own.contracted[0])
            free = (i for i in range(len(one.dims)) if i not in own.contracted[0] + own.batched[0])
            for i, j in zip(*own.contracted, strict=True):
                makers = params_in([other.dims[j]])
                trace.note((x for x in labels_of(one.dims[i]) if makers and x.param not in makers), Clue.MATCHED)
            if left.is_activation and right.is_activation:
                trace.meet(Meeting(one.along(free), *map(Value.along, (one, other), own.contracted)))
    _note_generated(trace, op, left, left_roles, right)
    _note_generated(trace, op, right, right_roles, left)
    return Value(dims, data=left.data or right.data, deep=left.deep or right.deep, normaliser=Normaliser.SUM)


def _settled(trace: Trace, op: Op, weight: Value, other: Value, contracted: Sequence[int]) -> Value:
    """Constants times a weight, contracted along what the weight made: it was a layer."""
    if not (weight.is_weight and other.is_activation):
        return weight
    mixed = {(part.param, axis) for part in weight.parts for axis, role in part.fixed if role is Axis.MIXED}
    along = weight.along(contracted)
    return settle(trace, op, weight) if mixed and not mixed & along else weight


def _contracted(weight: Value, roles: dict[int, Axis], part: Part) -> Part:
    inner = {(axis, Axis.INNER) for i, axis, _ in axes_of(weight, part) if roles[i] is Axis.IN}
    made = Made.PRODUCT if part.made is Made.WHOLE else part.made
    return part._replace(made=made, fixed=part.fixed | inner)


def _meet(
    trace: Trace,
    op: Op,
    weight: Value,
    other: Value,
    roles: dict[int, Axis],
    pairs: Pairs,
    dims: Dims,
    comes_second: bool = False,
) -> Value:
    """A weight is contracted with an activation or a constant, which may come first or second."""
    own, others = pairs.contracted
    one_hot = bool(own) and all(ONE_HOT in labels_of(other.dims[i]) for i in others)
    if one_hot:
        return _look_up(trace, op, weight, other, own, dims)
    if other.is_constant and not other.uniform:
        free = [i for i in range(len(other.dims)) if i not in others + pairs.batched[1]]
        return _resampled(weight, roles, dims, len(free), as_layer=comes_second)
    if not {part.param for part in weight.parts} & {label.param for label in weight.along(own)}:
        return _multiply(trace, op, weight, other, pairs, dims)
    _record_linear(trace, op, weight, other, roles, pairs)
    return Value(dims, data=True, deep=True)


def _multiply(trace: Trace, op: Op, weight: Value, other: Value, pairs: Pairs, dims: Dims) -> Value:
    """An outer product, or entry by entry: nothing of the parameter is summed."""
    weight = settle(trace, op, weight)
    partner = dict(zip(*pairs.batched, strict=True))
    for part in weight.parts:
        axes = [
            AxisUse(axis, Axis.ALIGNED, factor.size, i, labels_of(other.dims[partner[i]]))
            if i in partner
            else AxisUse(axis, Axis.EXPANDED, factor.size, i)
            for i, axis, factor in axes_of(weight, part)
        ]
        trace.use(op, weight, part, UseKind.MUL, axes, deep=other.deep)
    return Value(dims, data=True, deep=other.deep)


def _record_linear(trace: Trace, op: Op, weight: Value, other: Value, roles: dict[int, Axis], pairs: Pairs) -> None:
    kept = weight.along(i for i, role in roles.items() if role is Axis.OUT)
    summed = any(part.made is Made.WHOLE for part in weight.parts)
    facing = {i: labels_of(other.dims[j]) for pair in pairs for i, j in zip(*pair, strict=True)}
    for i, j in zip(*pairs.contracted, strict=True):
        for label in labels_of(weight.dims[i]):
            trace.heads.taken(label, other.dims[j])
    # a product with zeros is that of a state before its first step: it holds if nothing else says otherwise
    for part in weight.parts:
        axes = [
            AxisUse(axis, roles[i], factor.size, i, facing.get(i, frozenset()))
            for i, axis, factor in axes_of(weight, part)
        ]
        trace.use(
            *(op, weight, part, UseKind.LINEAR, axes),
            deep=other.deep,
            weak=other.is_constant,
            kept=kept,
            summed=summed,
        )
    # an axis that meets itself is that of a length, as in a power iteration
    together = [labels_of(other.dims[j]) - labels_of(weight.dims[i]) for i, j in zip(*pairs.contracted, strict=True)]
    for labels in together:
        trace.note(labels, Clue.CONTRACTED)
        if len(together) > 1:
            trace.note(labels, Clue.CONTRACTED_WITH_OTHERS)
    for i in pairs.batched[1]:
        trace.note(labels_of(other.dims[i]), Clue.BATCHED)


def _look_up(trace: Trace, op: Op, weight: Value, one_hot: Value, rows: Sequence[int], dims: Dims) -> Value:
    """A product with one-hot vectors is a lookup."""
    if one_hot.data:
        return chosen(trace, op, weight, one_hot, rows, dims)
    return weight._replace(dims=dims).losing(weight.along(rows), Axis.LOOKED)


def _resampled(weight: Value, roles: dict[int, Axis], dims: Dims, made: int, as_layer: bool) -> Value:
    """A constant matrix mixes entries along an axis: an interpolated table, or a layer whose inputs are constants.

    Inputs are written before the weight that they are multiplied with; so many axes are `made` of those mixed.
    """
    mixed = weight.along(i for i, role in roles.items() if role is Axis.IN)
    first = list(roles.values()).count(Axis.BATCH) if as_layer else len(dims) - made
    dims = (*dims[:first], *((Factor(size_of(d), mixed),) for d in dims[first : first + made]), *dims[first + made :])
    resampled = weight._replace(dims=dims)
    return resampled.losing(mixed, Axis.MIXED) if as_layer else resampled


def _facing(gate: Value, roles: dict[int, Axis], gated: Value, pairs: Pairs) -> list[tuple[Dim, Dim]]:
    """The axes of a product entry by entry, if the gate has no axis of its own."""
    if Axis.OUT in roles.values():
        return []
    own, other = pairs.batched
    batched = [(gate.dims[i], gated.dims[j]) for i, j in zip(own, other, strict=True)]
    return batched + [(ONE, dim) for i, dim in enumerate(gated.dims) if i not in other]


def _note_generated(trace: Trace, op: Op, one: Value, roles: dict[int, Axis], other: Value) -> None:
    """A parameter made both an axis contracted here and one that is kept: it made a matrix, not a vector."""
    contracted, kept, batched = (
        [one.dims[i] for i in roles if roles[i] is role] for role in (Axis.IN, Axis.OUT, Axis.BATCH)
    )
    rows, columns = labels_in(contracted), labels_in(kept)
    for maker in params_in(contracted) & params_in(kept) - params_in(other.dims):
        kept_apart, summed = (
            any(size_of(dim) > 1 and maker not in params_in([dim]) for dim in dims) for dims in (kept, contracted)
        )
        if not kept_apart:
            trace.use_as_kernel(op, one, maker, UseKind.LINEAR, roles, deep=other.deep)
        if maker in params_in(batched):
            continue
        # attention makes no matrix: it has a vector for each position
        row, column = (Clue.FORM_ROW, Clue.FORM_COLUMN) if kept_apart else (Clue.MATRIX_ROW, Clue.MATRIX_COLUMN)
        trace.note((label for label in rows if label.param == maker), row)
        trace.note((label for label in columns if label.param == maker), column)
        if kept_apart and summed:
            # nor does it sum over positions and features at once, as the mean of outer products does
            trace.note((label for label in rows if label.param == maker), Clue.FORM_SUMMED)
