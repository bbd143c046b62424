"""One step of a learned metric: second moments of gradients, bases that follow them, and averages measured there."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, Shaped

from modula_optax._gram_form import Multiplier
from modula_optax._linalg import (
    along_smaller_side,
    between,
    gram_along,
    gram_matrix,
    is_tall,
    length,
    matmul,
    one_where_zero,
    scale_of,
)
from modula_optax._momentum import Averaging, average
from modula_optax._norms import Norm
from modula_optax._orthonormal import eigenbasis, orthogonal_iteration

Matrices = Float[Array, "n rows columns"]
PerMatrix = Float[Array, " n"]
Basis = Float[Array, "n k k"]
# one number, and for a visit once more for each index of a stack
Number = jax.typing.ArrayLike


class Side(NamedTuple):
    """The second moment of the gradients along one side of every matrix, and its eigenvectors when it was last asked.

    Attributes:
      moment: mean of GGᵀ, or of GᵀG.
      basis: orthonormal columns that follow its eigenvectors.
      values: what the moment was along each of these, as the basis was taken; 0 before there is one.
    """

    moment: Float[Array, "n k k"]
    basis: Basis
    values: Float[Array, "n k"]


class Metric(NamedTuple):
    """What is known of the gradients of all matrices of one shape: their average, and the metric that it is put in.

    Moments and squares are in units of `scale` squared: 1e-25 squared is 0 in float32.
    """

    mu: Matrices
    scale: PerMatrix
    left: Side | None
    right: Side | None
    # of every entry in these bases, where entries are what is divided
    squares: Matrices | None


class Step(NamedTuple):
    """The numbers of one step."""

    turn: Number
    b2: Number
    # of roots of squares, and of eigenvalues
    eps: Number
    damping: Number
    averaging: Averaging


# what a step does about bases, in the order of `turn_of`
_BEFORE, _BETWEEN, _NEXT, _FIRST = range(4)


def turn_of(count: Int[Array, ""], every: Int[Array, ""]) -> Int[Array, ""]:
    """What the step of this number does about bases."""
    return jnp.select(
        [count < every, count == every, count % every == 0],
        [jnp.int32(_BEFORE), jnp.int32(_FIRST), jnp.int32(_NEXT)],
        jnp.int32(_BETWEEN),
    )


def first_metric(
    shape: tuple[int, ...], dtype: DTypeLike, mu_dtype: DTypeLike, max_size: int, by_entries: bool
) -> Metric:
    """That of a stack of this shape, of which nothing is known."""
    count, rows, columns = shape

    def side(size: int) -> Side | None:
        if size > max_size:
            return None
        identity = jnp.broadcast_to(jnp.eye(size, dtype=dtype), (count, size, size))
        return Side(jnp.zeros_like(identity), identity, jnp.zeros((count, size), dtype))

    # every array of zeros one of its own, also where dtypes are alike: no buffer can be donated twice
    squares = jnp.zeros(shape, dtype) if by_entries else None
    return Metric(jnp.zeros(shape, mu_dtype), jnp.zeros(count, dtype), side(rows), side(columns), squares)


class Learned(NamedTuple):
    """What a step knows once it has seen its gradients.

    Attributes:
      average: of the gradients.
      units: those of the metric, to divide by.
      kept: what the past counts in these units, from now on.
      metric: what is known now, but for squares of entries.
    """

    average: Matrices
    units: Float[Array, "n 1 1"]
    kept: Float[Array, "n 1 1"]
    metric: Metric


def learned(g: Matrices, before: Metric, numbers: Step) -> Learned:
    """The average and the moments with these gradients in them, and bases where their turn has come."""
    dtype, turn = g.dtype, jnp.max(numbers.turn)
    b2, averaging = jax.tree.map(_per_matrix, (jnp.asarray(numbers.b2, dtype), numbers.averaging))
    averaged, mu = average(averaging, g, before.mu)
    averaged = averaged.astype(dtype)
    # decays as the roots of moments do, so that these neither vanish nor overflow in units of it
    scale = jnp.maximum(jnp.sqrt(b2[:, 0, 0]) * before.scale, jnp.max(jnp.abs(g), axis=(-2, -1)))
    units = _per_matrix(one_where_zero(scale))
    kept = b2 * (_per_matrix(before.scale) / units) ** 2
    g = g / units
    left = _advanced(before.left, kept, 1 - b2, g, -2, turn)
    right = _advanced(before.right, kept, 1 - b2, g, -1, turn)
    return Learned(averaged, units, kept, Metric(mu, scale, left, right, before.squares))


def _per_matrix(x: Shaped[Array, " n"]) -> Shaped[Array, "n 1 1"]:
    return x[:, None, None]


def _advanced(side: Side | None, kept: Array, added: Array, g: Matrices, axis: int, turn: Array) -> Side | None:
    """The second moment along an axis with this gradient in it, and its basis where its turn has come."""
    if side is None:
        return None
    moment = kept * side.moment + added * gram_along(g, axis)

    def refreshed(basis: Basis) -> tuple[Basis, Array]:
        return basis, jnp.sum(basis * matmul(moment, basis), axis=-2)

    same = lambda: (side.basis, side.values)  # noqa: E731
    branches = [
        same,
        same,
        lambda: refreshed(orthogonal_iteration(moment, side.basis)),
        lambda: refreshed(eigenbasis(moment)),
    ]
    return Side(moment, *jax.lax.switch(turn, branches))


def whitened(g: Matrices, before: Metric, numbers: Step) -> tuple[Matrices, Metric]:
    """The average with its entries in these bases divided by their roots, of its own length; at first as it is."""
    average, units, kept, metric = learned(g, before, numbers)
    rotated = _rotated(metric, average / units)
    dtype, begun = g.dtype, jnp.max(numbers.turn) > _BEFORE
    b2, eps = (_per_matrix(jnp.asarray(x, dtype)) for x in (numbers.b2, numbers.eps))
    known = cast(Matrices, before.squares)
    squares = kept * known + (1 - b2) * rotated**2
    # where nothing was seen, 0 over the smallest root is 0, and so is its derivative
    seen = begun & _per_matrix(metric.scale > 0.0)
    roots = jnp.sqrt(jnp.where(seen, jnp.maximum(squares, jnp.finfo(dtype).tiny), jnp.ones_like(squares)))
    divided = rotated / (roots + eps * _per_matrix(length(roots, (-2, -1))))
    back = _rotated_back(metric, jnp.where(begun, divided, average))
    result = jnp.where(begun, _as_long_as(length(average, (-2, -1)), back), average)
    return result, metric._replace(squares=jnp.where(begun, squares, known))


def steepest(norm: Norm, g: Matrices, before: Metric, numbers: Step) -> tuple[Matrices, Metric]:
    """The steepest direction for the average where W has the norm of L^¼ W R^¼, as long as one without a metric."""
    average, _, _, metric = learned(g, before, numbers)
    damping = jnp.asarray(numbers.damping, g.dtype)
    rotated = _rotated(metric, average / scale_of(average, (-2, -1)))
    multiplier = norm.multiplier_for(g[:, None])
    smaller = metric.right if is_tall(g) else metric.left
    if multiplier is not None and smaller is not None:
        larger = metric._replace(right=None) if is_tall(g) else metric._replace(left=None)
        return _by_gram_matrices(multiplier, smaller, larger, rotated, damping), metric
    # of one tap
    direction = norm.dualize(_shrunk(metric, rotated, damping)[:, None])[:, 0]
    return _as_long_as(length(direction, (-2, -1)), _rotated_back(metric, _shrunk(metric, direction, damping))), metric


def _by_gram_matrices(multiplier: Multiplier, side: Side, larger: Metric, x: Matrices, damping: Array) -> Matrices:
    """The same where a dual map multiplies the smaller side by Q, say the left one: P D Q D X, with D the roots.

    The larger side takes part in one product here, not in two, and in no step from entry to entry.
    """
    roots = _roots(side, damping)
    both = roots[:, :, None] * roots[:, None, :]
    x = _shrunk(larger, x, damping)
    q, squares = (of_tap[:, 0] for of_tap in multiplier((both * gram_matrix(x))[:, None]))
    back = matmul(side.basis, both * q)
    # where X is zero so is every multiple
    size, reached = (jnp.sqrt(one_where_zero(jnp.sum(x, axis=-1))) for x in (squares, roots**2 * squares))
    if larger.left is larger.right is None:
        return along_smaller_side(_per_matrix(size / reached) * back, x)
    return _as_long_as(size, _rotated_back(larger, _shrunk(larger, along_smaller_side(back, x), damping)))


def _rotated(metric: Metric, x: Matrices) -> Matrices:
    left, right = metric.left, metric.right
    return between(None if left is None else left.basis.mT, x, None if right is None else right.basis)


def _shrunk(metric: Metric, x: Matrices, damping: Array) -> Matrices:
    """L^-¼ X R^-¼ in the bases of both, each moment in units of its mean: a side without a basis is left alone."""
    if metric.left is not None:
        x = _roots(metric.left, damping)[:, :, None] * x
    return x if metric.right is None else x * _roots(metric.right, damping)[:, None, :]


def _roots(side: Side, damping: Array) -> Float[Array, "n k"]:
    """The moment along each vector of the basis, to the power of -¼; all alike before there is one."""
    values = side.values / one_where_zero(jnp.mean(side.values, axis=-1, keepdims=True)) + damping[:, None]
    # what is below is rounding
    return jnp.maximum(values, float(jnp.finfo(values.dtype).eps)) ** -0.25


def _rotated_back(metric: Metric, x: Matrices) -> Matrices:
    left, right = metric.left, metric.right
    return between(None if left is None else left.basis, x, None if right is None else right.basis.mT)


def _as_long_as(size: PerMatrix, x: Matrices) -> Matrices:
    """The multiple that has this length."""
    return _per_matrix(size / one_where_zero(length(x, (-2, -1)))) * x
