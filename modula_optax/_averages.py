"""Averages over training: of weights, for what is evaluated; of steps, for where gradients are taken."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from modula_optax._align import is_abstract
from modula_optax._arguments import check_numbers
from modula_optax._checks import DECAY, FINITE
from modula_optax._guard import guarded, refuse_without
from modula_optax._linalg import working_dtype
from modula_optax._paths import flatten_with_paths, is_absent, owners_among, refuse

State = TypeVar("State")


class ParamsAverageState(NamedTuple):
    """State of `average_params`, for `averaged_params`.

    Attributes:
      count: number of updates so far.
      average: that of the parameters after them, in at least float32; before any, the first parameters.
    """

    count: jax.typing.ArrayLike  # pyright: ignore[reportIncompatibleMethodOverride]
    average: Any


def average_params(decay: jax.typing.ArrayLike = 0.99) -> optax.GradientTransformationExtraArgs:
    r"""Keeps an average of the parameters beside training, which it does not change: the last link of a chain.

    .. math:: a_t = \frac{1 - \beta}{1 - \beta^t} \sum_{i \le t} \beta^{t - i} \, w_i, \qquad w_i = w_{i-1} + u_i

    Args:
      decay: :math:`\beta`; what is averaged is about the last :math:`1 / (1 - \beta)` steps.

    Returns:
      A transformation whose state is a `ParamsAverageState`, in at least float32, for `averaged_params`; it needs
      parameters.

    Raises:
      ValueError: `decay` is not in [0, 1), or `update` is called without parameters.

    Example:
      >>> tx, w = average_params(0.5), jnp.array([0.0])
      >>> u, state = tx.update(jnp.array([1.0]), tx.init(w), w)
      >>> state.average
      Array([1.], dtype=float32)

    References:
      Polyak & Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.
    """
    check_numbers("average_params", DECAY, decay=decay)

    def init(params: optax.Params) -> ParamsAverageState:
        def first(p: Any) -> Array:
            # shapes alone say nothing of values, which the first update takes in place of these anyway
            zeros = jnp.zeros_like(p, working_dtype(p.dtype))
            # a copy, since parameters may be donated to the next step
            return zeros if is_abstract(p) else zeros + jnp.asarray(p, zeros.dtype)

        return ParamsAverageState(jnp.zeros([], jnp.int32), jax.tree.map(first, params))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        del extra_args
        refuse_without(params, "average_params")
        count = jnp.asarray(optax.safe_increment(state.count))

        def averaged(u: Array, p: Array, a: Array) -> Array:
            b = jnp.asarray(decay, a.dtype)
            newest = (1 - b) / (1 - b ** count.astype(a.dtype))
            return a + newest * (p.astype(a.dtype) + u.astype(a.dtype) - a)

        return updates, ParamsAverageState(count, jax.tree.map(averaged, updates, params, state.average))

    return guarded(init, update)


def averaged_params(state: optax.OptState, params: Any, share: jax.typing.ArrayLike = 0.6) -> Any:
    r"""Parameters to evaluate, :math:`(1 - s) \, w_t + s \, a_t`: those of now blended with their average.

    Args:
      state: that of an optimizer with `average_params` in it, however it is wrapped.
      params: the parameters of now.
      share: how much s of the average.

    Returns:
      A tree like `params`. What is masked from `average_params` stays as it is.

    Raises:
      ValueError: the state holds no average or several, or not that of these parameters.

    Example:
      >>> averaged_params(ParamsAverageState(1, jnp.array([1.0])), jnp.array([3.0]), share=0.5)
      Array([2.], dtype=float32)
    """
    check_numbers("averaged_params", FINITE, share=share)

    def blended(p: Array, a: Array) -> Array:
        now = p.astype(a.dtype)
        return (now + jnp.asarray(share, a.dtype) * (a - now)).astype(p.dtype)

    return _beside(blended, params, _only(ParamsAverageState, state, "average_params").average)


class LookaheadState(NamedTuple):
    """How far ahead of the parameters gradients are taken."""

    ahead: Any


def look_along_average(
    multiple: jax.typing.ArrayLike = 1.0, decay: jax.typing.ArrayLike = 0.9
) -> optax.GradientTransformationExtraArgs:
    r"""Lets gradients be taken ahead of the parameters, along an average of past steps (EMA-Nesterov): the last link.

    .. math:: e_t = \beta e_{t-1} + (1 - \beta) u_t, \qquad y_t = w_t + \kappa e_t

    What is trained are the points :math:`y`, a step of which is :math:`u_t + \kappa (e_t - e_{t-1})`; the parameters to
    evaluate are `params_behind(state, y)`.

    Args:
      multiple: how far ahead :math:`\kappa`, in steps of average length.
      decay: :math:`\beta` of the average.

    Returns:
      A transformation whose state is a `LookaheadState`, in at least float32.

    Raises:
      ValueError: `decay` is not in [0, 1), or `multiple` is not finite.

    Example:
      >>> tx = look_along_average(2.0, 0.5)
      >>> y, state = tx.update(jnp.array([1.0]), tx.init(jnp.array([0.0])))
      >>> y, params_behind(state, y)
      (Array([2.], dtype=float32), Array([1.], dtype=float32))

    References:
      modded-nanogpt, records of track 3, 2026.
    """
    check_numbers("look_along_average", FINITE, multiple=multiple)
    check_numbers("look_along_average", DECAY, decay=decay)

    def init(params: optax.Params) -> LookaheadState:
        return LookaheadState(jax.tree.map(lambda p: jnp.zeros_like(p, working_dtype(p.dtype)), params))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        del params, extra_args

        def moved(u: Array, ahead: Array) -> Array:
            b, k = (jnp.asarray(x, ahead.dtype) for x in (decay, multiple))
            return b * ahead + (1 - b) * k * u.astype(ahead.dtype)

        ahead = jax.tree.map(moved, updates, state.ahead)
        steps = jax.tree.map(
            lambda u, new, old: (u.astype(new.dtype) + new - old).astype(u.dtype), updates, ahead, state.ahead
        )
        return steps, LookaheadState(ahead)

    return guarded(init, update)


def params_behind(state: optax.OptState, params: Any) -> Any:
    """The parameters that `look_along_average` looks ahead of.

    Args:
      state: that of an optimizer with `look_along_average` in it, however it is wrapped.
      params: the points that are trained.

    Returns:
      A tree like `params`. What is masked from `look_along_average` stays as it is.

    Raises:
      ValueError: the state holds no such average or several, or not that of these parameters.

    Example:
      >>> tx, y = optax.chain(optax.sgd(1.0), look_along_average(2.0, 0.5)), jnp.array([0.0])
      >>> u, state = tx.update(jnp.array([-1.0]), tx.init(y), y)
      >>> params_behind(state, optax.apply_updates(y, u))
      Array([1.], dtype=float32)
    """
    ahead = _only(LookaheadState, state, "look_along_average").ahead
    return _beside(lambda y, a: (y.astype(a.dtype) - a).astype(y.dtype), params, ahead)


def _only(kind: type[State], state: Any, link: str) -> State:
    """The one state of a kind in that of an optimizer."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    found = [node for node in nodes if isinstance(node, kind)]
    if len(found) != 1:
        raise ValueError(
            f"This state must hold that of one {link}, and holds {len(found)}. Pass the state of an optimizer such as\n"
            f"optax.chain(..., mo.{link}()), or, of several, the state of one of them."
        )
    return found[0]


def _beside(function: Callable[[Array, Array], Array], params: Any, averages: Any) -> Any:
    """`function` of every parameter and what is kept of it, found by path; parameters that were masked stay."""
    flat, treedef = flatten_with_paths(params)
    kept = dict(flatten_with_paths(averages)[0])
    owners = owners_among(kept, flat)
    known = {path: kept[path] for path, p in flat if not (is_absent(p) or is_absent(kept.get(path)))}
    of_others = [path for path, p in flat if path in known and p.shape != known[path].shape]
    strangers = sorted({*owners.missing, *owners.extra, *of_others})
    one, many = "parameter is not as this state knows it", "parameters are not as this state knows them"
    refuse(one, many, strangers, "Pass the parameters that the optimizer trains.")
    return treedef.unflatten([function(p, known[path]) if path in known else p for path, p in flat])
