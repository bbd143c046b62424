"""Projection: weights back to the constraints of their specs, after a step or as the last link of a chain."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from modula_optax._align import Leaf, canonical, restored
from modula_optax._arguments import check_rate, check_specs
from modula_optax._guard import guarded
from modula_optax._paths import describe, listing, nested, unnested
from modula_optax._registry import resolve
from modula_optax._retract import Memory, remember, retract
from modula_optax._specs import NormSpec
from modula_optax._spread import automatic, free_axes, replicated, shardings_of

Arrays = dict[str, Any]


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
      ValueError: specs do not fit the parameters; names every such path.

    Example:
      >>> spec = NormSpec(Spectral(), constraint=UnitSphere())
      >>> project({"w": jnp.diag(jnp.array([3.0, 0.2]))}, spec)["w"].round(3)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265.
    """
    leaves, treedef = resolve(specs, params)
    held = _held(leaves)
    axes = free_axes(mesh_axes)

    def put_back(params: Arrays) -> Arrays:
        weights = _canonical(held, params)
        kept, _ = retract(held, weights, remember(held, weights), (0.0, 0.0), axes)
        return _restored(held, kept, params)

    params = {leaf.path: leaf.value for leaf in leaves}
    kept = automatic(put_back, _of(held, params), shardings=shardings_of(_of(held, params)))
    return treedef.unflatten([kept.get(leaf.path, leaf.value) for leaf in leaves])


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
    check_specs(specs, "mo.keep_params_projected(specs)")
    check_rate("keep_params_projected", "learning_rate", learning_rate)
    check_rate("keep_params_projected", "weight_decay", weight_decay)

    def init(params: optax.Params) -> ProjectionState:
        leaves, _ = resolve(specs, params)
        held = _held(leaves)
        weights = _of(held, {leaf.path: leaf.value for leaf in leaves})
        # a few vectors, on every device
        memory = replicated(lambda weights: remember(held, _canonical(held, weights)))(weights)
        return ProjectionState(jnp.zeros([], jnp.int32), nested(memory, held))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        leaves, treedef = resolve(specs, updates)
        held = _held(leaves)
        rate = extra_args.get("learning_rate", learning_rate)
        _refuse_unknowns(held, leaves, params, rate)
        count = optax.safe_increment(state.count)
        if not held:
            return updates, ProjectionState(count, state.memory)
        axes = free_axes(mesh_axes)

        def put_back(updates: Arrays, params: Arrays, memory: Memory, *rates: Array) -> tuple[Arrays, Memory]:
            before = _canonical(held, params)
            # the difference of the low-precision sum would lose the step: add and subtract in float32
            after = jax.tree.map(jnp.add, before, _canonical(held, updates))
            kept, memory = retract(held, after, memory, rates, axes)
            return _restored(held, jax.tree.map(jnp.subtract, kept, before), updates), memory

        flat = {leaf.path: leaf.value for leaf in leaves}
        weights = dict(zip(flat, treedef.flatten_up_to(params), strict=True))
        memory = unnested(state.memory, held)
        rates = [jnp.asarray(_now(0.0 if r is None else r, state.count)) for r in (rate, weight_decay)]
        moved, memory = automatic(
            put_back,
            _of(held, flat),
            _of(held, weights),
            memory,
            *rates,
            shardings=shardings_of((_of(held, flat), memory)),
        )
        changed = treedef.unflatten([moved.get(path, u) for path, u in flat.items()])
        return changed, ProjectionState(count, nested(memory, held))

    return guarded(init, update)


def _held(leaves: list[Leaf]) -> dict[str, NormSpec]:
    return {leaf.path: leaf.spec for leaf in leaves if leaf.spec.constraint is not None}


def _of(held: dict[str, NormSpec], arrays: Arrays) -> Arrays:
    return {path: arrays[path] for path in held}


def _canonical(held: dict[str, NormSpec], arrays: Arrays) -> Arrays:
    return {path: canonical(arrays[path], spec) for path, spec in held.items()}


def _restored(held: dict[str, NormSpec], arrays: Arrays, like: Arrays) -> Arrays:
    return {path: restored(arrays[path], spec, like[path]) for path, spec in held.items()}


def _now(rate: optax.ScalarOrSchedule, count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    return rate(count) if callable(rate) else rate


def _refuse_unknowns(held: dict[str, NormSpec], leaves: list[Leaf], params: Any, learning_rate: Any) -> None:
    if held and params is None:
        first = next(iter(held))
        raise ValueError(
            f"keep_params_projected needs the parameters, to hold {first or 'them'} to its constraint: "
            "call tx.update(grads, state, params)."
        )
    lines = [
        f"{describe(leaf.path, leaf.value)}: {leaf.spec.constraint!r}"
        for leaf in leaves
        if leaf.spec.constraint is not None and leaf.spec.constraint.needs_learning_rate
    ]
    if lines and learning_rate is None:
        one, many = "constraint depends on the learning rate", "constraints depend on the learning rate"
        advice = "Write keep_params_projected(specs, learning_rate=...), with the learning rate of the chain."
        raise ValueError(listing(one, many, lines, advice))
