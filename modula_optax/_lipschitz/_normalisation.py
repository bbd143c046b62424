"""Softmax and normalisation by a length: divisions that are Lipschitz although their divisor moves."""

import math
from typing import NamedTuple

import numpy as np

from modula_optax._jaxpr import Op, softmax_of
from modula_optax._lipschitz._states import Bound, NoRuleError, State, over, scaled
from modula_optax._lipschitz._view import View


def softmax(view: View, op: Op) -> State | None:
    """The bound on a softmax, from the largest change of a score to the sum of changes of probabilities: it is 1.

    The Jacobian is diag(p) - p pᵀ; of a score that moves by e, within [-1, 1], it makes the mean deviation of e from
    its mean under p, which is at most the standard deviation, and that at most 1.
    """
    found = softmax_of(op, view.producer, view.unbroadcast)
    if found is None or not view.is_constant_along(op.ins[1], found.axes):
        return None
    scores = view.bound(_unshifted(view, found.scores, found.axes))
    if scores is None or not _faces(view.shape(op.ins[1]), view.shape(op.ins[0]), found.axes):
        return None
    return Bound(frozenset(), 1.0, scores.lipschitz, summed=frozenset(found.axes))


def _unshifted(view: View, position: int, axes: tuple[int, ...]) -> int:
    """Scores before something was subtracted from all of them, which a softmax does not see."""
    op = view.producer(position)
    shifted = op is not None and op.name == "sub" and view.is_constant_along(op.ins[1], axes)
    return op.ins[0] if op is not None and shifted else view.origin(position)


class _Vector(NamedTuple):
    """An array, minus its mean over axes if these are given."""

    position: int
    mean_over: tuple[int, ...] | None = None


class _Squares(NamedTuple):
    """coefficient * (sum of squares of a vector over axes) + epsilon; and what its inverse root is multiplied by."""

    vector: _Vector
    axes: tuple[int, ...]
    coefficient: float = 1.0
    epsilon: float = 0.0
    gain: float = 1.0


def normalised(view: View, op: Op) -> State | None:
    r"""The bound on x / sqrt(c |x|² + ε): the constant is 1/sqrt(ε), and the result no longer than 1/sqrt(c).

    The Jacobian is :math:`(1 - c x x^\top / r^2) / r` with r the square root, between 0 and 1/r. To subtract the mean
    is an orthogonal projection, which lengthens nothing; a gain counts by its largest entry.
    """
    if op.name not in ("mul", "div"):
        return None
    for vector, divisor in (op.ins, op.ins[::-1]) if op.name == "mul" else (op.ins,):
        squares = _inverse_root(view, divisor) if op.name == "mul" else _root(view, divisor)
        if squares is None:
            continue
        x = _vector(view, vector)
        if x != squares.vector or x.mean_over not in (None, squares.axes) or not _fits(view, squares, divisor):
            continue
        bound = view.bound(x.position)
        if bound is None:
            continue
        if squares.epsilon <= 0:
            raise NoRuleError("normalises by a length that can be zero; it is Lipschitz only with an epsilon inside")
        shape, largest = view.shape(x.position), squares.gain / math.sqrt(squares.coefficient)
        bound = scaled(over(bound, squares.axes, shape), squares.gain / math.sqrt(squares.epsilon))
        return Bound(bound.features, min(bound.size, largest), bound.lipschitz)
    return None


def _fits(view: View, squares: _Squares, divisor: int) -> bool:
    """Whether each vector is divided by a length of its own."""
    faces = _faces(view.shape(divisor), view.shape(squares.vector.position), squares.axes)
    return faces and _repeats_along(view, divisor, squares.axes)


