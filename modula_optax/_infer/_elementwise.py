"""Rules of elementwise operations: where biases and gains meet activations."""

from collections.abc import Iterable, Sequence

from modula_optax._infer._lookup import settle_apart
from modula_optax._infer._masks import covered, is_drawn_for, is_masked
from modula_optax._infer._modulated import is_modulated
from modula_optax._infer._move import combine, unite
from modula_optax._infer._notes import alignment, note_gates, record_content, settle
from modula_optax._infer._step import is_scaled_by_task, is_step, stepped
from modula_optax._infer._terms import Axis, Clue, Made, Normaliser, UseKind
from modula_optax._infer._trace import Trace
from modula_optax._infer._uses import AxisUse
from modula_optax._infer._values import (
    CHOSEN,
    COUNTING,
    ONE_HOT,
    SPECIAL,
    Dim,
    Dims,
    Part,
    Value,
    join,
    join_dim,
    labels_of,
    relabel,
    size_of,
    unmarked,
)
from modula_optax._jaxpr import Kind, Op, named

_KINDS = dict.fromkeys([*named(Kind.SUM), "complex"], UseKind.ADD) | dict.fromkeys(named(Kind.PRODUCT), UseKind.MUL)
_COMPARISONS = named(Kind.COMPARISON)


def entrywise(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    """Functions of one array or of two, entry by entry."""
    return _unary(trace, op, ins[0]) if len(ins) == 1 else binary(trace, op, ins)


def _unary(trace: Trace, op: Op, value: Value) -> Value:
    """A parameter stays itself, in other coordinates."""
    value = settle(trace, op, value)
    if op.name == "exp":
        trace.exponentials.add(op.outs[0])
    if op.ins[0] in trace.joined and not value.is_weight:
        trace.joined[op.outs[0]] = trace.joined[op.ins[0]]
    parts = tuple(part._replace(reparameterised=True) for part in value.parts)
    return value._replace(parts=parts, dims=unmarked(value.dims), normaliser=None)


def binary(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    """Sums, products, and all other functions of two arrays."""
    a, b = ins
    if op.name in _COMPARISONS and (a.is_weight or b.is_weight):
        # no gradient comes back: whatever follows, it is no use of the parameter
        return Value(join(a.dims, b.dims), data=True)
    if a.is_constant and b.is_constant:
        return _constants(op, a, b)
    if a.is_activation and b.is_activation:
        if op.name == "mul":
            for gate, gated in ((a, b), (b, a)):
                if gate.normaliser is not Normaliser.RECIPROCAL:
                    note_gates(trace, _facing(gate, gated))
        return Value(unmarked(join(a.dims, b.dims)), data=True, deep=a.deep or b.deep, noise=a.noise and b.noise)
    for one, other in ((a, b), (b, a)):
        if one.is_constant:
            result = _with_constant(trace, op, one, other)
            is_reciprocal = op.name == "div" and one is a and other.normaliser is Normaliser.SUM
            return result._replace(normaliser=Normaliser.RECIPROCAL) if is_reciprocal else result
    if a.is_weight and b.is_weight:
        return _weights(trace, op, *settle_apart(trace, op, a, b))
    return _meet(trace, op, a, b)


def _facing(gate: Value, gated: Value) -> Iterable[tuple[Dim, Dim]]:
    return zip(gate.dims, gated.dims, strict=True) if gate.dims and gated.dims else ()


def _constants(op: Op, a: Value, b: Value) -> Value:
    dims = join(a.dims, b.dims)
    if op.name == "eq":
        return Value(_one_hot(dims))
    scaled = (a.uniform or b.uniform) and op.name in _KINDS
    return Value(dims if scaled else unmarked(dims), uniform=a.uniform and b.uniform)


def _one_hot(dims: Dims, chosen: bool = False) -> Dims:
    """Axes of a comparison with 0, 1, 2, ...: one entry is 1, that of the other side, which may be what data chose."""
    marks = frozenset([ONE_HOT, CHOSEN] if chosen else [ONE_HOT])
    return tuple(relabel(dim, marks, frozenset([COUNTING])) if COUNTING in labels_of(dim) else dim for dim in dims)


def _with_constant(trace: Trace, op: Op, constant: Value, other: Value) -> Value:
    dims = join(other.dims, constant.dims)
    if op.name == "eq":
        return other._replace(dims=_one_hot(dims, other.chosen), chosen=False)
    named = op.name in _KINDS
    if not named:
        other = settle(trace, op, other)
    elif not (constant.uniform and _KINDS[op.name] is UseKind.MUL):
        dims = tuple(relabel(dim, remove=SPECIAL) for dim in dims)
    parts = tuple(part._replace(reparameterised=part.reparameterised or not named) for part in other.parts)
    return other._replace(dims=dims, parts=parts)


def _weights(trace: Trace, op: Op, a: Value, b: Value) -> Value:
    """Two values made of parameters only (unless one of them turned out to be looked up by data)."""
    if a.is_activation or b.is_activation:
        return binary(trace, op, (a, b))
    dims = join(a.dims, b.dims)
    kind = _KINDS.get(op.name, UseKind.OTHER)
    parts_a, parts_b = _without_statistics(a, b), _without_statistics(b, a)
    params_a, params_b = ({part.param for part in parts} for parts in (parts_a, parts_b))
    if params_a <= params_b or params_b <= params_a:
        parts = unite((*parts_a, *parts_b))
        return Value(dims, parts=tuple(part._replace(reparameterised=True) for part in parts))
    # of a sum a parameter's axis of one entry counts, too: what lacks it is added to something larger
    least = 1 if kind is UseKind.ADD else 2
    covered_a, covered_b = covered(a, params_a, least), covered(b, params_b, least)
    if kind is UseKind.ADD:
        everything = covered_a | covered_b
        # a vector has no two factors: what is added to a product that is one is not all of it
        of_product = len(everything) < 2 and any(part.made is Made.PRODUCT for part in (*parts_a, *parts_b))
        parts_a = parts_a if covered_a == everything and not of_product else _demoted(parts_a, Made.ADDEND)
        parts_b = parts_b if covered_b == everything and not of_product else _demoted(parts_b, Made.ADDEND)
    elif kind is UseKind.MUL and covered_b < covered_a:
        parts_b = _demoted(parts_b, Made.FACTOR)
    elif kind is UseKind.MUL and covered_a < covered_b:
        parts_a = _demoted(parts_a, Made.FACTOR)
    elif kind is UseKind.MUL:
        parts_a, parts_b = _demoted(parts_a, Made.COFACTOR), _demoted(parts_b, Made.COFACTOR)
    else:
        parts_a, parts_b = (_demoted(parts, Made.OTHERWISE, f"operand of {op.name}") for parts in (parts_a, parts_b))
    return Value(dims, parts=unite((*parts_a, *parts_b)))


def _without_statistics(weight: Value, other: Value) -> tuple[Part, ...]:
    """The parts of a weight, but for those that the other has more of: a norm to divide it by is no use of it."""

    def covers_less(param: int) -> bool:
        return covered(weight, {param}) < covered(other, {param})

    kept = tuple(part for part in weight.parts if part.made is not Made.STATISTIC and not covers_less(part.param))
    own = {part.param for part in other.parts}
    return kept + tuple(part for part in weight.parts if part not in kept and part.param not in own)


def _demoted(parts: tuple[Part, ...], made: Made, reason: str = "") -> tuple[Part, ...]:
    # what is a factor of a scale is a factor of what is scaled
    lesser = (Made.WHOLE, Made.COFACTOR) if made is Made.FACTOR else (Made.WHOLE,)
    return tuple(part._replace(made=made, reason=reason) if part.made in lesser else part for part in parts)


def _meet(trace: Trace, op: Op, a: Value, b: Value) -> Value:
    """A weight meets an activation."""
    weight, activation = (a, b) if a.is_weight else (b, a)
    kind = _KINDS.get(op.name, UseKind.OTHER)
    if kind is UseKind.MUL and all(size_of(dim) == 1 for dim in activation.dims) and _is_large(weight):
        # divided by its spectral norm, which was computed with the state of a power iteration
        trace.statistics.add((op.ins[b is activation], op.outs[0]))
        parts = tuple(part._replace(reparameterised=True) for part in weight.parts)
        return weight._replace(parts=parts, deep=activation.deep, dims=join(weight.dims, activation.dims))
    if kind is UseKind.MUL and not weight.data and is_scaled_by_task(trace, weight, activation):
        return weight
    if not weight.data and (
        (activation.noise and is_drawn_for(weight, activation)) or is_masked(trace, op, weight, activation)
    ):
        return _with_constant(trace, op, activation, weight)
    if kind is UseKind.ADD and is_step(trace, op, weight, activation):
        return stepped(weight, activation)
    if weight.data:
        settle(trace, op, weight)
        return Value(unmarked(join(a.dims, b.dims)), data=True, deep=True)
    first = len(trace.uses)
    for part in weight.parts:
        axes = tuple(alignment(weight, part, activation))
        trace.use(op, weight, part, *_kind_of(op, kind, axes), deep=activation.deep)
        if len({axis.axis for axis in axes if axis.size > 1}) == 1:
            trace.note((label for axis in axes for label in axis.labels), Clue.BIASED)
    if kind is UseKind.MUL:
        for part in weight.parts:
            met = (axis for axis in alignment(weight, part, activation) if axis.role is Axis.ALIGNED)
            trace.note((label for axis in met for label in axis.labels if label.param != part.param), Clue.SCALED)
        trace.products[op.outs[0]] = range(first, len(trace.uses))
    return Value(
        _labelled(activation.dims, weight.dims, modulated=kind is UseKind.MUL and is_modulated(weight, activation)),
        data=True,
        deep=activation.deep,
    )


def _is_large(weight: Value) -> bool:
    return any(size_of(dim) > 1 for dim in weight.dims)


def _kind_of(op: Op, kind: UseKind, axes: Sequence[AxisUse]) -> tuple[UseKind, Sequence[AxisUse], str]:
    """What a use is, its axes, and why it is none that has a name."""
    if op.name == "sub" and len({axis.axis for axis in axes}) > 1 and any(axis.role is Axis.EXPANDED for axis in axes):
        # as radial-basis centres and codebooks are: every row is compared with every sample
        return UseKind.OTHER, axes, "a difference to every row"
    return kind, axes, f"operand of {op.name}" if kind is UseKind.OTHER else ""


def _labelled(activation: Dims, weight: Dims, modulated: bool) -> Dims:
    """Axes of the result: a parameter names those of the data that nothing has named yet, or all of its own."""
    if not activation:
        return weight
    return tuple(
        a
        if not modulated and labels_of(a) - SPECIAL and size_of(a) >= size_of(w)
        else join_dim(relabel(a, remove=SPECIAL), w)
        for a, w in zip(activation, weight or activation, strict=True)
    )


def select(trace: Trace, op: Op, ins: tuple[Value, ...]) -> Value:
    """`where` and `cond`: the result holds entries of all cases."""
    predicate, *cases = ins
    if any(v.is_activation for v in cases):
        activation = next(v for v in cases if v.is_activation)
        for value in cases:
            if value.is_weight:
                record_content(trace, op, value, activation)
    dims = cases[0].dims
    for value in cases[1:]:
        dims = join(dims, value.dims)
    if not all(v.is_constant for v in cases):
        return combine(cases, dims)
    dims = tuple(map(join_dim, dims, predicate.dims)) if predicate.dims else dims
    data = predicate.data or any(v.data for v in cases)
    uniform = predicate.uniform and all(v.uniform for v in cases)
    return Value(dims, data=data, uniform=uniform and not data, deep=predicate.deep)
