"""Contractions, convolutions and pooling: norms of what is linear, and of products of two activations."""

import math
from collections.abc import Sequence

import numpy as np

from modula_optax._jaxpr import Op
from modula_optax._lipschitz._states import Bound, Known, NoRuleError, State, euclidean, length, over, product, scaled
from modula_optax._lipschitz._view import View

_SQUARINGS = 20


def largest_singular_value(matrices: np.ndarray) -> float:
    """The largest of all matrices, never below the truth: Schatten norms of order 2^21, at most rank^(1/2^21) above it.

    Matrix products in double precision, whose rounding the roots take away; a decomposition takes longer.
    """
    x = np.asarray(matrices, np.float64)
    if not x.size:
        return 0.0
    if x.shape[-2] > x.shape[-1]:
        x = x.mT
    largest = np.maximum(np.max(np.abs(x), axis=(-2, -1), keepdims=True), np.finfo(np.float64).tiny)
    x, logarithm = x / largest, np.log(largest)
    x, root = x @ x.mT, 0.5
    for _ in range(_SQUARINGS):
        scale = np.sqrt(np.sum(x * x, axis=(-2, -1), keepdims=True))
        scale = np.where(scale == 0, 1.0, scale)
        logarithm = logarithm + root * np.log(scale)
        x = x / scale
        x, root = x @ x, root / 2
    last = np.sqrt(np.sum(x * x, axis=(-2, -1), keepdims=True))
    with np.errstate(divide="ignore"):
        return float(np.max(np.exp(logarithm + root * np.log(last)))) * (1 + 1e-12)


