"""Equinox: an image classifier under `filter_jit`, trained by modular duality. One file, to be copied.

    python examples/image_equinox.py

Weights are `[out, in]`, and activations are leaves of the model: `eqx.partition` leaves them out.
"""

import argparse
from collections.abc import Iterator

import equinox as eqx
import jax
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


class CNN(eqx.Module):
    """Two convolutions, two dense layers."""

    layers: list

    def __init__(self, key: jax.Array):
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 16, 3, padding=1, key=keys[0]),
            jax.nn.relu,
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(16, 32, 3, padding=1, key=keys[1]),
            jax.nn.relu,
            eqx.nn.MaxPool2d(2, 2),
            jax.numpy.ravel,
            eqx.nn.Linear(32 * 2 * 2, 64, key=keys[2]),
            jax.nn.relu,
            eqx.nn.Linear(64, 10, key=keys[3]),
        ]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scores of the ten classes, for one image."""
        x = x.transpose(2, 0, 1)
        for layer in self.layers:
            x = layer(x)
        return x


def main(epochs: int = EPOCHS) -> float:
    """Trains, prints a line for every epoch, and returns the accuracy on images held out."""
    images, labels, test_images, test_labels = digits()
    model = CNN(jax.random.key(0))
    # what modula_optax needs: the model as a function of its parameters, and a learning rate in units of its norms
    params, static = eqx.partition(model, eqx.is_inexact_array)
    specs = mo.infer_specs(lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, images[:8])
    tx = mo.modular(optax.linear_schedule(RATE, 0.0, epochs * (len(images) // BATCH)), specs)
    opt_state = tx.init(params)

    @eqx.filter_jit
    def step(model, opt_state, x, y):
        def loss_fn(model):
            return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()

        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        updates, opt_state = tx.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), opt_state, loss

    accuracy, predict = 0.0, eqx.filter_jit(lambda model, x: jax.vmap(model)(x))
    for epoch, chosen in batches(len(images), epochs):
        model, opt_state, loss = step(model, opt_state, images[chosen], labels[chosen])
        if epoch:
            accuracy = float(np.mean(np.argmax(predict(model, test_images), -1) == test_labels))
            print(f"epoch {epoch:2}: loss {float(loss):.3f}, accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
