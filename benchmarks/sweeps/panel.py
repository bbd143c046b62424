"""The tasks of the panel: a network, its data, and how long it is trained."""

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common.images import Images, load_images
from gpt.corpus import Corpus, load_corpus
from sweeps.networks import GPT, MLP, Recurrent, ResNet, ViT, Window
from sweeps.run import Setting

HELD_OUT = 256  # sequences
HELD_OUT_IMAGES = 1000  # at most
LARGEST_SHIFT = 1  # pixels; so few images would be learned by heart


class Task(NamedTuple):
    """What is trained: all that a compiled run needs.

    Attributes:
      network: with `init` and `predict`.
      data: arrays that batches are cut out of.
      draw: for a seed and a number of steps, what tells the batches, a row for each step.
      batch: the inputs and the targets of such a row.
      held_out: inputs and targets that every validation loss is measured on.
      source: what tells these data from others.
      name: what the data are called.
    """

    network: Any
    data: Any
    draw: Callable[[int, int], Any]
    batch: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
    held_out: tuple[np.ndarray, np.ndarray]
    source: str
    name: str

    def loss(self, params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Mean cross-entropy, in nats."""
        inputs, targets = batch
        logits = self.network.predict(params, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


@cache
def text(path: Path | None) -> Corpus:
    """A text, read once: State of the Union addresses unless a file is given."""
    return load_corpus(path, 64)


def of_bytes(network: Any, setting: Setting, path: Path | None) -> Task:
    """A network that tells the next byte of a text."""
    corpus, size = text(path), setting.context + 1

    def draw(seed: int, steps: int) -> np.ndarray:
        return np.random.default_rng([seed, 1]).integers(len(corpus.training) - size, size=(steps, setting.batch))

    def batch(data: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
        sequences = data[starts[:, None] + jnp.arange(size)].astype(jnp.int32)
        return sequences[:, :-1], sequences[:, 1:]

    starts = np.random.default_rng(1).integers(len(corpus.validation) - size, size=HELD_OUT)
    held_out = corpus.validation[starts[:, None] + np.arange(size)].astype(np.int32)
    return Task(
        network, corpus.training, draw, batch, (held_out[:, :-1], held_out[:, 1:]), corpus.fingerprint, corpus.name
    )


@cache
def images(directory: Path | None) -> Images:
    """The digits of scikit-learn, or images from IDX files, read once."""
    return load_images(directory)


def of_images(network: Any, setting: Setting, directory: Path | None) -> Task:
    """A network that tells images of ten classes, shifted by up to a pixel."""
    found, room = images(directory), 2 * LARGEST_SHIFT + 1

    def draw(seed: int, steps: int) -> np.ndarray:
        rng = np.random.default_rng([seed, 1])
        chosen = rng.integers(len(found.images), size=(steps, setting.batch, 1))
        return np.concatenate([chosen, rng.integers(room, size=(steps, setting.batch, 2))], -1)

    def batch(data: Any, drawn: jax.Array) -> tuple[jax.Array, jax.Array]:
        pictures, labels = data
        _, height, width, _ = pictures.shape

        def one(row: jax.Array) -> jax.Array:
            framed = jnp.pad(pictures[row[0]], ((LARGEST_SHIFT, LARGEST_SHIFT), (LARGEST_SHIFT, LARGEST_SHIFT), (0, 0)))
            return jax.lax.dynamic_slice(framed, (row[1], row[2], 0), (height, width, 1))

        return jax.vmap(one)(drawn), labels[drawn[:, 0]]

    held_out = (found.test_images[:HELD_OUT_IMAGES], found.test_labels[:HELD_OUT_IMAGES])
    return Task(network, (found.images, found.labels), draw, batch, held_out, found.name, found.name)


def clean_gpt(s: Setting, data: Path | None) -> Task:
    """RMS-normalised everywhere, without biases and gains, residual branches that start small."""
    return of_bytes(GPT(s.width, s.depth, s.context), s, data)


def usual_gpt(s: Setting, data: Path | None) -> Task:
    """As people write it: biases, LayerNorm, learned positions, and no start of its own for residual branches."""
    network = GPT(s.width, s.depth, s.context, biases=True, learned_positions=True, scaled_start=False)
    return of_bytes(network, s, data)


def tied_gpt(s: Setting, data: Path | None) -> Task:
    """The table is the head as well."""
    return of_bytes(GPT(s.width, s.depth, s.context, tied=True), s, data)


def grouped_gpt(s: Setting, data: Path | None) -> Task:
    """Half or fewer of the heads for keys and values, and a gated MLP."""
    network = GPT(s.width, s.depth, s.context, key_heads=max(1, s.width // 64), gated=True)
    return of_bytes(network, s, data)


def large_heads_gpt(s: Setting, data: Path | None) -> Task:
    """The clean one with heads as large as those of people's networks."""
    return of_bytes(GPT(s.width, s.depth, s.context, head_size=64), s, data)


def recurrent(s: Setting, data: Path | None) -> Task:
    """A gated recurrent cell."""
    return of_bytes(Recurrent(s.width), s, data)


def window(s: Setting, data: Path | None) -> Task:
    """A perceptron that sees eight bytes."""
    return of_bytes(Window(s.width), s, data)


def perceptron(s: Setting, data: Path | None) -> Task:
    """A perceptron with biases."""
    return of_images(MLP(s.width, s.depth, images(data).images[0].size), s, data)


def resnet(s: Setting, data: Path | None) -> Task:
    """Convolutions with batch normalisation."""
    return of_images(ResNet(s.width, s.depth), s, data)


def vit(s: Setting, data: Path | None) -> Task:
    """A vision transformer of four by four patches (digits) or seven by seven."""
    side = images(data).images.shape[1]
    return of_images(ViT(s.width, s.depth, side, 2 if side == 8 else 4), s, data)


TASKS: dict[str, Callable[[Setting, Path | None], Task]] = {
    "clean gpt": clean_gpt,
    "usual gpt": usual_gpt,
    "tied gpt": tied_gpt,
    "grouped gpt": grouped_gpt,
    "large heads gpt": large_heads_gpt,
    "recurrent": recurrent,
    "window": window,
    "mlp": perceptron,
    "resnet": resnet,
    "vit": vit,
}

# five epochs of 1,438 digits in batches of 64; those of Fashion-MNIST are longer (`--steps 4690`)
_DIGITS = {"steps": 110, "batch": 64, "context": 0, "evaluations": 10}
_TEXT = {"steps": 1000, "batch": 16, "context": 64, "evaluations": 10}
SETTINGS: dict[str, Setting] = {
    "clean gpt": Setting(64, 4, task="clean gpt", **_TEXT),
    "usual gpt": Setting(64, 4, task="usual gpt", **_TEXT),
    "tied gpt": Setting(128, 2, task="tied gpt", **_TEXT),
    "grouped gpt": Setting(128, 2, task="grouped gpt", **_TEXT),
    "large heads gpt": Setting(128, 2, task="large heads gpt", **_TEXT),
    "recurrent": Setting(128, 1, task="recurrent", **_TEXT),
    "window": Setting(128, 2, task="window", **_TEXT),
    "mlp": Setting(64, 2, task="mlp", **_DIGITS),
    "resnet": Setting(16, 1, task="resnet", **_DIGITS),
    "vit": Setting(64, 2, task="vit", **_DIGITS),
}


def ladder(weights: int) -> Setting:
    """A clean GPT of about so many weights in its blocks, trained on 20 bytes for each: a compute-optimal run."""
    depth = 4
    width = max(16, round((weights / (12 * depth)) ** 0.5 / 16) * 16)
    setting = SETTINGS["clean gpt"]
    steps = 20 * 12 * depth * width**2 // (setting.batch * setting.context)
    return dataclasses.replace(setting, width=width, depth=depth, steps=steps)
