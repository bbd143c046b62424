"""Whitened momentum: the average of gradients in coordinates in which recent gradients are isotropic."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, DTypeLike

from modula_optax._align import Leaves, is_abstract
from modula_optax._arguments import check_mesh_axes, check_numbers
from modula_optax._checks import AT_LEAST_0, DECAY, as_count_unless_traced, is_traced
from modula_optax._guard import UNLIKE_PARAMETERS, guarded
from modula_optax._match import matching
from modula_optax._mesh import automatic, free_axes, shardings_of, unclaimed, varying_alike, warn_of_idle_mesh
from modula_optax._metric import Step, turn_of
from modula_optax._momentum import MomentumState, averaging, scale_by_momentum
from modula_optax._norms import Norm
from modula_optax._paths import is_absent
from modula_optax._specs import NormSpec
from modula_optax._whitened_stacks import Group, grouped, start, visited


class WhitenedState(NamedTuple):
    """Momentum of what is not whitened, as `scale_by_momentum` keeps it, and a `Metric` for every shape of matrices.

    A metric is of all matrices of its shape, in the order of their parameters: `grouped` says of which.
    """

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

    The state has a `Metric` for every shape of matrices, with their momentum in it, under a name such as `768x3072`;
    what is not whitened has its momentum beside them. In numbers of 32 bits for a matrix of m by n:

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
      mesh_axes: axes of the mesh in force to share out the matrices over, as `dualize` does. Momentum and metric of a
        matrix stay on the device that works on it: a gradient travels there, and the result back. On a mesh the state
        has as many rows as fill the devices; one that was made on another mesh goes on, and travels.

    Returns:
      A transformation whose state is a `WhitenedState`.

    Raises:
      ValueError: specs do not fit the parameters; `every` or `max_size` is not an integer of at least 1, a decay is
        not in [0, 1), or `eps` is negative.

    Example:
      >>> tx = scale_by_whitened_momentum(NormSpec(Spectral()), every=1, nesterov=False)
      >>> grads = {"w": jnp.diag(jnp.array([5.0, 0.1]))}
      >>> tx.update(grads, tx.init(grads))[0]["w"].round(2)
      Array([[3.54, 0.  ],
             [0.  , 3.54]], dtype=float32)

    References:
      Vyas et al., SOAP, arXiv:2409.11321; Zhang et al., Mousse, arXiv:2603.09697.
    """
    return visiting(
        "scale_by_whitened_momentum",
        specs,
        lambda spec: None,
        b1=b1,
        nesterov=nesterov,
        b2=b2,
        every=every,
        max_size=max_size,
        eps=eps,
        accumulator_dtype=accumulator_dtype,
        mesh_axes=mesh_axes,
    )


def visiting(
    name: str,
    specs: Any,
    follows: Callable[[NormSpec], Norm | None],
    *,
    b1: jax.typing.ArrayLike,
    nesterov: bool,
    b2: jax.typing.ArrayLike,
    every: int,
    max_size: int,
    eps: jax.typing.ArrayLike = 1e-5,
    damping: jax.typing.ArrayLike = 0.0,
    accumulator_dtype: DTypeLike | None,
    mesh_axes: Sequence[str] | None,
) -> optax.GradientTransformationExtraArgs:
    """Whitened momentum, or the steepest direction of the norm that `follows` from a spec; `name` is the caller's."""
    every = as_count_unless_traced("every", every)
    max_size = as_count_unless_traced("max_size", max_size)
    check_numbers(name, DECAY, b1=b1, b2=b2)
    check_numbers(name, AT_LEAST_0, eps=eps, damping=damping)
    check_mesh_axes(mesh_axes)
    match = matching(specs, f"mo.{name}(specs)")
    momentum: Any = scale_by_momentum(b1, nesterov=nesterov, accumulator_dtype=accumulator_dtype)

    def init(params: optax.Params) -> WhitenedState:
        if is_absent(params):
            return WhitenedState(momentum.init(params), UNLIKE_PARAMETERS)
        if is_traced(max_size):
            raise ValueError(
                "max_size decides the shapes of the state: write optax.inject_hyperparams(mo.whitened, "
                'static_args="max_size").'
            )
        leaves = match(params)
        groups, axes = grouped(leaves.entries, follows), free_axes(mesh_axes)
        metrics = {name: start(group, accumulator_dtype, max_size, axes) for name, group in groups.items()}
        warn_of_idle_mesh(mesh_axes, _matrices(groups).values())
        # inside `shard_map` they vary over devices as what is learned of will
        arrays = [leaf.value for leaf in leaves.present if not is_abstract(leaf.value)]
        others = momentum.init(_others(leaves, groups))
        return WhitenedState(others, varying_alike((metrics, arrays))[0] if arrays else metrics)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        del params, extra_args
        leaves = match(updates)
        groups = grouped(leaves.entries, follows)
        others, after = momentum.update(_others(leaves, groups), state.momentum)
        if not groups:
            return others, WhitenedState(after, state.metrics)
        gradients = _matrices(groups)
        axes = unclaimed(free_axes(mesh_axes), next(iter(gradients.values())))

        def visit(gradients: dict[str, Array], metrics: Any, numbers: Step) -> tuple[dict[str, Array], Any]:
            return visited(groups, gradients, metrics, numbers, axes)

        count = jnp.asarray(after.count)
        turn = turn_of(count, jnp.asarray(every).astype(jnp.int32))
        numbers = jax.tree.map(jnp.asarray, Step(turn, b2, eps, damping, averaging(b1, nesterov, count)))
        like = shardings_of((gradients, state.metrics))
        pieces, metrics = automatic(visit, gradients, state.metrics, numbers, shardings=like)
        return leaves.rebuilt(leaves.by_path(others) | pieces), WhitenedState(after, metrics)

    return guarded(init, update)


def _matrices(groups: dict[str, Group]) -> dict[str, Any]:
    """What is whitened, by path."""
    return {leaf.path: leaf.value for group in groups.values() for leaf in group.members}


def _others(leaves: Leaves, groups: dict[str, Group]) -> Any:
    """The tree without what is whitened."""
    return leaves.rebuilt(dict.fromkeys(_matrices(groups), optax.MaskedNode()))
