"""Ninjax: an image classifier in a flat state, trained under Ninjax's optimizer module. One file, to be copied.

    python examples/image_ninjax.py

The state also holds what is not trained, here the mean of the images seen: the optimizer gets the keys of the network.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ninjax as nj
import numpy as np
import optax
from sklearn.datasets import load_digits

import modula_optax as mo

EPOCHS, BATCH, RATE = 8, 64, 0.05


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images and labels to train on, then those held out: every fifth of scikit-learn's digits."""
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    images, labels = (images / 16).reshape(-1, 8, 8, 1).astype(np.float32), labels.astype(np.int32)
    held_out = np.random.default_rng(0).permutation(len(images)) % 5 == 0
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


def batches(count: int, epochs: int) -> Iterator[tuple[int, np.ndarray]]:
    """For every step the epoch that it ends, or 0, and the images of its batch, in a new order each epoch."""
    rng, steps = np.random.default_rng(0), count // BATCH
    for epoch in range(1, epochs + 1):
        for i, chosen in enumerate(rng.permutation(count)[: steps * BATCH].reshape(steps, BATCH), 1):
            yield epoch if i == steps else 0, chosen


class Layer(nj.Module):
    """A 3 x 3 convolution of stride 2, or a linear layer."""

    def __init__(self, features: int, convolve: bool = False):
        self.features, self.convolve = features, convolve

    def __call__(self, x: jax.Array) -> jax.Array:
        """As many channels as there are features."""
        shape = (3, 3, x.shape[-1], self.features) if self.convolve else (x.shape[-1], self.features)
        kernel = self.value("kernel", lambda: random_kernel(shape))
        if self.convolve:
            x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        else:
            x = x @ kernel
        return x + self.value("bias", jnp.zeros, self.features)


def random_kernel(shape: tuple[int, ...]) -> jax.Array:
    """A kernel drawn with the seed of the pure function that it is made in."""
    key: Any = nj.seed()
    return jax.nn.initializers.he_normal()(key, shape)


class Net(nj.Module):
    """Two convolutions, two dense layers."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scores of the ten classes."""
        x = jax.nn.relu(self.sub("conv1", Layer, 32, True)(x))
        x = jax.nn.relu(self.sub("conv2", Layer, 32, True)(x))
        x = jax.nn.relu(self.sub("hidden", Layer, 64)(x.reshape(len(x), -1)))
        return self.sub("head", Layer, 10)(x)


class Classifier(nj.Module):
    """The network, after the running mean of the images is taken off."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scores of the ten classes."""
        return self.sub("net", Net)(x - self.value("mean", jnp.zeros, x.shape[1:]))

    def loss(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Cross-entropy of a batch, which the mean takes note of."""
        logits = self(x)
        self.write("mean", 0.95 * self.read("mean") + 0.05 * x.mean(0))
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def main(epochs: int = EPOCHS) -> float:
    """Trains, prints a line for every epoch, and returns the accuracy on images held out."""
    images, labels, test_images, test_labels = digits()
    model = Classifier(name="classifier")  # pyright: ignore[reportCallIssue]  (the metaclass takes it)
    state = nj.init(model.__call__)({}, images[:8], seed=0)
    # what modula_optax needs: the norms of what is trained, and a learning rate in units of them
    params = {key: value for key, value in state.items() if key.startswith("classifier/net/")}
    specs = mo.infer_specs(lambda p, x: nj.pure(model.__call__)({**state, **p}, x)[1], params, images[:8])
    schedule = optax.linear_schedule(RATE, 0.0, epochs * (len(images) // BATCH))
    # Ninjax passes no parameters to the optimizer, which decay would need
    optimizer = nj.FromOptax(mo.modular(schedule, specs, weight_decay=0.0))(name="optimizer")

    def update(x, y):
        loss, *_ = optimizer(model.loss, ["classifier/net"], x, y)
        return loss

    step, predict = jax.jit(nj.pure(update)), jax.jit(nj.pure(model.__call__))
    state = nj.init(update)(state, images[:8], labels[:8], seed=0)  # adds the optimizer's keys

    accuracy = 0.0
    for epoch, chosen in batches(len(images), epochs):
        state, loss = step(state, images[chosen], labels[chosen])
        if epoch:
            accuracy = float(np.mean(np.argmax(predict(state, test_images)[1], -1) == test_labels))
            print(f"epoch {epoch:2}: loss {float(loss):.3f}, accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
