"""One run: the model, its caps, its optimizer, and the bound that its weights certify at every evaluation."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import modula_optax as mo
from gpt.config import Config
from gpt.contenders import schedule
from gpt.corpus import Corpus, training_batch, validation_batch
from gpt.model import predict
from gpt.training import State, loss, make_step
from lipschitz.model import LipschitzGPT


@dataclasses.dataclass(frozen=True)
class Caps:
    """Largest norms of the matrices: of those in the blocks, and of the head."""

    blocks: float
    head: float = 5.0


@dataclasses.dataclass
class Record:
    """What is measured at every evaluation: steps done, validation loss, certified bound."""

    steps: list[int] = dataclasses.field(default_factory=list)
    validation: list[float] = dataclasses.field(default_factory=list)
    bounds: list[float] = dataclasses.field(default_factory=list)


def specs_of(model: LipschitzGPT, params: Any, caps: Caps | None) -> Any:
    """The norm of every parameter, read off the model; with what holds it at its cap, if there are any."""
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    # caps are of singular values, those of the head too; with them the table and the head bound the others' rate
    masses = {"embedding": 2.0, "head": 0.5, "hidden": 0.84}
    specs = mo.infer_specs(partial(predict, model), params, tokens, head=mo.Spectral(), masses=masses)

    def held(spec: mo.NormSpec) -> mo.NormSpec:
        if caps is None:
            return spec
        if spec.role == "embedding":
            # rows of RMS one at most: the bound is per unit of their change
            return dataclasses.replace(spec, constraint=mo.NormBall(1.0))
        cap = caps.head if spec.place == "head" else caps.blocks
        return dataclasses.replace(spec, constraint=mo.SpectralCap(cap))

    return jax.tree.map(held, specs)


def certified(model: LipschitzGPT, params: Any) -> float:
    """How far logits move at most (RMS, largest over positions), per unit that rows of the embedding move by."""
    # no rule asks for the length of the context
    return mo.lipschitz_bound(partial(predict, model), params, jax.ShapeDtypeStruct((1, 2), jnp.int32))


def caps_for(target: float, depth: int) -> Caps:
    """Caps under which whatever the weights are, they certify the target: at the caps they just do."""
    # norms alone count, so that a small width will do
    model = LipschitzGPT(4, depth)
    params = initial(model, seed=0)
    below, above = 0.0, 4.0
    for _ in range(12):
        caps = Caps((below + above) / 2)
        at_caps = jax.tree.map(lambda spec, w: spec.constraint.radius * w, specs_of(model, params, caps), params)
        below, above = (caps.blocks, above) if certified(model, at_caps) <= target else (below, caps.blocks)
    return Caps(below)


def initial(model: LipschitzGPT, seed: int) -> Any:
    """Weights of norm one."""
    params = model.init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))
    return mo.initialize(jax.random.key(seed), params, specs_of(model, params, None))


def train(
    config: Config,
    corpus: Corpus,
    caps: Caps | None,
    learning_rate: float,
    on_step: Callable[[int, float], Any],
) -> Record:
    """Trains one model from the start.

    Args:
      config: its size, and how long.
      corpus: the text.
      caps: what its weights are held to; `None` for free ones.
      learning_rate: the highest of the schedule.
      on_step: called with the number of steps done and the last training loss.

    Returns:
      What was measured.
    """
    model = LipschitzGPT(config.width, config.depth)
    params = initial(model, config.seed)
    specs = specs_of(model, params, caps)
    # caps hold the weights, and decay would hold those of the free model
    tx = mo.modular(schedule(learning_rate, config.steps), specs, weight_decay=0.0)
    params = jax.jit(partial(mo.project, specs=specs))(params)
    state, record = State(params, tx.init(params), jnp.int32(0)), Record()
    held_out = jnp.asarray(validation_batch(corpus, config))
    step, evaluate = make_step(model, tx), jax.jit(partial(loss, model))
    for done in range(1, config.steps + 1):
        state, batch_loss = step(state, training_batch(corpus, config, done - 1))
        if done % config.evaluate_every == 0 or done == config.steps:
            record.steps.append(done)
            record.validation.append(float(evaluate(state.params, held_out)))
            record.bounds.append(certified(model, state.params))
        on_step(done, float(batch_loss))
    return record
