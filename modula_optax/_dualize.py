"""`dualize`: the steepest step under the modular norm, as an Optax transformation."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import optax
from jaxtyping import Array

from modula_optax._align import Leaf, atoms, restored
from modula_optax._arguments import check_specs
from modula_optax._canonical import Stack
from modula_optax._constraints import Manifold
from modula_optax._guard import guarded
from modula_optax._members import over_members
from modula_optax._mesh import automatic, shardings_of
from modula_optax._norms import Norm
from modula_optax._registry import resolve
from modula_optax._specs import NormSpec
from modula_optax._stacks import apply_alike


def dualize(specs: Any, *, mesh_axes: Sequence[str] | None = None) -> optax.GradientTransformationExtraArgs:
    r"""Replaces every update by the steepest direction under its norm, as long as its spec says.

    .. math:: u_i = \frac{m_i}{s_i} \, \text{dualize}_i(g_i)

    The result has modular norm 1: a learning rate after it is the modular norm moved per step. Updates keep their
    sign, shape, dtype and tree structure; `Unnormed` ones pass through; zeros stay zero, and what is not finite comes
    out as NaN.

    Args:
      specs: a spec tree, a prefix of one, a `NormRegistry`, or a function from the tree at hand to a spec tree.
      mesh_axes: axes of the mesh in force (`jax.set_mesh`) to share out the matrices over, each of which is then
        orthogonalized by one device, once. `None`: all its axes; without a mesh every device does what it holds.
        Parameters may be sharded in any way, and updates come back in the sharding they had.

    Returns:
      A transformation without state, which needs parameters only where a constraint is a `Manifold`, such as `Stiefel`:
      directions are then the steepest along it.

    Raises:
      ValueError: specs do not fit the parameters; raised by `init`, or while the first update is traced. Unknown mesh
        axes.

    Example:
      >>> tx = dualize(NormSpec(Spectral()))
      >>> grads = {"w": jnp.diag(jnp.array([5.0, 0.1]))}
      >>> tx.update(grads, tx.init(grads))[0]["w"].round(2)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265.
    """
    check_specs(specs, "mo.dualize(specs)")

    def init(params: optax.Params) -> optax.EmptyState:
        resolve(specs, params)
        return optax.EmptyState()

    def update(updates: optax.Updates, state: optax.OptState, params: Any = None, **extra_args: Any):
        del extra_args
        leaves, treedef = resolve(specs, updates)
        weights = _weights_on_manifolds(leaves, treedef, params)
        normed = {i: leaf.spec for i, leaf in enumerate(leaves) if leaf.spec.is_normed}
        results = {i: leaf.value for i, leaf in enumerate(leaves)}
        gradients = {i: results[i] for i in normed}
        results |= _dual_maps(tuple(normed.items()), mesh_axes, gradients, weights)
        return treedef.unflatten([results[i] for i in range(len(leaves))]), state

    return guarded(init, update)


@over_members
def _dual_maps(
    specs: tuple[tuple[int, NormSpec], ...],
    axes: tuple[str, ...],
    members: int,
    gradients: dict[int, Array],
    weights: dict[int, Array],
) -> dict[int, Array]:
    """Steepest directions: one call for all that are of one norm and along one manifold."""

    def directions(gradients: dict[int, Array], weights: dict[int, Array]) -> dict[int, Array]:
        results = {}
        for (norm, manifold), group in _groups(specs).items():
            stacks = [
                tuple(atoms(tree[i], spec, members) for tree in (gradients, weights) if i in tree) for i, spec in group
            ]
            duals = apply_alike(
                _dual_map(norm, manifold), stacks, axes=axes if norm.expensive else (), in_turns=norm.expensive
            )
            for (i, spec), dual in zip(group, duals, strict=True):
                results[i] = restored(dual, spec, gradients[i], spec.target, members)
        return results

    return automatic(directions, gradients, weights, shardings=shardings_of(gradients))


def _groups(specs: tuple[tuple[int, NormSpec], ...]) -> dict[tuple[Norm, Manifold | None], list[tuple[int, NormSpec]]]:
    """Those that share a norm, and the manifold that they are held to, if any."""
    groups = defaultdict(list)
    for i, spec in specs:
        manifold = spec.constraint if isinstance(spec.constraint, Manifold) else None
        groups[spec.norm, manifold].append((i, spec))
    return groups


def _dual_map(norm: Norm, manifold: Manifold | None) -> Callable[..., Stack]:
    return norm.dualize if manifold is None else lambda g, w: manifold.tangent(norm, w, g)


def _weights_on_manifolds(leaves: list[Leaf], treedef: Any, params: Any) -> dict[int, Array]:
    """The parameters that are held to a manifold, by the number of their leaf."""
    held = [i for i, leaf in enumerate(leaves) if isinstance(leaf.spec.constraint, Manifold)]
    if not held:
        return {}
    if params is None:
        paths = ", ".join(leaves[i].path for i in held)
        raise ValueError(
            f"Directions along a manifold depend on the weights: pass them, tx.update(grads, state, params). "
            f"Held to a manifold: {paths}."
        )
    flat = treedef.flatten_up_to(params)
    return {i: flat[i] for i in held}
