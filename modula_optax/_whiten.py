"""Whitened momentum: the average of gradients in coordinates in which recent gradients are isotropic."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, DTypeLike, Float, Int

from modula_optax._align import Leaf, atoms, is_abstract, restored
from modula_optax._arguments import check_specs
from modula_optax._checks import as_count, is_traced
from modula_optax._guard import guarded
from modula_optax._linalg import length, matmul, one_where_zero, working_dtype
from modula_optax._match import matching
from modula_optax._mesh import automatic, batched_over, free_axes, shardings_of, unclaimed, varying_alike
from modula_optax._momentum import MomentumState, scale_by_momentum
from modula_optax._norms import Frobenius, Spectral, SpectralNormalized
from modula_optax._orthonormal import eigenbasis, orthogonal_iteration
from modula_optax._paths import is_absent
from modula_optax._specs import NormSpec
from modula_optax._stacks import apply_alike

Matrices = Float[Array, "n rows columns"]
PerMatrix = Float[Array, " n"]


class Side(NamedTuple):
    """The second moment of the gradients along one side of every matrix, and the basis that follows it."""

    moment: Float[Array, "n k k"]
    basis: Float[Array, "n k k"]


class Metric(NamedTuple):
    """What is known of the gradients of all matrices of one shape, whatever parameters they belong to.

    Moments and squares are in units of `scale` squared: 1e-25 squared is 0 in float32.
    """

    scale: Float[Array, " n"]
    left: Side | None
    right: Side | None
    squares: Matrices


class WhitenedState(NamedTuple):
    """The momentum, as `scale_by_momentum` keeps it, and a `Metric` for every shape of matrices."""

    momentum: MomentumState
    metrics: Any


def scale_by_whitened_momentum(
    specs: Any,
    b1: jax.typing.ArrayLike = 0.9,
    *,
    nesterov: bool = True,
    b2: jax.typing.ArrayLike = 0.9,
    every: int = 10,
    max_size: int = 2048,
    eps: jax.typing.ArrayLike = 1e-5,
    accumulator_dtype: DTypeLike | None = None,
    mesh_axes: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum in a metric that is learned from the gradients, for every matrix: what SOAP does, before a dual map.

    .. math:: L \leftarrow \beta_2 L + (1 - \beta_2) \, G G^\top, \quad
      R \leftarrow \beta_2 R + (1 - \beta_2) \, G^\top G
    .. math:: P \leftarrow \text{qr}(L P), \quad Q \leftarrow \text{qr}(R Q) \quad \text{every } k \text{ steps}
    .. math:: M' = P^\top M Q, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) \, M'^2, \qquad
      u = P \, \frac{M'}{\sqrt v} \, Q^\top

    with :math:`M` what `scale_by_momentum` gives, and :math:`u` rescaled to the Frobenius length of :math:`M`. In place
    of `scale_by_momentum`: `dualize` after it is steepest descent under the norm of the whitened space. The first bases
    are eigenvectors, after k steps; until then momentum passes as it is. It passes always where a norm does not take a
    matrix as an operator (`Embedding`, `RowL2`, `Sign`, `RMS`, `Diagonal`, `Unnormed`): those of `Spectral`,
    `SpectralNormalized` and `Frobenius` are whitened, each head, tap, group, expert and stacked layer by itself.

    What is kept, in numbers of 32 bits for a matrix of m by n:

    ======================= ============================ =================
    of                      numbers                      768 x 768, 3072
    ======================= ============================ =================
    AdamW                   2mn                          1.2 M, 4.7 M
    Muon                    mn                           0.6 M, 2.4 M
    both sides              2mn + 2m² + 2n²              3.5 M, 24.8 M
    one side (of m)         2mn + 2m²                    2.4 M, 5.9 M
    ======================= ============================ =================

    Args:
      specs: what the norm of each parameter is; see `dualize`.
      b1: decay of the momentum.
      nesterov: whether it looks ahead.
      b2: decay :math:`\beta_2` of what is learned of the gradients.
      every: steps k from one pair of bases to the next; it may be traced.
      max_size: the largest side that is given a basis. Of a matrix with a larger one only the other is rotated, and one
        with two of them is divided entry by entry.
      eps: added to the root of v, relative to its Frobenius length.
      accumulator_dtype: dtype of the momentum; `None`: that of the parameters. All else is kept in float32, or in
        float64 for parameters in float64.
      mesh_axes: axes of the mesh in force to share out the matrices over, as `dualize` does. The metric of a matrix
        stays on the device that works on it, where the devices divide the number of matrices of its shape.

    Returns:
      A transformation whose state is a `WhitenedState`.

    Raises:
      ValueError: specs do not fit the parameters; `every` or `max_size` is not an integer of at least 1.

    Example:
      >>> tx = scale_by_whitened_momentum(NormSpec(Spectral()), every=1, nesterov=False)
      >>> grads = {"w": jnp.diag(jnp.array([5.0, 0.1]))}
      >>> tx.update(grads, tx.init(grads))[0]["w"].round(2)
      Array([[3.54, 0.  ],
             [0.  , 3.54]], dtype=float32)

    References:
      Vyas et al., SOAP, arXiv:2409.11321; Zhang et al., Mousse, arXiv:2603.09697.
    """
    every = every if is_traced(every) else as_count("every", every)
    max_size = max_size if is_traced(max_size) else as_count("max_size", max_size)
    check_specs(specs, "mo.scale_by_whitened_momentum(specs)")
    match = matching(specs)
    momentum: Any = scale_by_momentum(b1, nesterov=nesterov, accumulator_dtype=accumulator_dtype)

    def init(params: optax.Params) -> WhitenedState:
        if is_absent(params):
            # Optax asks placeholders without leaves which parts of a state are like parameters: none of a metric
            return WhitenedState(momentum.init(params), jnp.zeros([]))
        if is_traced(max_size):
            raise ValueError(
                "max_size decides the shapes of the state: write optax.inject_hyperparams(mo.whitened, "
                'static_args="max_size").'
            )
        leaves = match(params).entries
        axes = free_axes(mesh_axes)
        metrics = {
            key: _first_metric([leaves[i] for i in members], max_size, axes) for key, members in _shapes(leaves).items()
        }
        # inside `shard_map` they vary over devices as what is learned of will
        arrays = [leaf.value for leaf in leaves if not (is_absent(leaf.value) or is_abstract(leaf.value))]
        return WhitenedState(momentum.init(params), varying_alike((metrics, arrays))[0] if arrays else metrics)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        del extra_args
        leaves, treedef = match(updates)
        shapes = _shapes(leaves)
        whitened = [i for members in shapes.values() for i in members]
        averaged, momentum_state = _averaged(momentum, leaves, treedef, set(whitened), state.momentum)
        flat = treedef.flatten_up_to(averaged)
        gradients, averages = {i: leaves[i].value for i in whitened}, {i: flat[i] for i in whitened}

        def whiten(gradients: Any, averages: Any, metrics: Any, *numbers: Array) -> tuple[Any, Any]:
            items = []
            for key, members in shapes.items():
                of_shape = [leaves[i].spec for i in members]
                # in the dtype of the metric, that of the parameters, whatever the gradients come in
                dtype = metrics[key].scale.dtype
                g, m = (_gathered(of_shape, [tree[i] for i in members], dtype) for tree in (gradients, averages))
                items.append((Work(m, metrics[key]), g, *(jnp.full(len(g), number) for number in numbers)))
            works = apply_alike(_whiten, items, axes=axes)
            parts = [
                part
                for members, work in zip(shapes.values(), works, strict=True)
                for part in _apart(work.average, [leaves[i] for i in members])
            ]
            return dict(zip(whitened, parts, strict=True)), dict(zip(shapes, (w.metric for w in works), strict=True))

        if not whitened:
            return averaged, WhitenedState(momentum_state, state.metrics)
        axes = unclaimed(free_axes(mesh_axes), leaves[whitened[0]].value)
        turn = _turn(jnp.asarray(momentum_state.count), jnp.asarray(every).astype(jnp.int32))
        numbers = (turn.astype(jnp.float32), jnp.asarray(b2, jnp.float32), jnp.asarray(eps, jnp.float32))
        like = shardings_of((averages, state.metrics))
        results, metrics = automatic(whiten, gradients, averages, state.metrics, *numbers, shardings=like)
        averaged = treedef.unflatten([results.get(i, u) for i, u in enumerate(flat)])
        return averaged, WhitenedState(momentum_state, metrics)

    return guarded(init, update)


