"""Control of the size of weights and of steps relative to it: floors, brakes, cautious decay, fixed lengths."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from modula_optax._align import is_abstract
from modula_optax._arguments import check_numbers
from modula_optax._atomwise import link_of_atoms
from modula_optax._canonical import ATOM, Stack
from modula_optax._checks import ABOVE_0, FINITE, SHARE
from modula_optax._decay import is_hidden_matrix
from modula_optax._guard import UNLIKE_PARAMETERS, guarded, refuse_without
from modula_optax._linalg import length, one_where_zero, unit, working_dtype
from modula_optax._paths import is_absent
from modula_optax._specs import NormSpec

# the axes of what one output unit reads
_INPUTS = (-3, -2)


def floor_relative_update(
    specs: Any, floor: jax.typing.ArrayLike = 0.35, *, per_output: jax.typing.ArrayLike | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Lengthens updates that are short beside their weights: after `dualize`, before the learning rate.

    .. math:: U \leftarrow U \max(1, f |W|_2 / |U|_2)

    for every atom of a parameter with a norm. Zero updates stay zero.

    Args:
      specs: what the norm of each parameter is; see `dualize`.
      floor: the least length f of an update, relative to that of the weights.
      per_output: the same for the weights of each output unit, first, after which the update gets back its length.
        `None`: not.

    Returns:
      A transformation without state, which needs parameters.

    Raises:
      ValueError: a floor is not a finite number above 0, specs do not fit, or `update` is called without parameters.

    Example:
      >>> tx, w = floor_relative_update(NormSpec(Frobenius()), 0.5), jnp.array([[3.0, 4.0]])
      >>> tx.update(jnp.array([[1.0, 0.0]]), tx.init(w), w)[0]
      Array([[2.5, 0. ]], dtype=float32)

    References:
      modded-nanogpt, records of track 3, 2026.
    """
    per = floor if per_output is None else per_output
    check_numbers("floor_relative_update", ABOVE_0, floor=floor, per_output=per)

    def lengthened(u: Stack, w: Stack) -> Stack:
        if per_output is not None:
            by_output = _at_least(u, w, per_output, _INPUTS)
            u = by_output * _ratio(u, by_output, ATOM)
        return _at_least(u, w, floor, ATOM)

    return link_of_atoms("floor_relative_update", lengthened, specs, _has_norm)


def brake_growth(specs: Any, strength: jax.typing.ArrayLike = 0.5) -> optax.GradientTransformationExtraArgs:
    r"""Shortens the part of a step that lengthens weights: the last link of a chain, before projections.

    .. math:: c = \frac{\langle u, w \rangle}{\langle w, w \rangle}, \qquad c' = c - \beta \max(c, 0), \qquad
      w \mapsto (1 + c') \, |w|_2 \, \frac{u_\perp + (1 + c') w}{|u_\perp + (1 + c') w|_2}

    with :math:`u_\perp = u - c w`: what a step along the sphere adds to the length is taken back as well. For every
    atom of a parameter with a norm; weights of zero move freely.

    Args:
      specs: what the norm of each parameter is; see `dualize`.
      strength: how much :math:`\beta` of the growth is taken; 1 for all.

    Returns:
      A transformation without state, which needs parameters, and updates that are about to be added to them.

    Raises:
      ValueError: `strength` is not a number above 0 and up to 1, specs do not fit, or `update` is called without
        parameters.

    Example:
      >>> tx, w = brake_growth(NormSpec(RMS())), jnp.array([2.0, 0.0])
      >>> tx.update(jnp.array([1.0, 0.0]), tx.init(w), w)[0]
      Array([0.5, 0. ], dtype=float32)

    References:
      modded-nanogpt, records of track 3, 2026.
    """
    check_numbers("brake_growth", SHARE, strength=strength)

    def braked(u: Stack, w: Stack) -> Stack:
        normal, size = unit(w, ATOM), length(w, ATOM)[:, None, None, None]
        along = jnp.sum(u * normal, axis=ATOM, keepdims=True)
        grown = jnp.maximum(size + along - jnp.asarray(strength, w.dtype) * jnp.maximum(along, 0.0), 0.0)
        after = grown * unit(u - along * normal + grown * normal, ATOM)
        return jnp.where(size > 0.0, after - w, u)

    return link_of_atoms("brake_growth", braked, specs, _has_norm)


