"""One step of a learned metric: second moments of gradients, the bases that follow them, and averages divided there."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from modula_optax._linalg import between, length, matmul, one_where_zero
from modula_optax._momentum import Averaging, average
from modula_optax._orthonormal import eigenbasis, orthogonal_iteration

Matrices = Float[Array, "n rows columns"]
PerMatrix = Float[Array, " n"]
Basis = Float[Array, "n k k"]
# one number, and for a visit once more for each index of a stack
Number = jax.typing.ArrayLike


class Side(NamedTuple):
    """The second moment of the gradients along one side of every matrix, and the basis that follows it."""

    moment: Float[Array, "n k k"]
    basis: Float[Array, "n k k"]


class Metric(NamedTuple):
    """What is known of the gradients of all matrices of one shape: their average, and the metric that it is put in.

    Moments and squares are in units of `scale` squared: 1e-25 squared is 0 in float32.
    """

    mu: Matrices
    scale: PerMatrix
    left: Side | None
    right: Side | None
    squares: Matrices


class Step(NamedTuple):
    """The numbers of one step."""

    turn: Number
    b2: Number
    eps: Number
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


def first_metric(shape: tuple[int, ...], dtype: DTypeLike, mu_dtype: DTypeLike, max_size: int) -> Metric:
    """That of a stack of this shape, of which nothing is known."""
    count, rows, columns = shape

    def side(size: int) -> Side | None:
        if size > max_size:
            return None
        identity = jnp.broadcast_to(jnp.eye(size, dtype=dtype), (count, size, size))
        return Side(jnp.zeros_like(identity), identity)

    # two arrays of zeros, also of one dtype: no buffer can be donated twice
    mu, squares = jnp.zeros(shape, mu_dtype), jnp.zeros(shape, dtype)
    return Metric(mu, jnp.zeros(count, dtype), side(rows), side(columns), squares)


class Whitened(NamedTuple):
    """What a step gives.

    Attributes:
      average: of the gradients, as it is.
      coordinates: the same in the bases of both sides, in which recent gradients are isotropic; before there are any,
        as it is.
      metric: what is known now.
      begun: whether there are bases.
    """

    average: Matrices
    coordinates: Matrices
    metric: Metric
    begun: Bool[Array, ""]

    @property
    def bases(self) -> tuple[Basis | None, Basis | None]:
        """What takes coordinates back, from the left and from the right."""
        left, right = self.metric.left, self.metric.right
        return None if left is None else left.basis, None if right is None else right.basis.mT


def whitened(g: Matrices, before: Metric, numbers: Step) -> Whitened:
    """One step of the metric with these gradients, and their average in it."""
    dtype, turn = g.dtype, jnp.max(numbers.turn)
    b2, eps, averaging = jax.tree.map(lambda x: x[:, None, None], (numbers.b2, numbers.eps, numbers.averaging))
    b2, eps = b2.astype(dtype), eps.astype(dtype)
    averaged, mu = average(averaging, g, before.mu)
    averaged = averaged.astype(dtype)
    # decays as the roots of moments do, so that these neither vanish nor overflow in units of it
    scale = jnp.maximum(jnp.sqrt(b2[:, 0, 0]) * before.scale, jnp.max(jnp.abs(g), axis=(-2, -1)))
    units = one_where_zero(scale)
    kept, added = b2 * (before.scale / units)[:, None, None] ** 2, 1 - b2
    g, m = g / units[:, None, None], averaged / units[:, None, None]
    left = _advanced(before.left, kept, added, g, turn)
    right = _advanced(before.right, kept, added, g.mT, turn)
    rotated = between(None if left is None else left.basis.mT, m, None if right is None else right.basis)
    squares = kept * before.squares + added * rotated**2
    begun = turn > _BEFORE
    # where nothing was seen, 0 over the smallest root is 0, and so is its derivative
    seen = (begun & (scale > 0.0))[:, None, None]
    roots = jnp.sqrt(jnp.where(seen, jnp.maximum(squares, jnp.finfo(dtype).tiny), jnp.ones_like(squares)))
    divided = rotated / (roots + eps * length(roots, (-2, -1))[:, None, None])
    metric = Metric(mu, scale, left, right, jnp.where(begun, squares, before.squares))
    return Whitened(averaged, jnp.where(begun, divided, averaged), metric, begun)


def _advanced(side: Side | None, kept: Array, added: Array, g: Matrices, turn: Array) -> Side | None:
    """The second moment with this gradient in it, and its basis where its turn has come."""
    if side is None:
        return None
    moment = kept * side.moment + added * matmul(g, g.mT)
    branches = [lambda a, p: p, lambda a, p: p, orthogonal_iteration, lambda a, p: eigenbasis(a)]
    return Side(moment, jax.lax.switch(turn, branches, moment, side.basis))
