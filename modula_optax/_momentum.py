"""Momentum: the average that a gradient goes through before its direction is taken."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, DTypeLike

from modula_optax._arguments import check_dtype, check_numbers
from modula_optax._checks import DECAY
from modula_optax._guard import guarded


class MomentumState(NamedTuple):
    """Number of updates so far, and the running average of the gradients."""

    count: jax.typing.ArrayLike  # pyright: ignore[reportIncompatibleMethodOverride]
    mu: optax.Updates


class Averaging(NamedTuple):
    """The numbers of one average: what the last one and the gradient count, and what of both goes out."""

    b1: jax.typing.ArrayLike
    rest: jax.typing.ArrayLike
    scale: jax.typing.ArrayLike
    of_mu: jax.typing.ArrayLike | None


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
      A transformation whose updates are as wide as gradients and average together: gradients in half precision of
      weights in float32 are averaged in float32. The average keeps its dtype.

    Raises:
      ValueError: `b1` is not in [0, 1), or the dtype is none of floating-point numbers.

    Example:
      >>> tx = scale_by_momentum(0.9, nesterov=False)
      >>> tx.update(jnp.array([1.0]), tx.init(jnp.array([0.0])))[0].round(3)
      Array([1.], dtype=float32)

    References:
      Dozat, Incorporating Nesterov Momentum into Adam, 2016.
    """
    check_numbers("scale_by_momentum", DECAY, b1=b1)
    check_dtype("accumulator_dtype", accumulator_dtype)

    def init(params: optax.Params) -> MomentumState:
        return MomentumState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params, dtype=accumulator_dtype))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        del params, extra_args
        count = optax.safe_increment(state.count)
        numbers = averaging(b1, nesterov, count)
        gradients, treedef = jax.tree.flatten(updates)
        averages = [
            average(numbers, gradient, mu)
            for gradient, mu in zip(gradients, treedef.flatten_up_to(state.mu), strict=True)
        ]
        averaged, mu = (treedef.unflatten([pair[i] for pair in averages]) for i in (0, 1))
        return averaged, MomentumState(count, mu)

    return guarded(init, update)


def averaging(b1: jax.typing.ArrayLike, nesterov: bool, count: jax.typing.ArrayLike) -> Averaging:
    """The numbers of the average of this number."""
    debiasing = 1 - _power(b1, count)
    if not nesterov:
        return Averaging(b1, 1 - b1, 1 / debiasing, None)
    # a factor for all, since XLA compiles the sum of two products once for the first leaf and again for all others
    scale = (1 - b1) / debiasing
    return Averaging(b1, 1 - b1, scale, b1 / (1 - _power(b1, optax.safe_increment(count))) / scale)


# `jit`: of many leaves of one shape only the first is traced step by step
@partial(jax.jit, inline=True)
def average(numbers: Averaging, gradient: Array, mu: Array) -> tuple[Array, Array]:
    """The average of a gradient and of those before it as it goes out, and as it is kept."""
    kept, wide = mu.dtype, jnp.promote_types(gradient.dtype, mu.dtype)
    # the numbers may be arrays of a dtype of their own, as those of `inject_hyperparams` are
    scale, rest = (jnp.asarray(number, wide) for number in (numbers.scale, numbers.rest))
    gradient = gradient.astype(wide)
    # the product is rounded as the average is kept, as in Optax
    mu = rest * gradient + (jnp.asarray(numbers.b1, kept) * mu).astype(wide)
    averaged = scale * mu if numbers.of_mu is None else scale * (gradient + jnp.asarray(numbers.of_mu, wide) * mu)
    return averaged, mu.astype(kept)


def _power(x: jax.typing.ArrayLike, count: jax.typing.ArrayLike) -> Array:
    """Power of a number by an integer, whose dtypes strict promotion would not let meet."""
    dtype = jnp.result_type(float)
    return jnp.asarray(x, dtype) ** jnp.asarray(count, dtype)
