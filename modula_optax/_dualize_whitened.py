"""The steepest direction in a metric that is learned from gradients: a dual map between its roots."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import optax
from jaxtyping import DTypeLike

from modula_optax._arguments import check_specs
from modula_optax._dualize import dualize
from modula_optax._match import by_structure
from modula_optax._norms import Norm, Unnormed
from modula_optax._registry import resolve_tree
from modula_optax._specs import NormSpec
from modula_optax._whiten import visiting
from modula_optax._whitened_stacks import takes_operators


def dualize_whitened(
    specs: Any,
    b1: jax.typing.ArrayLike = 0.9,
    *,
    nesterov: bool = True,
    b2: jax.typing.ArrayLike = 0.9,
    every: int = 10,
    max_size: int = 2048,
    damping: jax.typing.ArrayLike = 0.3,
    accumulator_dtype: DTypeLike | None = None,
    mesh_axes: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steepest directions for momentum, where matrices are measured in a metric that is learned from the gradients.

    .. math:: L \leftarrow \beta_2 L + (1 - \beta_2) \, G G^\top, \quad
      R \leftarrow \beta_2 R + (1 - \beta_2) \, G^\top G
    .. math:: u = L^{-1/4} \; \text{dualize}(L^{-1/4} M R^{-1/4}) \; R^{-1/4}

    with :math:`M` what `scale_by_momentum` gives: the dual map of the norm of :math:`L^{1/4} W R^{1/4}`, in which
    recent gradients are isotropic. The way back makes steps longer where gradients are small. Roots are taken of
    eigenvalues in units of their mean, and :math:`u` is as long as the dual map without a metric, in the Frobenius
    norm: its largest singular value may be larger. In place of `scale_by_momentum` and `dualize`.

    Eigenvectors and eigenvalues follow every k steps, as in `scale_by_whitened_momentum`; up to step k there is no
    metric. Norms that do not take matrices as operators never have one, and a constraint counts on the length of its
    steps: for constrained matrices it is the dual map of what `scale_by_whitened_momentum` gives. The state has
    mn + 2m² + 2n² numbers, and few more, for a matrix of m by n.

    Args:
      specs: what the norm of each parameter is; see `dualize`.
      b1: decay of the momentum.
      nesterov: whether it looks ahead.
      b2: decay :math:`\beta_2` of what is learned of the gradients.
      every: steps k from one pair of bases to the next; it may be traced.
      max_size: the largest side that has a metric.
      damping: added to eigenvalues, relative to their mean. With little of it, a direction in which gradients appear
        after its eigenvalue was taken has most of the step.
      accumulator_dtype: dtype of the momentum; `None`: that of the parameters. All else is kept in float32, or in
        float64 for parameters in float64.
      mesh_axes: axes of the mesh in force to share out the matrices over; see `scale_by_whitened_momentum`.

    Returns:
      A transformation whose updates have norm one, times mass over sensitivity, in the metric.

    Raises:
      ValueError: specs do not fit the parameters; `every` or `max_size` is not an integer of at least 1, a decay is
        not in [0, 1), or `damping` is negative.

    Example:
      >>> tx = dualize_whitened(NormSpec(Spectral()), every=1, nesterov=False)
      >>> grads = {"w": jnp.diag(jnp.array([16.0, 1.0]))}
      >>> update = tx.update(grads, tx.init(grads))[0]["w"]
      >>> [f"{x:.1f}" for x in jnp.diagonal(update)]
      ['0.5', '1.3']

    References:
      Gupta et al., Shampoo, arXiv:1802.09568; Zhang et al., Mousse, arXiv:2603.09697; Vyas et al., SOAP,
      arXiv:2409.11321.
    """
    check_specs(specs, "mo.dualize_whitened(specs)")
    # a function of the user's may trace the model: once for both links
    resolved = by_structure(partial(resolve_tree, specs))
    whitening = visiting(
        "dualize_whitened",
        resolved,
        _dual_map_after,
        b1=b1,
        nesterov=nesterov,
        b2=b2,
        every=every,
        max_size=max_size,
        damping=damping,
        accumulator_dtype=accumulator_dtype,
        mesh_axes=mesh_axes,
    )
    # where a matrix is whitened its dual map is taken, too: on several devices it travels there once
    others = dualize(lambda tree: _without_dual_maps(resolved(tree)), mesh_axes=mesh_axes)
    return optax.chain(whitening, others)


def _dual_map_after(spec: NormSpec) -> Norm | None:
    """The norm whose dual map is taken where a matrix is whitened, and in its metric.

    Constraints count on steps that the norm itself bounds, and get its own dual map of the whitened average.
    """
    return spec.norm if takes_operators(spec) and spec.constraint is None else None


def _without_dual_maps(specs: Any) -> Any:
    """The specs, without norms where dual maps were taken already."""
    return jax.tree.map(lambda spec: spec if _dual_map_after(spec) is None else NormSpec(Unnormed()), specs)
