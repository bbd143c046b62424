"""Projection: weights back to the constraints of their specs, after a step or as the last link of a chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from modula_optax._align import Leaf, canonical, restored
from modula_optax._paths import describe, listing
from modula_optax._registry import resolve
from modula_optax._retract import remember, retract
from modula_optax._specs import NormSpec


def project(params: Any, specs: Any) -> Any:
    """Retracts every parameter to the constraint of its spec; those without one stay as they are.

    Computed in at least float32, at the highest matrix precision. Nothing is remembered from call to call, and no step
    is known: constraints that need a memory (see `keep_params_projected`) make it of these very weights, and decays do
    nothing.

    Args:
      params: the weights, usually right after `optax.apply_updates`.
      specs: what the norm and the constraint of each is; see `NormSpec`.

    Returns:
      A tree of the same structure, shapes and dtypes.

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
    weights = {path: canonical(leaf.value, leaf.spec) for path, leaf in held.items()}
    kept, _ = retract(_specs(held), weights, remember(_specs(held), weights), 0.0, 0.0)
    return treedef.unflatten([_restored(leaf, kept.get(leaf.path)) for leaf in leaves])


class ProjectionState(NamedTuple):
    """Number of updates so far, and what constraints remember of the parameters of these paths."""

    count: jax.typing.ArrayLike  # pyright: ignore[reportIncompatibleMethodOverride]
    memory: dict[str, Any]


def keep_params_projected(
    specs: Any,
    *,
    learning_rate: optax.ScalarOrSchedule | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Changes updates so that the parameters, after them, satisfy the constraints of their specs.

    The last link of a chain: links after it would lead out of the constraints again.

    .. math:: u \mapsto \text{project}(p + u) - p

    Args:
      specs: what the norm and the constraint of each parameter is; see `NormSpec`.
      learning_rate: that of the chain, or its schedule, for constraints that depend on it (`SoftCap`, `SpectralDecay`,
        `Regularize`). `update(..., learning_rate=...)` goes first.
      weight_decay: that of the chain, or its schedule.

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

    def init(params: optax.Params) -> ProjectionState:
        held = _held(resolve(specs, params)[0])
        weights = {path: canonical(leaf.value, leaf.spec) for path, leaf in held.items()}
        return ProjectionState(jnp.zeros([], jnp.int32), remember(_specs(held), weights))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        leaves, treedef = resolve(specs, updates)
        held = _held(leaves)
        rate = extra_args.get("learning_rate", learning_rate)
        _refuse_unknowns(held, params, rate)
        count = optax.safe_increment(state.count)
        if not held:
            return updates, ProjectionState(count, state.memory)
        weights = {leaf.path: p for leaf, p in zip(leaves, treedef.flatten_up_to(params), strict=True)}
        before = {path: canonical(weights[path], leaf.spec) for path, leaf in held.items()}
        # the difference of the low-precision sum would lose the step: add and subtract in float32
        after = {path: before[path] + canonical(leaf.value, leaf.spec) for path, leaf in held.items()}
        rates = (_now(0.0 if rate is None else rate, state.count), _now(weight_decay, state.count))
        kept, memory = retract(_specs(held), after, state.memory, *rates)
        moved = {path: w - before[path] for path, w in kept.items()}
        updates = treedef.unflatten([_restored(leaf, moved.get(leaf.path)) for leaf in leaves])
        return updates, ProjectionState(count, memory)

    return optax.GradientTransformationExtraArgs(init, update)


def _held(leaves: list[Leaf]) -> dict[str, Leaf]:
    return {leaf.path: leaf for leaf in leaves if leaf.spec.constraint is not None}


def _specs(held: dict[str, Leaf]) -> dict[str, NormSpec]:
    return {path: leaf.spec for path, leaf in held.items()}


def _restored(leaf: Leaf, w: Any) -> Any:
    return leaf.value if w is None else restored(w, leaf.spec, leaf.value)


def _now(rate: optax.ScalarOrSchedule, count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    return rate(count) if callable(rate) else rate


def _refuse_unknowns(held: dict[str, Leaf], params: Any, learning_rate: Any) -> None:
    if held and params is None:
        first = next(iter(held))
        raise ValueError(
            f"keep_params_projected needs the parameters, to hold {first or 'them'} to its constraint: "
            "call tx.update(grads, state, params)."
        )
    lines = [
        f"{describe(path, leaf.value)}: {leaf.spec.constraint!r}"
        for path, leaf in held.items()
        if leaf.spec.constraint is not None and leaf.spec.constraint.needs_learning_rate
    ]
    if lines and learning_rate is None:
        one, many = "constraint depends on the learning rate", "constraints depend on the learning rate"
        advice = "Write keep_params_projected(specs, learning_rate=...), with the learning rate of the chain."
        raise ValueError(listing(one, many, lines, advice))
