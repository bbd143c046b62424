"""The networks and data that are trained on."""

import hashlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from common.images import Images, load_images
from gpt.config import Config
from gpt.corpus import Corpus, load_corpus, training_batch, windows
from gpt.model import GPT, MLP, VOCABULARY, Attention
from sweeps.run import Setting

HELD_OUT = 128  # sequences that every validation loss is measured on
HELD_OUT_IMAGES = 1000  # at most
SHIFTS = 4  # of each


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


class Classifier(nn.Module):
    """The blocks of the GPT without attention, for images of ten classes."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Scores of the classes."""
        x = nn.Dense(self.width, use_bias=False, name="stem")(images.reshape(len(images), -1))
        for i in range(self.depth):
            x = x + MLP(name=f"mlp_{i}")(nn.RMSNorm(name=f"mlp_norm_{i}")(x))
        return nn.Dense(10, use_bias=False, name="head")(nn.RMSNorm(name="norm")(x))


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


@cache
def images(directory: Path | None) -> Images:
    """The digits of scikit-learn, or images from files, read once."""
    return load_images(directory)


def shifted(pictures: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Every picture moved by -1, 0 or 1 pixels down and to the right; what enters is zero."""
    _, height, width, _ = pictures.shape
    framed = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)))
    n = np.arange(len(pictures))[:, None, None]
    rows = np.arange(height)[:, None] + 1 - down[:, None, None]
    columns = np.arange(width) + 1 - right[:, None, None]
    return framed[n, rows, columns]


def image_classifier(directory: Path | None, setting: Setting) -> Problem:
    """Images of ten classes, shifted by up to a pixel: so few digits would be learned by heart, and say nothing."""
    data = images(directory)
    model = Classifier(setting.width, setting.depth)

    def predict(params: Any, batch: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply(params, batch))

    def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        inputs, labels = batch
        return optax.softmax_cross_entropy_with_integer_labels(predict(params, inputs), labels).mean()

    def batch(seed: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, position])
        chosen = rng.choice(len(data.images), setting.batch, replace=False)
        down, right = rng.integers(-1, 2, (2, setting.batch))
        return shifted(data.images[chosen], down, right), data.labels[chosen]

    held_out = data.test_images[:HELD_OUT_IMAGES]
    down, right = np.random.default_rng(1).integers(-1, 2, (2, SHIFTS * len(held_out)))
    held_out = shifted(np.tile(held_out, (SHIFTS, 1, 1, 1)), down, right)
    labels = np.tile(data.test_labels[:HELD_OUT_IMAGES], SHIFTS)
    example = data.images[:2]
    init = partial(model.init, images=jnp.asarray(example))
    return Problem(init, predict, loss, jax.ShapeDtypeStruct(example.shape, example.dtype), batch, (held_out, labels))


TASKS: dict[str, Callable[[Setting], Problem]] = {
    "gpt": partial(language_model, GPT),
    "scaled gpt": partial(language_model, ScaledGPT),
    "digits": partial(image_classifier, None),
}


def add_images(directory: Path) -> tuple[str, str]:
    """Makes the images in a directory a task; gives its name, and what tells them from others of that name.

    Raises:
      UserError: files are missing, damaged, or do not belong together.
    """
    data, digest = images(directory), hashlib.sha256()
    for array in (data.images, data.labels, data.test_images, data.test_labels):
        digest.update(array.tobytes())
    name = f"images of {directory.resolve().name}"
    TASKS[name] = partial(image_classifier, directory)
    return name, digest.hexdigest()[:20]
