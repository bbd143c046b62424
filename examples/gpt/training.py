"""The training loop: one optimizer, one model, one order of the data."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from gpt.checkpoint import Checkpoints
from gpt.config import Config
from gpt.corpus import Corpus, training_batch, validation_batch
from gpt.model import GPT, predict


class State(NamedTuple):
    """What the next step depends on."""

    params: optax.Params
    opt_state: optax.OptState
    position: Int[Array, ""]  # batches drawn so far; the data order needs no more to go on


@dataclasses.dataclass
class Record:
    """What has been measured so far.

    Attributes:
      training: loss of the batch of every step.
      validation: steps done and the validation loss after them.
      norms: steps done and what a monitor measured at the last of them.
      seconds: spent in steps, compilation excluded.
    """

    training: list[float] = dataclasses.field(default_factory=list)
    validation: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    norms: list[tuple[int, dict[str, float]]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


def train(
    model: GPT,
    tx: optax.GradientTransformation,
    state: State,
    record: Record,
    *,
    config: Config,
    corpus: Corpus,
    checkpoints: Checkpoints,
    on_step: Callable[[int, float], Any],
    read_norms: Callable[[optax.OptState], dict[str, float]] | None = None,
) -> State:
    """Trains from `state` to the last step, adding to `record`.

    Args:
      model: the network.
      tx: the optimizer.
      state: where to start, or to go on from.
      record: what was measured up to there.
      config: how long, and on batches of what size.
      corpus: the text.
      checkpoints: where the state is saved at intervals and at the end.
      on_step: called with the number of steps done and the last training loss.
      read_norms: reads what a monitor measured from the optimizer's state, if there is one.

    Returns:
      The state after the last step.
    """
    if state.position == config.steps:
        return state
    held_out = jnp.asarray(validation_batch(corpus, config))
    evaluate = jax.jit(partial(loss, model))
    # compiled ahead, so that the seconds of a step are those of a step
    step = make_step(model, tx).lower(state, training_batch(corpus, config, 0)).compile()

    for done in range(int(state.position) + 1, config.steps + 1):
        begin = time.perf_counter()
        state, batch_loss = step(state, training_batch(corpus, config, done - 1))
        record.training.append(float(batch_loss))
        record.seconds += time.perf_counter() - begin
        if done % config.evaluate_every == 0 or done == config.steps:
            record.validation.append((done, float(evaluate(state.params, held_out))))
            if read_norms is not None:
                record.norms.append((done, read_norms(state.opt_state)))
        if done % config.save_every == 0 or done == config.steps:
            checkpoints.save(state, dataclasses.asdict(record))
        on_step(done, record.training[-1])
    return state


def make_step(model: nn.Module, tx: optax.GradientTransformation):
    """The compiled step; it takes over the buffers of the state it is given."""

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, batch: Int[Array, "batch time"]) -> tuple[State, Float[Array, ""]]:
        value, grads = jax.value_and_grad(partial(loss, model))(state.params, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), opt_state, state.position + 1), value

    return step


def loss(model: nn.Module, params: optax.Params, batch: Int[Array, "batch time"]) -> Float[Array, ""]:
    """Mean cross-entropy of the next byte, in nats."""
    logits = predict(model, params, batch[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()
