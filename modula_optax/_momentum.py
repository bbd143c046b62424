"""Momentum: the average that a gradient goes through before its direction is taken."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, DTypeLike


class MomentumState(NamedTuple):
    """Number of updates so far, and the running average of the gradients."""

    count: jax.typing.ArrayLike  # pyright: ignore[reportIncompatibleMethodOverride]
    mu: optax.Updates


def scale_by_momentum(
    b1: jax.typing.ArrayLike = 0.95, *, nesterov: bool = True, accumulator_dtype: DTypeLike | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Debiased exponential average of the gradients, with Nesterov's look-ahead as in NAdam.

    .. math:: \mu_t = \beta \mu_{t-1} + (1 - \beta) g_t, \qquad
      u_t = \beta \frac{\mu_t}{1 - \beta^{t+1}} + (1 - \beta) \frac{g_t}{1 - \beta^t}

    Without Nesterov :math:`u_t = \mu_t / (1 - \beta^t)`, which is `optax.ema`.

    Args:
      b1: decay of the average, :math:`\beta`; in [0, 1).
      nesterov: whether to look ahead.
      accumulator_dtype: dtype of the average; `None`: that of the parameters.

    Returns:
      A transformation whose updates have the dtype of the gradients.

    Example:
      >>> tx = scale_by_momentum(0.9, nesterov=False)
      >>> tx.update(jnp.array([1.0]), tx.init(jnp.array([0.0])))[0].round(3)
      Array([1.], dtype=float32)

    References:
      Dozat, Incorporating Nesterov Momentum into Adam, 2016.
    """
    # `jit`, here and below: of many leaves of one shape only the first is traced step by step
    average = jax.jit(partial(optax.tree.update_moment, decay=b1, order=1))

    def init(params: optax.Params) -> MomentumState:
        return MomentumState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params, dtype=accumulator_dtype))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        del params, extra_args
        mu = jax.tree.map(average, updates, state.mu, is_leaf=lambda x: x is None)
        count = optax.safe_increment(state.count)
        debiasing = 1 - b1**count
        if nesterov:
            of_mu, of_gradient = b1 / (1 - b1 ** optax.safe_increment(count)), (1 - b1) / debiasing
            averaged = jax.tree.map(partial(_ahead, of_mu, of_gradient), mu, updates)
        else:
            averaged = jax.tree.map(lambda m, g: (m / debiasing).astype(g.dtype), mu, updates)
        return averaged, MomentumState(count, optax.tree.cast(mu, accumulator_dtype))

    return optax.GradientTransformationExtraArgs(init, update)


@jax.jit
def _ahead(of_mu: Array, of_gradient: Array, mu: Array, gradient: Array) -> Array:
    return (of_mu * mu + of_gradient * gradient).astype(gradient.dtype)
