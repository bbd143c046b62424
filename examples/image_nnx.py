"""Flax NNX: an image classifier under `nnx.Optimizer`, trained by modular duality. One file, to be copied.

    python examples/image_nnx.py

Batch statistics and dropout keys are part of the model, but no parameters: `wrt=nnx.Param` leaves them out.
"""

import argparse
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
import optax
from flax import nnx
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


class CNN(nnx.Module):
    """Two convolutions with batch norm, then two dense layers with dropout."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1, self.norm1 = nnx.Conv(1, 16, (3, 3), rngs=rngs), nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.conv2, self.norm2 = nnx.Conv(16, 32, (3, 3), rngs=rngs), nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.hidden, self.dropout = nnx.Linear(32 * 2 * 2, 64, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Scores of the ten classes."""
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            x = nnx.relu(norm(conv(x), use_running_average=not train))
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = nnx.relu(self.hidden(x.reshape(len(x), -1)))
        return self.head(self.dropout(x, deterministic=not train))


@nnx.jit
def step(model, optimizer, x, y):
    """The usual step of NNX: changes model and optimizer, returns the loss."""

    def loss_fn(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x, train=True), y).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


@partial(nnx.jit, static_argnames="train")
def predict(model, x, train: bool = False):
    """Scores of the ten classes."""
    return model(x, train)


def main(epochs: int = EPOCHS) -> float:
    """Trains, prints a line for every epoch, and returns the accuracy on images held out."""
    images, labels, test_images, test_labels = digits()
    model = CNN(nnx.Rngs(0))
    # what modula_optax needs: the model as a function of its parameters, and a learning rate in units of its norms
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    specs = mo.infer_specs(lambda p, x: nnx.merge(graph, p, rest, copy=True)(x, train=True), params, images[:8])
    tx = mo.modular(optax.linear_schedule(RATE, 0.0, epochs * (len(images) // BATCH)), specs)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    accuracy = 0.0
    for epoch, chosen in batches(len(images), epochs):
        loss = step(model, optimizer, images[chosen], labels[chosen])
        if epoch:
            accuracy = float(np.mean(np.argmax(predict(model, test_images), -1) == test_labels))
            print(f"epoch {epoch:2}: loss {float(loss):.3f}, accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