def add_cautious_decay(specs: Any, weight_decay: jax.typing.ArrayLike = 0.03) -> optax.GradientTransformationExtraArgs:
    r"""Decays the entries that the step shrinks anyway: in place of `optax.add_decayed_weights`, after `dualize`.

    .. math:: u \leftarrow u + \lambda w \, [u w > 0]

    Args:
      specs: what the norm of each parameter is; hidden matrices decay, as in `modular`.
      weight_decay: how much, :math:`\lambda`; the learning rate comes after it.

    Returns:
      A transformation without state, which needs parameters.

    Raises:
      ValueError: `weight_decay` is no finite number, specs do not fit, or `update` is called without parameters.

    Example:
      >>> tx, w = add_cautious_decay(NormSpec(Spectral()), 0.5), jnp.array([[2.0, 2.0]])
      >>> tx.update(jnp.array([[1.0, -1.0]]), tx.init(w), w)[0]
      Array([[ 2., -1.]], dtype=float32)

    References:
      Chen et al., Cautious Weight Decay, arXiv:2510.12402.
    """
    check_numbers("add_cautious_decay", FINITE, weight_decay=weight_decay)

    def decayed(u: Stack, w: Stack) -> Stack:
        # signs, since the product of small numbers is 0
        return u + jnp.where(jnp.sign(u) * jnp.sign(w) > 0.0, jnp.asarray(weight_decay, w.dtype) * w, 0.0)

    return link_of_atoms("add_cautious_decay", decayed, specs, is_hidden_matrix)


class FixedLengthsState(NamedTuple):
    """The Euclidean length of every parameter when training began; -1 where it is not known yet."""

    lengths: Any


def keep_lengths_fixed() -> optax.GradientTransformationExtraArgs:
    r"""Changes updates so that every parameter keeps the Euclidean length it had: `FixedNorm` for what has no norm.

    .. math:: u \mapsto |w_0|_2 \frac{w + u}{|w + u|_2} - w

    The last link of a chain, such as that of a fallback: `fallback=optax.chain(optax.adam(1e-3),
    keep_lengths_fixed())`. Parameters that began at zero move freely.

    Returns:
      A transformation whose state is a `FixedLengthsState`; it needs parameters.

    Raises:
      ValueError: `update` is called without parameters.

    Example:
      >>> tx, w = keep_lengths_fixed(), jnp.array([3.0, 4.0])
      >>> tx.update(jnp.array([3.0, -4.0]), tx.init(w), w)[0]
      Array([ 2., -4.], dtype=float32)

    References:
      Wen et al., Fantastic Pretraining Optimizers and Where to Find Them II (Hyperball), 2025.
    """

    def size(w: jax.Array) -> jax.Array:
        return length(jnp.asarray(w, working_dtype(w.dtype)), tuple(range(w.ndim)))

    def init(params: optax.Params) -> FixedLengthsState:
        if is_absent(params):
            return FixedLengthsState(UNLIKE_PARAMETERS)
        return FixedLengthsState(jax.tree.map(first, params))

    def first(w: Any) -> jax.Array:
        # shapes alone have no length: the first update measures the weights that it is given
        return jnp.full((), -1.0, working_dtype(w.dtype)) if is_abstract(w) else size(w)

    def known(w: jax.Array, at_first: jax.Array) -> jax.Array:
        return jnp.where(at_first < 0.0, size(w), at_first)

    def kept(u: jax.Array, w: jax.Array, at_first: jax.Array) -> jax.Array:
        before = w.astype(at_first.dtype)
        after = at_first * unit(before + u.astype(at_first.dtype), tuple(range(w.ndim)))
        return jnp.where(at_first > 0.0, after - before, u.astype(at_first.dtype)).astype(u.dtype)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        del extra_args
        if is_absent(updates):
            return updates, state
        refuse_without(params, "keep_lengths_fixed")
        lengths = jax.tree.map(known, params, state.lengths)
        return jax.tree.map(kept, updates, params, lengths), FixedLengthsState(lengths)

    return guarded(init, update)


def _has_norm(spec: NormSpec) -> bool:
    return spec.is_normed


def _at_least(u: Stack, w: Stack, fraction: jax.typing.ArrayLike, axes: tuple[int, ...]) -> Stack:
    return u * jnp.maximum(1.0, jnp.asarray(fraction, u.dtype) * _ratio(w, u, axes))


def _ratio(x: Stack, y: Stack, axes: tuple[int, ...]) -> Array:
    """Length of one over that of the other."""
    over, under = (jnp.expand_dims(length(z, axes), axes) for z in (x, y))
    return over / one_where_zero(under)
