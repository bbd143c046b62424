"""Rules of the primitives that move entries around, or work entry by entry."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from modula_optax._jaxpr import Op, Slope
from modula_optax._lipschitz._linear import without
from modula_optax._lipschitz._states import (
    Bound,
    Fixed,
    Known,
    NoRuleError,
    State,
    alike,
    common,
    euclidean,
    length,
    over,
    product,
    scaled,
    times,
)
from modula_optax._lipschitz._view import View

Proof = Callable[[View, Op, Sequence[State]], "State | tuple[State, ...]"]


def keep(view: View, op: Op, ins: Sequence[State]) -> tuple[State, ...]:
    """Casts, copies, signs, absolute values: no norm changes; of `tie`, the last operand counts."""
    return tuple(ins[-len(op.outs) :])


def transpose(view: View, op: Op, ins: Sequence[State]) -> Bound:
    where = {axis: i for i, axis in enumerate(op.params["permutation"])}
    return _renamed(ins[0], where)


def broadcast_in_dim(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """Copies: the largest of them is what each is, so that new axes are no features."""
    before, after = view.shape(op.ins[0]), view.shape(op.outs[0])
    dimensions = enumerate(op.params["broadcast_dimensions"])
    return _renamed(ins[0], {i: axis for i, axis in dimensions if before[i] == after[axis]})


def _renamed(bound: Bound, where: dict[int, int]) -> Bound:
    features, summed = (
        frozenset(where[axis] for axis in axes if axis in where) for axes in (bound.features, bound.summed)
    )
    return Bound(features, bound.size, bound.lipschitz, summed)


def squeeze(view: View, op: Op, ins: Sequence[State]) -> Bound:
    n = len(view.shape(op.ins[0]))
    gone = frozenset(axis % n for axis in op.params["dimensions"])
    bound = ins[0]
    return Bound(without(gone, bound.features), bound.size, bound.lipschitz, without(gone, bound.summed))


def reshape(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """Axes that are merged or split with a feature become features."""
    before, after = view.shape(op.ins[0]), view.shape(op.outs[0])
    if op.params.get("dimensions") is not None or 0 in before:
        raise NoRuleError("reorders what it reshapes")
    groups = _groups(before, after)
    where = {left[0]: right[0] for left, right in groups if len(left) == len(right) == 1}
    bound = ins[0] if ins[0].summed <= where.keys() else euclidean(ins[0])
    summed, bound = frozenset(where[axis] for axis in bound.summed), dataclasses.replace(bound, summed=frozenset())
    for left, right in groups:
        if bound.features & set(left) and right:
            bound = over(bound, bound.features | set(left), before)
    features = frozenset(axis for left, right in groups if bound.features & set(left) for axis in right)
    return Bound(features, bound.size, bound.lipschitz, summed)


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes with the same number of entries before and after; axes of size 1 are left out."""
    left, right = ([axis for axis, size in enumerate(shape) if size > 1] for shape in (before, after))
    groups = []
    while left:
        ours, theirs = [left.pop(0)], [right.pop(0)]
        while (n := math.prod(before[i] for i in ours)) != (m := math.prod(after[i] for i in theirs)):
            (ours if n < m else theirs).append((left if n < m else right).pop(0))
        groups.append((ours, theirs))
    return groups


