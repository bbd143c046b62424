"""The measuring side: norms of single parameters, the modular norm of them all, and its dual."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from modula_optax._layout import canonical
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
    norms = {
        leaf.path: leaf.spec.norm.norm(canonical(leaf.value, leaf.spec)) if leaf.spec.is_normed else None
        for leaf in leaves.present
    }
    return leaves.rebuilt(norms)


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
    norms = _per_leaf(tree, specs, lambda leaf, spec: _in_targets(spec.norm.norm(leaf), spec.target))
    return jnp.max(jnp.stack(norms)) if norms else jnp.zeros(())


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
    norms = _per_leaf(grads, specs, lambda leaf, spec: spec.target * jnp.sum(spec.norm.dual_norm(leaf)))
    return jnp.sum(jnp.stack(norms)) if norms else jnp.zeros(())


def _per_leaf(tree: Any, specs: Any, measure: Callable[[Array, NormSpec], Scalar]) -> list[Scalar]:
    leaves = resolve(specs, tree).present
    values = [measure(canonical(leaf.value, leaf.spec), leaf.spec) for leaf in leaves if leaf.spec.is_normed]
    widest = jnp.float64 if any(value.dtype == jnp.float64 for value in values) else jnp.float32
    return [value.astype(widest) for value in values]
