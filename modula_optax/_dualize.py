"""`dualize`: the steepest step under the modular norm, as an Optax transformation."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import optax
from jaxtyping import Array

from modula_optax._align import Leaves, Named
from modula_optax._arguments import check_mesh_axes
from modula_optax._canonical import Stack
from modula_optax._constraints import Manifold
from modula_optax._guard import guarded
from modula_optax._layout import are_settled, atoms, restored
from modula_optax._match import matching
from modula_optax._members import over_members
from modula_optax._mesh import automatic, devices_along, shardings_of, warn_of_idle_mesh
from modula_optax._norms import Norm
from modula_optax._specs import NormSpec
from modula_optax._stacks import apply_alike
from modula_optax._xla import from_half, placed_like, to_half


def dualize(
    specs: Any, *, mesh_axes: Sequence[str] | None = None, exchange: str | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces every update by the steepest direction under its norm, as long as its spec says.

    .. math:: u_i = \frac{m_i}{s_i} \, \text{dualize}_i(g_i)

    The result has modular norm 1: a learning rate after it is the modular norm moved per step. Updates keep their
    sign, shape, dtype and tree structure; `Unnormed` ones pass through; zeros stay zero, and what is not finite comes
    out as NaN.

    Under `vmap` members of an ensemble are more of the same matrices. Derivatives of both kinds go through, by
    gradients, weights and hyperparameters: those of the functions computed, which are not those of the exact polar
    factor, the less so the smaller singular values are. They are taken where the arrays lie, not shared out over
    devices.

    Args:
      specs: a spec tree, a prefix of one, a `NormRegistry`, or a function from the tree at hand to a spec tree.
      mesh_axes: axes of the mesh in force (`jax.set_mesh`) to share out the matrices over, each of which is then
        orthogonalized by one device, once. `None`: all its axes; without a mesh every device does what it holds.
        Parameters may be sharded in any way, and updates come back in the sharding they had.
      exchange: `"bfloat16"` sends matrices from device to device in half the bytes. Directions keep 0.99 and more of
        their alignment, and are 0.4 % shorter, so that rounding leaves no norm above 1; those along a `Manifold`
        travel as they are. `None`: all do.

    Returns:
      A transformation without state, which needs parameters only where a constraint is a `Manifold`, such as `Stiefel`:
      directions are then the steepest along it.

    Raises:
      ValueError: specs do not fit the parameters; raised by `init`, or while the first update is traced. Unknown mesh
        axes, or another exchange.

    Example:
      >>> tx = dualize(NormSpec(Spectral()))
      >>> grads = {"w": jnp.diag(jnp.array([5.0, 0.1]))}
      >>> tx.update(grads, tx.init(grads))[0]["w"].round(2)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265.
    """
    match = matching(specs, "mo.dualize(specs)")
    check_mesh_axes(mesh_axes)
    if exchange not in (None, "bfloat16"):
        raise ValueError(f"Unknown exchange {exchange!r}. Write 'bfloat16', or None for that of matrices as they are.")

    def init(params: optax.Params) -> optax.EmptyState:
        costly = [leaf.value for leaf in match(params).entries if leaf.spec.norm.expensive]
        warn_of_idle_mesh(mesh_axes, costly)
        return optax.EmptyState()

    def update(updates: optax.Updates, state: optax.OptState, params: Any = None, **extra_args: Any):
        del extra_args
        leaves = match(updates)
        weights = _weights_on_manifolds(leaves, params)
        normed = leaves.where(lambda spec: spec.is_normed)
        return leaves.rebuilt(_steepest_directions((normed, exchange), mesh_axes, leaves.of(normed), weights)), state

    return guarded(init, update)


@over_members
def _steepest_directions(
    settings: tuple[Named, str | None],
    axes: tuple[str, ...],
    members: int,
    gradients: dict[str, Array],
    weights: dict[str, Array],
) -> dict[str, Array]:
    """Steepest directions: one call for all that are of one norm and along one manifold."""
    specs, exchange = settings

    def directions(gradients: dict[str, Array], weights: dict[str, Array]) -> dict[str, Array]:
        results = {}
        for (norm, manifold), group in _groups(specs).items():
            dual_map, shared_over = _dual_map(norm, manifold), axes if norm.expensive else ()
            devices = devices_along(shared_over)
            stacks = [
                tuple(atoms(tree[path], spec, members, devices) for tree in (gradients, weights) if path in tree)
                for path, spec in group
            ]
            settled = [
                i
                for i, (path, spec) in enumerate(group)
                if not members and are_settled(spec, gradients[path].shape, devices)
            ]
            apply = _apply_in_half_the_bytes if exchange and shared_over and manifold is None else apply_alike
            duals = apply(dual_map, stacks, axes=shared_over, in_turns=norm.expensive, settled=settled)
            for (path, spec), dual in zip(group, duals, strict=True):
                results[path] = restored(dual, spec, gradients[path], spec.target, members, devices)
        return results

    return automatic(directions, gradients, weights, shardings=shardings_of(gradients))


def _groups(specs: Named) -> dict[tuple[Norm, Manifold | None], list[tuple[str, NormSpec]]]:
    """The parameters that share a norm, and the manifold that they are held to, if any."""
    groups = defaultdict(list)
    for path, spec in specs:
        manifold = spec.constraint if isinstance(spec.constraint, Manifold) else None
        groups[spec.norm, manifold].append((path, spec))
    return groups


def _dual_map(norm: Norm, manifold: Manifold | None) -> Callable[..., Stack]:
    return norm.dualize if manifold is None else lambda g, w: manifold.tangent(norm, w, g)


def _apply_in_half_the_bytes(
    dual_map: Callable[[Stack], Stack], stacks: list[tuple[Stack, ...]], **how: Any
) -> list[Stack]:
    """`apply_alike` of arrays that travel in bfloat16."""

    def of_halves(half: Array) -> Array:
        return to_half(dual_map(from_half(half)) / _ROUNDING)

    duals = apply_alike(of_halves, [(to_half(g),) for (g,) in stacks], **how)
    return [placed_like(from_half(dual).astype(g.dtype), g) for dual, (g,) in zip(duals, stacks, strict=True)]


# where all entries round the same way, each is 2^-9 larger
_ROUNDING = 1 + 2**-8


def _weights_on_manifolds(leaves: Leaves, params: Any) -> dict[str, Array]:
    """The parameters that are held to a manifold, by path."""
    held = leaves.where(lambda spec: isinstance(spec.constraint, Manifold))
    if held and params is None:
        raise ValueError(
            f"Directions along a manifold depend on the weights: pass them, tx.update(grads, state, params). "
            f"Held to a manifold: {', '.join(path for path, _ in held)}."
        )
    return leaves.of(held, params) if held else {}