def subset(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """Some of the entries; those of a dynamic slice start where constants or integers of the input say."""
    if any(not isinstance(state, Fixed | Known) for state in ins[1:]):
        raise NoRuleError("takes entries at places that depend on activations")
    return euclidean(ins[0])


def gather(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """Slices of activations: an axis that is indexed is no feature any more."""
    if not isinstance(ins[0], Bound) or not isinstance(ins[1], Fixed | Known):
        raise NoRuleError("takes entries at places that depend on activations")
    numbers, bound = op.params["dimension_numbers"], euclidean(ins[0])
    batching = tuple(getattr(numbers, "operand_batching_dims", ()))
    kept = [i for i in range(len(view.shape(op.ins[0]))) if i not in (*numbers.collapsed_slice_dims, *batching)]
    features = frozenset(out for axis, out in zip(kept, numbers.offset_dims, strict=True) if axis in bound.features)
    return Bound(features, bound.size, bound.lipschitz)


def split(view: View, op: Op, ins: Sequence[State]) -> tuple[Bound, ...]:
    return (euclidean(ins[0]),) * len(op.outs)


def concatenate(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """Along a feature squares add up; along any other axis the largest counts."""
    bounds = common(ins, map(view.shape, op.ins))
    return _squares_add_up(bounds) if op.params["dimension"] in bounds[0].features else _largest(bounds)


def _largest(bounds: Sequence[Bound]) -> Bound:
    return Bound(bounds[0].features, max(b.size for b in bounds), max(b.lipschitz for b in bounds))


def _squares_add_up(bounds: Sequence[Bound]) -> Bound:
    return Bound(bounds[0].features, math.hypot(*(b.size for b in bounds)), math.hypot(*(b.lipschitz for b in bounds)))


def pad(view: View, op: Op, ins: Sequence[State]) -> Bound:
    bound = euclidean(ins[0])
    if not isinstance(ins[1], Known):
        raise NoRuleError("pads with an activation")
    border = length(np.broadcast_to(np.asarray(ins[1], np.float64), view.shape(op.outs[0])), bound.features)
    return Bound(bound.features, math.hypot(bound.size, border), bound.lipschitz)


def entries_of_several(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """Each entry comes from one of the operands, or lies between them: squares add up, at most."""
    return _squares_add_up(alike(ins, view.shape(op.outs[0])))


def select(view: View, op: Op, ins: Sequence[State]) -> State:
    which, *cases = ins
    if isinstance(which, Known) and which.ndim == 0:
        return cases[int(which)]
    if not isinstance(which, Fixed | Known):
        raise NoRuleError("selects by activations, and may jump")
    if not view.is_real(op.outs[0]):
        return Fixed()
    moving = [case for case in cases if isinstance(case, Bound)]
    if len(moving) == 1 and not any(np.any(np.asarray(case)) for case in cases if isinstance(case, Known)):
        # entries become 0, as under a mask: no norm grows
        return moving[0]
    return _squares_add_up(alike(cases, view.shape(op.outs[0])))


def updated(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """One array written into another, at a place that the input does not change."""
    if any(not isinstance(state, Fixed | Known) for state in ins[2:]):
        raise NoRuleError("writes to places that depend on activations")
    return _squares_add_up(common(ins[:2], map(view.shape, op.ins[:2])))


def add(view: View, op: Op, ins: Sequence[State]) -> Bound:
    a, b = alike(ins, view.shape(op.outs[0]))
    return Bound(a.features, a.size + b.size, a.lipschitz + b.lipschitz)


def multiply(view: View, op: Op, ins: Sequence[State]) -> State:
    for factor, other in ((ins[0], ins[1]), (ins[1], ins[0])):
        if isinstance(factor, Known):
            return scaled(other, float(np.max(np.abs(np.asarray(factor, np.float64)), initial=0.0)))
    a, b = euclidean(ins[0]), euclidean(ins[1])
    if not (a.features <= b.features or b.features <= a.features):
        a, b = alike((a, b), view.shape(op.outs[0]))
    return product(a, b, a.features | b.features)


def divide(view: View, op: Op, ins: Sequence[State]) -> Bound:
    if not isinstance(ins[1], Known):
        raise NoRuleError("divides by an activation that is not proven to be a length plus an epsilon")
    smallest = float(np.min(np.abs(np.asarray(ins[1], np.float64)), initial=math.inf))
    if smallest == 0:
        raise NoRuleError("divides by zero")
    return scaled(ins[0], 1 / smallest)


def integer_power(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """Powers of what is bounded."""
    bound, power = euclidean(ins[0]), op.params.get("y", 2)
    if power < 1:
        raise NoRuleError("is a power that is not Lipschitz near zero")
    result = bound
    for _ in range(power - 1):
        result = product(result, bound, bound.features)
    return result


def entrywise(slope: Slope) -> Proof:
    """The proof for functions that work entry by entry."""
    return lambda view, op, ins: sloped(euclidean(ins[0]), slope, view.shape(op.outs[0]))


def sloped(bound: Bound, slope: Slope, shape: Sequence[int]) -> Bound:
    """The bound after a function that works entry by entry."""
    root = math.sqrt(math.prod(shape[axis] for axis in bound.features))
    size = min(times(slope.largest, bound.size) + root * slope.at_zero, root * slope.bound)
    return Bound(bound.features, size, times(slope.largest, bound.lipschitz))


def scan_slice(view: View, op: Op, ins: Sequence[State]) -> State:
    """What an iteration sees of an array that a scan runs over."""
    bound = euclidean(ins[0])
    return Bound(without(frozenset([0]), bound.features), bound.size, bound.lipschitz)


def of_iterations(states: Sequence[State], shape: Sequence[int]) -> State:
    """What the iterations of a scan leave behind, as one array; `shape` is that of one of them."""
    if all(isinstance(state, Known) for state in states):
        return np.stack(states)
    bound = _largest(alike(states, shape))
    return dataclasses.replace(bound, features=frozenset(axis + 1 for axis in bound.features))