def _averaged(
    momentum: Any, leaves: Sequence[Leaf], treedef: Any, precise: set[int], state: Any
) -> tuple[Any, MomentumState]:
    """Averages of the gradients, of these in the dtype of the computation: whitening would amplify their rounding."""

    def gradient(i: int, leaf: Leaf) -> Any:
        return leaf.value.astype(working_dtype(leaf.value.dtype)) if i in precise else leaf.value

    gradients = treedef.unflatten([gradient(i, leaf) for i, leaf in enumerate(leaves)])
    averaged, after = momentum.update(gradients, state)
    mu = jax.tree.map(lambda new, old: new.astype(old.dtype), after.mu, state.mu)
    return averaged, MomentumState(after.count, mu)


class Work(NamedTuple):
    """Averages of one shape, and what they are whitened with."""

    average: Matrices
    metric: Metric


# what a step does about bases, in the order of `_turn`
_BEFORE, _BETWEEN, _NEXT, _FIRST = range(4)


def _turn(count: Int[Array, ""], every: Int[Array, ""]) -> Int[Array, ""]:
    """What the step of this number does about bases."""
    return jnp.select(
        [count < every, count == every, count % every == 0],
        [jnp.int32(_BEFORE), jnp.int32(_FIRST), jnp.int32(_NEXT)],
        jnp.int32(_BETWEEN),
    )


def _shapes(leaves: Sequence[Leaf]) -> dict[str, list[int]]:
    """Numbers of the leaves that are whitened, by the shape of their matrices."""
    shapes = defaultdict(list)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf.spec.norm, Spectral | SpectralNormalized | Frobenius):
            item = _item(leaf)
            shapes[f"{item.shape[0]}x{item.shape[1]}"].append(i)
    return shapes