def _faces(one: tuple[int, ...], many: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Whether an array has one entry for each vector of another along axes, or copies of it.

    Repeated or not, the order of its other axes is that of the array it was computed from.
    """
    return len(one) == len(many) and all(
        n == m or (n == 1 and axis in axes) for axis, (n, m) in enumerate(zip(one, many, strict=True))
    )


def _repeats_along(view: View, position: int, axes: tuple[int, ...]) -> bool:
    """Whether a divisor is constant along axes, but for a gain that is a constant."""
    op = view.producers.get(position)
    if op is not None and op.name == "mul" and any(view.known(i) is not None for i in op.ins):
        return all(view.known(i) is not None or _repeats_along(view, i, axes) for i in op.ins)
    if op is not None and op.name == "broadcast_in_dim" and view.shape(op.ins[0]) == view.shape(position):
        return _repeats_along(view, op.ins[0], axes)
    return view.is_constant_along(position, axes)


def _inverse_root(view: View, position: int) -> _Squares | None:
    """The squares of gain / sqrt(squares)."""
    op = view.unbroadcast(position)
    if op is None or op.name not in ("rsqrt", "mul", "div"):
        return None
    if op.name == "rsqrt":
        return _squares(view, op.ins[0])
    left, right = op.ins
    if op.name == "mul" and view.known(left) is None:
        left, right = right, left
    gain = view.known(left)
    found = _root(view, right) if op.name == "div" else _inverse_root(view, right)
    return None if gain is None or found is None else found._replace(gain=found.gain * _largest(gain))


def _root(view: View, position: int) -> _Squares | None:
    """The squares of sqrt(squares)."""
    op = view.unbroadcast(position)
    return _squares(view, op.ins[0]) if op is not None and op.name == "sqrt" else None


def _squares(view: View, position: int) -> _Squares | None:
    op = view.unbroadcast(position)
    if op is None:
        return None
    if op.name == "reduce_sum":
        vector = _squared(view, op.ins[0])
        return None if vector is None else _Squares(vector, tuple(op.params["axes"]))
    if op.name == "sub":
        return _variance(view, op)
    constant = next((view.known(i) for i in op.ins if view.known(i) is not None), None)
    moving = [i for i in op.ins if view.known(i) is None]
    if constant is None or len(moving) != 1 or np.size(constant) == 0:
        return None
    inner, smallest = _squares(view, moving[0]), float(np.min(constant))
    if inner is None or smallest < 0 or smallest != float(np.max(constant)):
        return None
    match op.name:
        case "add":
            return inner._replace(epsilon=inner.epsilon + smallest)
        case "max" if smallest == 0:
            return inner
        case "mul" if smallest > 0:
            return _times(inner, smallest)
        case "div" if smallest > 0 and op.ins[0] == moving[0]:
            return _times(inner, 1 / smallest)
        case _:
            return None


def _times(squares: _Squares, factor: float) -> _Squares:
    return squares._replace(coefficient=squares.coefficient * factor, epsilon=squares.epsilon * factor)


def _variance(view: View, op: Op) -> _Squares | None:
    """Mean of squares minus square of the mean."""
    mean_of_squares, square = _squares(view, op.ins[0]), _squared(view, op.ins[1])
    if mean_of_squares is None or square is None or square.mean_over is not None:
        return None
    mean, (x, centred) = _mean(view, square.position), mean_of_squares.vector
    if mean is None or centred is not None or mean != (x, mean_of_squares.axes) or mean_of_squares.epsilon:
        return None
    n = math.prod(view.shape(x)[axis] for axis in mean_of_squares.axes)
    if not math.isclose(mean_of_squares.coefficient * n, 1.0, rel_tol=1e-6):
        return None
    return mean_of_squares._replace(vector=_Vector(x, mean_of_squares.axes))


def _squared(view: View, position: int) -> _Vector | None:
    op = view.producer(position)
    if op is None:
        return None
    if op.name == "square" or (op.name == "integer_pow" and op.params["y"] == 2):
        inner = view.producer(op.ins[0])
        return _vector(view, inner.ins[0] if inner is not None and inner.name == "abs" else op.ins[0])
    if op.name == "mul" and view.origin(op.ins[0]) == view.origin(op.ins[1]):
        return _vector(view, op.ins[0])
    return None


def _vector(view: View, position: int) -> _Vector:
    op = view.producer(position)
    if op is not None and op.name == "sub":
        mean = _mean(view, op.ins[1])
        if mean is not None and mean[0] == view.origin(op.ins[0]) and view.is_constant_along(op.ins[1], mean[1]):
            return _Vector(*mean)
    return _Vector(view.origin(position))


def _mean(view: View, position: int) -> tuple[int, tuple[int, ...]] | None:
    """What a value is the mean of, and over which axes."""
    op = view.unbroadcast(position)
    if op is None or op.name != "div":
        return None
    divisor, total = view.known(op.ins[1]), view.unbroadcast(op.ins[0])
    if divisor is None or total is None or total.name != "reduce_sum":
        return None
    shape, axes = view.shape(total.ins[0]), tuple(total.params["axes"])
    if not np.all(divisor == math.prod(shape[axis] for axis in axes)):
        return None
    return view.origin(total.ins[0]), axes


def _largest(x: np.ndarray) -> float:
    return float(np.max(np.abs(np.asarray(x, np.float64)), initial=0.0))
