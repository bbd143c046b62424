"""No framework: an image classifier in a list of dictionaries, trained by modular duality. One file, to be copied.

python examples/image_plain.py
"""

import argparse
from collections.abc import Iterator
from itertools import pairwise

import jax
import jax.numpy as jnp
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


def layers(*sizes: int) -> list[dict[str, jax.Array]]:
    """Weights `[fan_in, fan_out]` and biases; their values come from `mo.initialize`."""
    return [{"w": jnp.zeros(pair), "b": jnp.zeros(pair[1])} for pair in pairwise(sizes)]


def predict(params, x):
    """Scores of the ten classes."""
    *hidden, last = params
    x = x.reshape(len(x), -1)
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def main(epochs: int = EPOCHS) -> float:
    """Trains, prints a line for every epoch, and returns the accuracy on images held out."""
    images, labels, test_images, test_labels = digits()
    params = layers(images[0].size, 256, 256, 10)
    # what modula_optax needs: the norms, read off the model, and a learning rate in units of them
    specs = mo.infer_specs(predict, params, images[:8])
    params = mo.initialize(jax.random.key(0), params, specs)  # since this model has no start of its own
    tx = mo.modular(optax.linear_schedule(RATE, 0.0, epochs * (len(images) // BATCH)), specs)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state, x, y):
        def loss_fn(params):
            return optax.softmax_cross_entropy_with_integer_labels(predict(params, x), y).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    accuracy = 0.0
    for epoch, chosen in batches(len(images), epochs):
        params, opt_state, loss = step(params, opt_state, images[chosen], labels[chosen])
        if epoch:
            accuracy = float(np.mean(np.argmax(predict(params, test_images), -1) == test_labels))
            print(f"epoch {epoch:2}: loss {float(loss):.3f}, accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