def _item(leaf: Leaf) -> jax.ShapeDtypeStruct:
    """One matrix of a parameter."""
    stack = jax.eval_shape(lambda x: atoms(x, leaf.spec), jax.ShapeDtypeStruct(leaf.value.shape, leaf.value.dtype))
    return jax.ShapeDtypeStruct(stack.shape[-2:], stack.dtype)


def _count(leaf: Leaf) -> int:
    """How many matrices a parameter is a stack of."""
    return math.prod(leaf.value.shape) // math.prod(_item(leaf).shape)


def _first_metric(leaves: Sequence[Leaf], max_size: int, axes: tuple[str, ...]) -> Metric:
    """That of the matrices of parameters of one shape, of which nothing is known."""
    items, count = list(map(_item, leaves)), sum(map(_count, leaves))
    shape, dtype = items[0].shape, max((item.dtype for item in items), key=lambda dtype: dtype.itemsize)

    def side(size: int) -> Side | None:
        if size > max_size:
            return None
        identity = jnp.eye(size, dtype=dtype)
        return Side(jnp.zeros((count, size, size), dtype), jnp.tile(identity, (count, 1, 1)))

    def first() -> Metric:
        left, right = map(side, shape)
        return Metric(jnp.zeros(count, dtype), left, right, jnp.zeros((count, *shape), dtype))

    return batched_over(axes, count, first)


def _gathered(specs: Sequence[NormSpec], arrays: Sequence[Array], dtype: DTypeLike) -> Matrices:
    """The matrices of several parameters as one stack."""

    def matrices(x: Array, spec: NormSpec) -> Matrices:
        stack = atoms(x, spec).astype(dtype)
        return stack.reshape(-1, *stack.shape[-2:])

    return jnp.concatenate(list(map(matrices, arrays, specs)))


def _apart(stack: Matrices, leaves: Sequence[Leaf]) -> list[Array]:
    """Inverse of `_gathered`."""
    ends = np.cumsum([_count(leaf) for leaf in leaves])
    starts = [0, *ends[:-1]]
    return [
        restored(stack[start:end, None], leaf.spec, leaf.value)
        for start, end, leaf in zip(starts, ends, leaves, strict=True)
    ]


def _whiten(work: Work, gradient: Matrices, turns: PerMatrix, b2: PerMatrix, eps: PerMatrix) -> Work:
    """One step of the metric, and the averages in it; the last three are one number, for each matrix again."""
    before, dtype = work.metric, gradient.dtype
    turn, b2, eps = jnp.max(turns).astype(jnp.int32), b2.astype(dtype), eps.astype(dtype)[:, None, None]
    # decays as the roots of moments do, so that these neither vanish nor overflow in units of it
    scale = jnp.maximum(jnp.sqrt(b2) * before.scale, jnp.max(jnp.abs(gradient), axis=(-2, -1)))
    units = one_where_zero(scale)
    kept = (b2 * (before.scale / units) ** 2)[:, None, None]
    added = (1 - b2)[:, None, None]
    g, m = gradient / units[:, None, None], work.average / units[:, None, None]
    left = _advanced(before.left, kept, added, g, turn)
    right = _advanced(before.right, kept, added, g.mT, turn)
    rotated = _rotated(m, left, right)
    squares = kept * before.squares + added * rotated**2
    begun = turn > _BEFORE
    # where nothing was seen, 0 over the smallest root is 0, and so is its derivative
    seen = (begun & (scale > 0.0))[:, None, None]
    roots = jnp.sqrt(jnp.where(seen, jnp.maximum(squares, jnp.finfo(dtype).tiny), jnp.ones_like(squares)))
    rotated = rotated / (roots + eps * length(roots, (-2, -1))[:, None, None])
    whitened = _rotated_back(rotated, left, right)
    size = length(work.average, (-2, -1)) / one_where_zero(length(whitened, (-2, -1)))
    metric = Metric(scale, left, right, jnp.where(begun, squares, before.squares))
    return Work(jnp.where(begun, size[:, None, None] * whitened, work.average), metric)


def _advanced(side: Side | None, kept: Array, added: Array, g: Matrices, turn: Array) -> Side | None:
    """The second moment with this gradient in it, and its basis where its turn has come."""
    if side is None:
        return None
    moment = kept * side.moment + added * matmul(g, g.mT)
    branches = [lambda a, p: p, lambda a, p: p, orthogonal_iteration, lambda a, p: eigenbasis(a)]
    return Side(moment, jax.lax.switch(turn, branches, moment, side.basis))


def _rotated(x: Matrices, left: Side | None, right: Side | None) -> Matrices:
    if left is not None:
        x = matmul(left.basis.mT, x)
    return x if right is None else matmul(x, right.basis)


def _rotated_back(x: Matrices, left: Side | None, right: Side | None) -> Matrices:
    if left is not None:
        x = matmul(left.basis, x)
    return x if right is None else matmul(x, right.basis.mT)
