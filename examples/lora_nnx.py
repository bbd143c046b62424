"""Flax NNX: a trained classifier is adapted to transposed images by low-rank (LoRA) parameters alone. One file.

    python examples/lora_nnx.py

The same function trains both times: the filter that is `wrt=` of `nnx.Optimizer` also says what specs are needed of.
"""

import argparse
from collections.abc import Iterator

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


RANK = 8


class MLP(nnx.Module):
    """Three dense layers."""

    def __init__(self, inputs: int, rngs: nnx.Rngs):
        self.first = nnx.Linear(inputs, 256, rngs=rngs)
        self.second = nnx.Linear(256, 256, rngs=rngs)
        self.head = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scores of the ten classes."""
        x = nnx.relu(self.first(x.reshape(len(x), -1)))
        return self.head(nnx.relu(self.second(x)))


def add_lora(model: MLP, rngs: nnx.Rngs) -> None:
    """Puts two thin matrices beside every kernel; their product starts at zero."""
    for name in ("first", "second", "head"):
        linear = getattr(model, name)
        lora = nnx.LoRA(linear.in_features, RANK, linear.out_features, base_module=linear, rngs=rngs)
        setattr(model, name, lora)


def fit(model: MLP, wrt: type[nnx.Param], images: np.ndarray, labels: np.ndarray, epochs: int = EPOCHS) -> float:
    """Trains the parameters of one kind, the others stay; returns the last loss."""
    graph, params, rest = nnx.split(model, wrt, ...)
    specs = mo.infer_specs(lambda p, x: nnx.merge(graph, p, rest, copy=True)(x), params, images[:8])
    tx = mo.modular(optax.linear_schedule(RATE, 0.0, epochs * (len(images) // BATCH)), specs)
    optimizer = nnx.Optimizer(model, tx, wrt=wrt)

    @nnx.jit
    def step(model, optimizer, x, y):
        def loss_fn(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        loss, grads = nnx.value_and_grad(loss_fn, argnums=nnx.DiffState(0, wrt))(model)
        optimizer.update(model, grads)
        return loss

    loss = np.inf
    for epoch, chosen in batches(len(images), epochs):
        loss = step(model, optimizer, images[chosen], labels[chosen])
        if epoch:
            print(f"epoch {epoch:2}: loss {float(loss):.3f}")
    return float(loss)


@nnx.jit
def predict(model, x):
    """Scores of the ten classes."""
    return model(x)


def main(epochs: int = EPOCHS) -> float:
    """Trains on images as they are, adapts to transposed ones, and returns the accuracy on those held out."""
    images, labels, test_images, test_labels = digits()
    transposed, test_transposed = images.transpose(0, 2, 1, 3), test_images.transpose(0, 2, 1, 3)

    def accuracy(model, images: np.ndarray) -> float:
        return float(np.mean(np.argmax(predict(model, images), -1) == test_labels))

    model = MLP(images[0].size, nnx.Rngs(0))
    fit(model, nnx.Param, images, labels, epochs)
    print(f"accuracy: {accuracy(model, test_images):.3f}; transposed: {accuracy(model, test_transposed):.3f}")
    add_lora(model, nnx.Rngs(0))
    fit(model, nnx.LoRAParam, transposed, labels, epochs)
    adapted = accuracy(model, test_transposed)
    print(f"transposed, after training low-rank parameters alone: {adapted:.3f}")
    return adapted


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
