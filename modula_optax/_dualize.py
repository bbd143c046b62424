"""`dualize`: the steepest step under the modular norm, as an Optax transformation."""

import math
from collections import defaultdict
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from modula_optax._align import Leaf, canonical, restored
from modula_optax._registry import resolve


def dualize(specs: Any) -> optax.GradientTransformationExtraArgs:
    r"""Replaces every update by the steepest direction under its norm, as long as its spec says.

    .. math:: u_i = \frac{m_i}{s_i} \, \text{dualize}_i(g_i)

    The result has modular norm 1: a learning rate after it is the modular norm moved per step. Updates keep their
    sign, shape, dtype and tree structure; `Unnormed` ones pass through; zeros stay zero, and what is not finite comes
    out as NaN.

    Args:
      specs: a spec tree, a prefix of one, a `NormRegistry`, or a function from the tree at hand to a spec tree.

    Returns:
      A transformation without state, which needs no parameters.

    Raises:
      ValueError: specs do not fit the parameters; raised by `init`, or while the first update is traced.

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
        del params, extra_args
        leaves, treedef = resolve(specs, updates)
        return treedef.unflatten(_dualize_leaves(leaves)), state

    return optax.GradientTransformationExtraArgs(init, update)


def _dualize_leaves(leaves: list[Leaf]) -> list[Any]:
    """One dual map for all leaves of equal norm and canonical shape, which makes one polar factor to compile."""
    results = [leaf.value for leaf in leaves]
    stacks: dict[Any, list[tuple[int, Array]]] = defaultdict(list)
    for i, (_, value, spec) in enumerate(leaves):
        if spec.is_normed:
            g = canonical(value, spec)
            stacks[spec.norm, g.shape[-3:], g.dtype].append((i, g))
    for (norm, atom_shape, _), members in stacks.items():
        stack = jnp.concatenate([g.reshape(-1, *atom_shape) for _, g in members])
        ends = np.cumsum([math.prod(g.shape[:-3]) for _, g in members])
        duals = jnp.split(norm.dualize(stack), ends[:-1])
        for (i, g), dual in zip(members, duals, strict=True):
            _, value, spec = leaves[i]
            results[i] = restored(spec.target * dual.reshape(g.shape), spec, value)
    return results
