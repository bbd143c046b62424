"""The networks and data that are trained on."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gpt.config import Config
from gpt.corpus import Corpus, load_corpus, training_batch, windows
from gpt.model import GPT, MLP, VOCABULARY, Attention
from sweeps.run import Setting

HELD_OUT = 128  # sequences that every validation loss is measured on


class Problem(NamedTuple):
    """A network, its data and its loss.

    Attributes:
      init: parameters of a random key, as the framework initializes them.
      predict: outputs of parameters and inputs.
      loss: of parameters and a batch.
      inputs: shapes of an example of inputs.
      batch: the batch of a seed and a position in its order.
      held_out: what is validated on, the same for all seeds.
    """

    init: Callable[[jax.Array], Any]
    predict: Callable[[Any, jax.Array], jax.Array]
    loss: Callable[[Any, Any], jax.Array]
    inputs: jax.ShapeDtypeStruct
    batch: Callable[[int, int], Any]
    held_out: Any


class ScaledGPT(nn.Module):
    """The GPT with residual branches weighted so that its traced sensitivities stay small at every depth."""

    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of the byte that follows each of `tokens`."""
        x = nn.Embed(VOCABULARY, self.width, name="embed")(tokens)
        share = 1 / (2 * self.depth)
        for i in range(self.depth):
            # a third, as Modula's: attention reads its input in three ways
            for scale, layer in ((1 / 3, Attention(self.heads, name=f"attention_{i}")), (1.0, MLP(name=f"mlp_{i}"))):
                x = (1 - share) * x + share * scale * layer(nn.RMSNorm(use_scale=False)(x))
        return nn.Dense(VOCABULARY, use_bias=False, name="head")(nn.RMSNorm(use_scale=False)(x))


@cache
def corpus() -> Corpus:
    """The text, read once."""
    return load_corpus(None, 64)


def language_model(model_class: type[nn.Module], setting: Setting) -> Problem:
    """Bytes of State of the Union addresses."""
    heads = Config(width=setting.width).heads
    model = model_class(setting.width, setting.depth, heads)

    def predict(params: Any, tokens: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply(params, tokens))

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        logits = predict(params, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    def batch(seed: int, position: int) -> np.ndarray:
        config = Config(seed=seed, batch=setting.batch, context=setting.context)
        return training_batch(corpus(), config, position)

    held_out = windows(corpus().validation, HELD_OUT, setting.context, np.random.default_rng(1))
    init = partial(model.init, **{"tokens": jnp.zeros((1, 1), jnp.int32)})
    return Problem(init, predict, loss, jax.ShapeDtypeStruct((2, 8), jnp.int32), batch, held_out)


TASKS: dict[str, Callable[[Setting], Problem]] = {
    "gpt": partial(language_model, GPT),
    "scaled gpt": partial(language_model, ScaledGPT),
}
