"""`dualize`: the steepest step under the modular norm, as an Optax transformation."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import optax
from jaxtyping import Array

from modula_optax._align import Leaf, canonical, restored
from modula_optax._canonical import stacked
from modula_optax._constraints import Manifold
from modula_optax._norms import Norm
from modula_optax._registry import resolve
from modula_optax._spread import automatic, free_axes, spread


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

    def init(params: optax.Params) -> optax.EmptyState:
        resolve(specs, params)
        return optax.EmptyState()

    def update(updates: optax.Updates, state: optax.OptState, params: Any = None, **extra_args: Any):
        del extra_args
        leaves, treedef = resolve(specs, updates)
        weights = _weights_on_manifolds(leaves, treedef, params)
        normed = [i for i, leaf in enumerate(leaves) if leaf.spec.is_normed and i not in weights]
        axes = free_axes(mesh_axes)

        def dual_map(values: list[Array]) -> list[Array]:
            return _dualize_leaves([leaves[i]._replace(value=x) for i, x in zip(normed, values, strict=True)], axes)

        duals = automatic(dual_map, [leaves[i].value for i in normed])
        results = [leaf.value for leaf in leaves]
        for i, dual in zip(normed, duals, strict=True):
            results[i] = dual
        for i, w in weights.items():
            results[i] = _along_manifold(leaves[i], w)
        return treedef.unflatten(results), state

    return optax.GradientTransformationExtraArgs(init, update)


def _dualize_leaves(leaves: list[Leaf], axes: tuple[str, ...]) -> list[Array]:
    """Leaves of equal norm go through its dual map together."""
    groups: dict[Norm, list[int]] = defaultdict(list)
    for i, leaf in enumerate(leaves):
        groups[leaf.spec.norm].append(i)
    results = [leaf.value for leaf in leaves]
    for norm, members in groups.items():
        gs = [canonical(leaves[i].value, leaves[i].spec) for i in members]
        duals = spread(norm.dualize_all, gs, axes if norm.expensive else ())
        for i, dual in zip(members, duals, strict=True):
            _, value, spec = leaves[i]
            results[i] = restored(spec.target * dual, spec, value)
    return results


def _weights_on_manifolds(leaves: list[Leaf], treedef: Any, params: Any) -> dict[int, Any]:
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


def _along_manifold(leaf: Leaf, weights: Array) -> Array:
    """The steepest direction among those that keep the weights on the manifold of their constraint, to first order."""
    _, value, spec = leaf
    g, w = (canonical(x, spec) for x in (value, weights))
    manifold: Any = spec.constraint
    direction = manifold.tangent(spec.norm, stacked(w), stacked(g))
    return restored(spec.target * direction.reshape(g.shape), spec, value)
