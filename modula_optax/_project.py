"""Projection: weights back to the constraints of their specs, after a step or as the last link of a chain."""

from typing import Any

import optax

from modula_optax._align import Leaf, canonical, restored
from modula_optax._norms import Canonical
from modula_optax._registry import resolve
from modula_optax._specs import NormSpec


def project(params: Any, specs: Any) -> Any:
    """Retracts every parameter to the constraint of its spec; those without one stay as they are.

    Computed in at least float32, at the highest matrix precision.

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

    def retract(leaf: Leaf) -> Any:
        if not _is_constrained(leaf):
            return leaf.value
        return restored(_retracted(canonical(leaf.value, leaf.spec), leaf.spec), leaf.spec, leaf.value)

    return treedef.unflatten([retract(leaf) for leaf in leaves])


def keep_params_projected(specs: Any) -> optax.GradientTransformationExtraArgs:
    r"""Changes updates so that the parameters, after them, satisfy the constraints of their specs.

    The last link of a chain: links after it would lead out of the constraints again.

    .. math:: u \mapsto \text{project}(p + u) - p

    Args:
      specs: what the norm and the constraint of each parameter is; see `NormSpec`.

    Returns:
      A transformation without state. It needs `params` where any spec has a constraint.

    Raises:
      ValueError: specs do not fit the parameters, or `update` is called without `params` although it needs them.

    Example:
      >>> tx = keep_params_projected(NormSpec(Embedding(), constraint=UnitSphere()))
      >>> params, updates = jnp.array([[1.0, 1.0]]), jnp.array([[1.0, 1.0]])
      >>> abs(tx.update(updates, tx.init(params), params)[0]).round(3)
      Array([[0., 0.]], dtype=float32)
    """

    def init(params: optax.Params) -> optax.EmptyState:
        resolve(specs, params)
        return optax.EmptyState()

    def update(updates: optax.Updates, state: optax.OptState, params: Any = None, **extra_args: Any):
        del extra_args
        leaves, treedef = resolve(specs, updates)
        if not any(map(_is_constrained, leaves)):
            return updates, state
        if params is None:
            held = next(leaf.path for leaf in leaves if _is_constrained(leaf))
            raise ValueError(
                f"keep_params_projected needs the parameters, to hold {held or 'them'} to its constraint: "
                "call tx.update(grads, state, params)."
            )

        def retract(leaf: Leaf, weight: Any) -> Any:
            if not _is_constrained(leaf):
                return leaf.value
            # the difference of the low-precision sum would lose the step: add and subtract in float32
            w = canonical(weight, leaf.spec)
            return restored(_retracted(w + canonical(leaf.value, leaf.spec), leaf.spec) - w, leaf.spec, leaf.value)

        weights = treedef.flatten_up_to(params)
        return treedef.unflatten([retract(*pair) for pair in zip(leaves, weights, strict=True)]), state

    return optax.GradientTransformationExtraArgs(init, update)


def _is_constrained(leaf: Leaf) -> bool:
    return leaf.spec.constraint is not None


def _retracted(w: Canonical, spec: NormSpec) -> Canonical:
    assert spec.constraint is not None
    return spec.constraint.retract(spec.norm, w)
