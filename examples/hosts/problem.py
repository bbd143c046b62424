"""The training that every group of devices does the same: model, optimizer, initial weights, order of the steps."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from gpt.config import Config
from gpt.contenders import LEARNING_RATES, schedule, start_modular
from gpt.model import GPT
from gpt.training import State

Batch = Int[Array | np.ndarray, "batch time"]
Step = Callable[[State, Batch], tuple[State, Float[Array, ""]]]


@dataclasses.dataclass(frozen=True)
class Problem(Config):
    """A training of the GPT of `train_gpt.py`, small enough that compiling it takes most of the time.

    Attributes:
      dtype: of the parameters, and so of all that is computed.
    """

    steps: int = 12
    width: int = 64
    depth: int = 2
    batch: int = 16
    context: int = 32
    dtype: str = "float32"


def set_up(problem: Problem) -> tuple[Callable[[], State], GPT, optax.GradientTransformation]:
    """What makes the state before the first step, the network, and modular duality under the norms read off it.

    Nothing is computed: whoever calls the first decides where its arrays are to be.
    """
    jax.config.update("jax_enable_x64", problem.dtype == "float64")
    model = GPT(problem.width, problem.depth, problem.heads)

    def initial_params() -> optax.Params:
        params = model.init(jax.random.key(problem.seed), jnp.zeros((1, 1), jnp.int32))
        return jax.tree.map(lambda x: x.astype(problem.dtype), params)

    rates = schedule(LEARNING_RATES["modular"], problem.steps)
    tx = start_modular(model, jax.eval_shape(initial_params), rates)

    def initial_state() -> State:
        params = initial_params()
        return State(params, tx.init(params), jnp.int32(0))

    return initial_state, model, tx


def run_steps(step: Step, state: State, batch_at: Callable[[int], Batch], until: int) -> tuple[State, list[float]]:
    """Steps from where `state` stands until `until` have been done.

    Args:
      step: the compiled step.
      state: where to start or to go on from.
      batch_at: the batch of a position in the data order.
      until: number of steps done at the end.

    Returns:
      The state at the end, and the loss of every step.
    """
    losses = []
    for position in range(int(state.position), until):
        state, loss = step(state, batch_at(position))
        losses.append(float(loss))
    return state, losses
