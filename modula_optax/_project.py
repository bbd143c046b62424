"""Projection: weights back to the constraints of their specs, after a step or as the last link of a chain."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from modula_optax._align import Leaves, Named, is_abstract, refuse_abstract
from modula_optax._arguments import check_mesh_axes, check_rates
from modula_optax._guard import guarded
from modula_optax._match import matching
from modula_optax._paths import describe, nested, refuse, unnested
from modula_optax._registry import resolve
from modula_optax._retract import remember, retract
from modula_optax._specs import NormSpec


def project(params: Any, specs: Any, *, mesh_axes: Sequence[str] | None = None) -> Any:
    """Retracts every parameter to the constraint of its spec; those without one stay as they are.

    Computed in at least float32, at the highest matrix precision. Nothing is remembered from call to call, and no step
    is known: constraints that need a memory (see `keep_params_projected`) make it of these very weights, and decays do
    nothing.

    Args:
      params: the weights, usually right after `optax.apply_updates`.
      specs: what the norm and the constraint of each is; see `NormSpec`.
      mesh_axes: axes of the mesh in force to share out the matrices over, as `dualize` does.

    Returns:
      A tree of the same structure, shapes, dtypes and shardings.

    Raises:
      ValueError: specs do not fit the parameters, or these are shapes alone; names every such path.

    Example:
      >>> spec = NormSpec(Spectral(), constraint=UnitSphere())
      >>> project({"w": jnp.diag(jnp.array([3.0, 0.2]))}, spec)["w"].round(3)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265.
    """
    check_mesh_axes(mesh_axes)
    leaves = resolve(specs, params)
    advice = (
        "Only arrays can be projected: pass these, or write jax.eval_shape(lambda p: mo.project(p, specs), params)."
    )
    refuse_abstract([leaf for leaf in leaves.entries if _is_held(leaf.spec)], advice)
    held = leaves.where(_is_held)
    kept, _ = retract(held, mesh_axes, leaves.of(held), {}, None, jnp.zeros(2)) if held else ({}, {})
    return leaves.rebuilt(kept)


class ProjectionState(NamedTuple):
    """Number of updates so far, and what constraints remember of parameters, in dictionaries nested as their paths."""

    count: jax.typing.ArrayLike  # pyright: ignore[reportIncompatibleMethodOverride]
    memory: dict[str, Any]


def keep_params_projected(
    specs: Any,
    *,
    learning_rate: optax.ScalarOrSchedule | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mesh_axes: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Changes updates so that the parameters, after them, satisfy the constraints of their specs.

    The last link of a chain: links after it would lead out of the constraints again.

    .. math:: u \mapsto \text{project}(p + u) - p

    Args:
      specs: what the norm and the constraint of each parameter is; see `NormSpec`.
      learning_rate: that of the chain, or its schedule, for constraints that depend on it (`SoftCap`, `SpectralDecay`,
        `Regularize`). `update(..., learning_rate=...)` goes first.
      weight_decay: that of the chain, or its schedule.
      mesh_axes: axes of the mesh in force to share out the matrices over, as `dualize` does.

    Returns:
      A transformation whose state is a `ProjectionState`: the singular vectors of `Hammer`, `SpectralNormalize` and
      `SpectralDecay`, the lengths of `FixedNorm`. It needs `params` where any spec has a constraint.

    Raises:
      ValueError: specs do not fit the parameters, or `update` is called without `params` or without a learning rate
        although a constraint needs it.

    Example:
      >>> tx = keep_params_projected(NormSpec(Embedding(), constraint=UnitSphere()))
      >>> params, updates = jnp.array([[1.0, 1.0]]), jnp.array([[1.0, 1.0]])
      >>> abs(tx.update(updates, tx.init(params), params)[0]).round(3)
      Array([[0., 0.]], dtype=float32)
    """
    match = matching(specs, "mo.keep_params_projected(specs)")
    rates = {"weight_decay": weight_decay} | ({} if learning_rate is None else {"learning_rate": learning_rate})
    check_rates("keep_params_projected", **rates)
    check_mesh_axes(mesh_axes)

    def init(params: optax.Params) -> ProjectionState:
        leaves = match(params)
        held = leaves.where(_is_held)
        weights = leaves.of(held)
        if not held:
            memory = {}
        elif any(map(is_abstract, weights.values())):
            # shapes remember nothing: the first update does, of the weights that it is given
            shapes = {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in weights.items()}
            shapes = jax.eval_shape(partial(remember, held), shapes)
            memory = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        else:
            memory = remember(held, weights)
        return ProjectionState(jnp.zeros([], jnp.int32), nested(memory, dict(held)))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        leaves = match(updates)
        held = leaves.where(_is_held)
        rate = extra_args.get("learning_rate", learning_rate)
        _refuse_unknowns(held, leaves, params, rate)
        count = optax.safe_increment(state.count)
        if not held:
            return updates, ProjectionState(count, state.memory)
        weights, changes = (leaves.of(held, tree) for tree in (params, updates))
        now = (r(state.count) if callable(r) else 0.0 if r is None else r for r in (rate, weight_decay))
        rates = jnp.stack([jnp.asarray(r, jnp.result_type(float)) for r in now])
        memory = unnested(state.memory, dict(held))
        moved, memory = retract(held, mesh_axes, weights, changes, memory, rates)
        return leaves.rebuilt(moved), ProjectionState(count, nested(memory, dict(held)))

    return guarded(init, update)


def _is_held(spec: NormSpec) -> bool:
    return spec.constraint is not None


def _refuse_unknowns(held: Named, leaves: Leaves, params: Any, learning_rate: Any) -> None:
    if held and params is None:
        first, _ = held[0]
        raise ValueError(
            f"keep_params_projected needs the parameters, to hold {first or 'them'} to its constraint: "
            "call tx.update(grads, state, params)."
        )
    if learning_rate is None:
        lines = [
            f"{describe(leaf.path, leaf.value)}: {leaf.spec.constraint!r}"
            for leaf in leaves.entries
            if leaf.spec.constraint is not None and leaf.spec.constraint.needs_learning_rate
        ]
        one, many = "constraint depends on the learning rate", "constraints depend on the learning rate"
        advice = "Write keep_params_projected(specs, learning_rate=...), with the learning rate of the chain."
        refuse(one, many, lines, advice)
