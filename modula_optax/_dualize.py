"""`dualize`: the steepest step under the modular norm, as an Optax transformation."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import optax

from modula_optax._align import Leaf, atoms, restored
from modula_optax._arguments import check_specs
from modula_optax._constraints import Manifold
from modula_optax._guard import guarded
from modula_optax._norms import Norm
from modula_optax._registry import resolve
from modula_optax._specs import NormSpec
from modula_optax._spread import automatic, free_axes, in_stacks, shardings_of, spread

# a gradient, and the weights where its directions are those along a manifold
Slope = tuple[Any, Any]


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
        normed = [i for i, leaf in enumerate(leaves) if leaf.spec.is_normed]
        dual_map = partial(_dualize_all, [leaves[i].spec for i in normed], axes=free_axes(mesh_axes))
        slopes = [(leaves[i].value, weights.get(i)) for i in normed]
        results = [leaf.value for leaf in leaves]
        for i, (dual, _) in zip(normed, automatic(dual_map, slopes, shardings=shardings_of(slopes)), strict=True):
            results[i] = dual
        return treedef.unflatten(results), state

    return guarded(init, update)


def _dualize_all(specs: list[NormSpec], slopes: list[Slope], axes: tuple[str, ...]) -> list[Slope]:
    """Dual maps: one call for all that are of one norm and along one manifold."""
    groups: dict[tuple[Norm, Any], list[int]] = defaultdict(list)
    for i, (_, w) in enumerate(slopes):
        groups[specs[i].norm, None if w is None else specs[i].constraint].append(i)
    results = list(slopes)
    for (norm, manifold), members in groups.items():
        stacks = [jax.tree.map(partial(atoms, spec=specs[i]), slopes[i]) for i in members]
        duals = spread(_dual_map(norm, manifold), stacks, axes if norm.expensive else ())
        for i, (dual, _) in zip(members, duals, strict=True):
            g, w = slopes[i]
            results[i] = restored(dual, specs[i], like=g, scale=specs[i].target), w
    return results


def _dual_map(norm: Norm, manifold: Any) -> Callable[[list[Slope]], list[Slope]]:
    def steepest(slopes: list[Slope]) -> list[Slope]:
        return [(dual, None) for dual in norm.dualize_all([g for g, _ in slopes])]

    def steepest_along(slopes: list[Slope]) -> list[Slope]:
        return [(manifold.tangent(norm, w, g), w) for g, w in slopes]

    return steepest if manifold is None else partial(in_stacks, steepest_along)


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
