"""The measuring side: norms of single parameters, the modular norm of them all, and its dual."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from modula_optax._align import Leaves, refuse_abstract
from modula_optax._canonical import Canonical
from modula_optax._layout import canonical
from modula_optax._mesh import replicated
from modula_optax._registry import resolve
from modula_optax._specs import NormSpec


def leaf_norms(tree: Any, specs: Any) -> Any:
    """Atomic norm of every parameter, or of every update.

    Args:
      tree: arrays, one for each parameter.
      specs: what the norm of each is; see `NormSpec`.

    Returns:
      A tree of the structure of `tree`: for each array a float32 scalar, or an array over its batch axes. Arrays that
      are `Unnormed` become `None`.

    Raises:
      ValueError: specs do not fit the tree; names every such path.

    Example:
      >>> leaf_norms({"w": 2.0 * jnp.eye(2)}, NormSpec(Spectral()))
      {'w': Array(2., dtype=float32)}
    """
    leaves = resolve(specs, tree)
    norms = _per_leaf(leaves, lambda leaf, spec: spec.norm.norm(leaf))
    return leaves.rebuilt({leaf.path: norms.get(leaf.path) for leaf in leaves.present})


def modular_norm(tree: Any, specs: Any) -> Scalar:
    r"""Norm of a whole network: the largest atomic norm, each in units of its target.

    .. math:: \|w\| = \max_i \frac{s_i}{m_i} \|w_i\|_i

    A step of `modular` at learning rate 1 has modular norm 1. A parameter of mass 0 has no room to move: its norm is 0
    if it is zero and infinite otherwise.

    Args:
      tree: weights or updates, one array for each parameter.
      specs: what the norm of each is; see `NormSpec`.

    Returns:
      A float32 scalar (float64 where the tree is); 0 if everything is `Unnormed`.

    Raises:
      ValueError: specs do not fit the tree; names every such path.

    Example:
      >>> modular_norm({"w": jnp.eye(2)}, {"w": NormSpec(Spectral(), mass=0.5)})
      Array(2., dtype=float32)

    References:
      Large et al., Scalable Optimization in the Modular Norm, arXiv:2405.14813, definition 3.
    """
    norms = _per_leaf(resolve(specs, tree), lambda leaf, spec: _in_targets(spec.norm.norm(leaf), spec.target))
    return jnp.max(jnp.stack(_as_wide(norms))) if norms else jnp.zeros(())


def _in_targets(norms: Float[Array, "*batch"], target: float) -> Scalar:
    largest = jnp.max(norms)
    return largest / target if target > 0 else jnp.where(largest == 0.0, largest, jnp.inf)


def dual_norm(grads: Any, specs: Any) -> Scalar:
    r"""Dual of the modular norm: the steepest decrease that a unit step can promise.

    .. math:: \|g\|^\dagger = \sum_i \frac{m_i}{s_i} \|g_i\|_i^\dagger

    Args:
      grads: gradients, one array for each parameter.
      specs: what the norm of each is; see `NormSpec`.

    Returns:
      A float32 scalar (float64 where the tree is), in units of the loss per unit of modular norm.

    Raises:
      ValueError: specs do not fit the tree; names every such path.

    Example:
      >>> dual_norm({"w": jnp.eye(2)}, {"w": NormSpec(Spectral())})
      Array(2., dtype=float32)

    References:
      Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265, section 3.
    """
    norms = _per_leaf(resolve(specs, grads), lambda leaf, spec: spec.target * jnp.sum(spec.norm.dual_norm(leaf)))
    return jnp.sum(jnp.stack(_as_wide(norms))) if norms else jnp.zeros(())


def _per_leaf(leaves: Leaves, measure: Callable[[Canonical, NormSpec], Array]) -> dict[str, Array]:
    """What is measured of every parameter that has a norm, by path, wherever it lies."""
    normed = leaves.where(lambda spec: spec.is_normed)
    refuse_abstract(leaves.entries, "Norms are of arrays: pass these.")

    def measured(arrays: dict[str, Array]) -> dict[str, Array]:
        return {path: measure(canonical(arrays[path], spec), spec) for path, spec in normed}

    return replicated(measured)(leaves.of(normed)) if normed else {}


def _as_wide(norms: dict[str, Scalar]) -> list[Scalar]:
    """Numbers that can be put together: in float32, or float64 where one is."""
    widest = jnp.float64 if any(norm.dtype == jnp.float64 for norm in norms.values()) else jnp.float32
    return [norm.astype(widest) for norm in norms.values()]