def dot_general(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """A matrix and an activation, or two activations."""
    operands = [_Operand(view, op, i) for i in (0, 1)]
    states = [state if isinstance(state, Bound) else None for state in ins]
    for weighted, (a, b) in ((0, operands), (1, operands[::-1])):
        bound = states[weighted]
        if bound is not None and bound.summed and bound.summed == frozenset(a.contracted) and not bound.features:
            # an average: entries of the one, summed over the contracted axes, times rows of the other
            other = states[1 - weighted] or Bound(b.all_free, length(np.asarray(ins[1 - weighted]), b.all_free), 0.0)
            rows = over(other, euclidean(other).features & b.all_free, b.shape)
            return product(bound, rows, b.in_output(rows.features))
    if states[0] is not None and states[1] is not None:
        a, b = (
            over(state, euclidean(state).features | frozenset(operand.contracted), operand.shape)
            for state, operand in zip(states, operands, strict=True)
            if state is not None
        )
        return product(a, b, frozenset())
    moving = 0 if states[0] is not None else 1
    return _matrix_product(operands[moving], operands[1 - moving], euclidean(ins[moving]), np.asarray(ins[1 - moving]))


class _Operand:
    """Axes of one operand of a contraction, and where they are in the output."""

    def __init__(self, view: View, op: Op, side: int):
        contracted, batch = op.params["dimension_numbers"]
        self.shape = view.shape(op.ins[side])
        self.contracted, self.batch = tuple(contracted[side]), tuple(batch[side])
        self.free = tuple(i for i in range(len(self.shape)) if i not in self.contracted + self.batch)
        n_left = len(view.shape(op.ins[0])) - len(contracted[0]) - len(batch[0])
        self.first = len(self.batch) + (0 if side == 0 else n_left)

    @property
    def all_free(self) -> frozenset[int]:
        return frozenset(self.free)

    def in_output(self, axes: frozenset[int]) -> frozenset[int]:
        batch = {i for i, axis in enumerate(self.batch) if axis in axes}
        return frozenset(batch | {self.first + i for i, axis in enumerate(self.free) if axis in axes})

    def matrices(self, w: np.ndarray) -> np.ndarray:
        """A weight as [batch, contracted, free]."""
        sizes = [math.prod(self.shape[i] for i in axes) for axes in (self.batch, self.contracted, self.free)]
        return w.transpose(self.batch + self.contracted + self.free).reshape(sizes)


def _matrix_product(x: _Operand, w: _Operand, bound: Bound, weight: np.ndarray) -> Bound:
    matrices, contracted = w.matrices(np.asarray(weight, np.float64)), frozenset(x.contracted)
    if not bound.features & contracted and math.prod(x.shape[axis] for axis in contracted) > 1:
        # mixes positions: every output is a combination of rows, each as large as the largest
        factor = float(np.max(np.sum(np.abs(matrices), axis=1), initial=0.0))
        result = scaled(bound, factor)
        return Bound(x.in_output(bound.features), result.size, result.lipschitz)
    bound = scaled(over(bound, bound.features | contracted, x.shape), largest_singular_value(matrices))
    made = frozenset(range(w.first, w.first + len(w.free)))
    return Bound(x.in_output(bound.features - contracted) | made, bound.size, bound.lipschitz)


def convolution(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """Each tap is a matrix, and moves entries to places of their own; or the patches are rows of one matrix."""
    bound, kernel = ins[0], ins[1]
    if not isinstance(bound, Bound) or not isinstance(kernel, Known):
        raise NoRuleError("convolves with a kernel that is not constant")
    if op.params["batch_group_count"] != 1:
        raise NoRuleError("has several batch groups")
    (batch, channel, *spatial), (out_axis, in_axis, *taps), (out_batch, out_channel, *out_spatial) = op.params[
        "dimension_numbers"
    ]
    shape, groups = view.shape(op.ins[0]), op.params["feature_group_count"]
    bound = over(bound, euclidean(bound).features | {channel}, shape)
    weight = np.asarray(kernel).transpose(*taps, in_axis, out_axis)
    sizes = weight.shape[: len(taps)]
    matrices = weight.reshape(-1, weight.shape[-2], groups, weight.shape[-1] // groups).transpose(2, 0, 1, 3)
    by_taps = max(sum(largest_singular_value(tap) for tap in group) for group in matrices)
    # how many patches an entry can be in, as far as lengths add up over places; else how many entries make a patch
    plain = all(n == 1 for n in (*op.params["lhs_dilation"], *op.params["rhs_dilation"]))
    steps = op.params["window_strides"] if plain else (1,) * len(sizes)
    repeats = math.prod(
        -(-size // step) if axis in bound.features else size
        for size, step, axis in zip(sizes, steps, spatial, strict=True)
    )
    by_patches = math.sqrt(repeats) * largest_singular_value(matrices.reshape(groups, -1, matrices.shape[-1]))
    places = dict(zip((batch, channel, *spatial), (out_batch, out_channel, *out_spatial), strict=True))
    bound = scaled(bound, min(by_taps, by_patches))
    return Bound(frozenset(places[axis] for axis in bound.features), bound.size, bound.lipschitz)


def pooled_sum(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """Sums over windows, axis by axis: sqrt(entries of a window * windows of an entry) between lengths."""
    bound, windows = _pooled(op, ins)
    factor = 1.0
    for axis, (size, step) in enumerate(windows):
        factor *= math.sqrt(size * -(-size // step)) if axis in bound.features else size
    return scaled(bound, factor)


def pooled_max(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """Largest of windows: an entry is in several of them, or entries of one vector come from several places."""
    bound, windows = _pooled(op, ins)
    pooled = {axis for axis, (size, _) in enumerate(windows) if size > 1}
    if pooled <= bound.features:
        return scaled(bound, math.sqrt(math.prod(-(-size // step) for size, step in windows)))
    bound = over(bound, bound.features - pooled, view.shape(op.ins[0]))
    return scaled(bound, _places(math.prod(size for size, _ in windows), bound, view.shape(op.ins[0])))


def reduced_max(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """Largest along axes; see `pooled_max`."""
    bound, shape, axes = euclidean(ins[0]), view.shape(op.ins[0]), frozenset(op.params["axes"])
    if any(shape[axis] > 1 for axis in axes - bound.features):
        bound = over(bound, bound.features - axes, shape)
        bound = scaled(bound, _places(math.prod(shape[axis] for axis in axes), bound, shape))
    return Bound(without(axes, bound.features), bound.size, bound.lipschitz)


def reduced_sum(view: View, op: Op, ins: Sequence[State]) -> Bound:
    """A sum of n entries is at most n times the largest of them, sqrt(n) times their length."""
    bound, shape, axes = euclidean(ins[0]), view.shape(op.ins[0]), frozenset(op.params["axes"])
    factor = math.prod(math.sqrt(shape[axis]) if axis in bound.features else shape[axis] for axis in axes)
    bound = scaled(bound, factor)
    return Bound(without(axes, bound.features), bound.size, bound.lipschitz)


def without(gone: frozenset[int], axes: frozenset[int]) -> frozenset[int]:
    """Axes as they are numbered once some are gone."""
    return frozenset(axis - sum(other < axis for other in gone) for axis in axes - gone)


def _places(window: int, bound: Bound, shape: Sequence[int]) -> float:
    """Entries of a vector that come from different places: as many as there are places, or entries."""
    return math.sqrt(min(window, math.prod(shape[axis] for axis in bound.features)))


def _pooled(op: Op, ins: Sequence[State]) -> tuple[Bound, list[tuple[int, int]]]:
    if any(n != 1 for n in (*op.params["base_dilation"], *op.params["window_dilation"])):
        raise NoRuleError("pools over dilated windows")
    return euclidean(ins[0]), list(zip(op.params["window_dimensions"], op.params["window_strides"], strict=True))
