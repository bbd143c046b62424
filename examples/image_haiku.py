"""Haiku: a ResNet with batch norm under `hk.transform_with_state`, trained by modular duality. One file, to be copied.

python examples/image_haiku.py
"""

import argparse
from collections.abc import Iterator

import haiku as hk
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import modula_optax as mo

EPOCHS, BATCH, RATE = 6, 64, 0.05


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


def resnet(x, train: bool):
    """Haiku's ResNet with two blocks, narrow enough for a few CPU cores."""
    net = hk.nets.ResNet(
        blocks_per_group=(1, 1, 0, 0),
        num_classes=10,
        bottleneck=False,
        channels_per_group=(16, 32, 32, 32),
        use_projection=(True, True, False, False),
        strides=(1, 2, 1, 1),
        initial_conv_config={"kernel_shape": 3, "stride": 1},
        bn_config={"decay_rate": 0.9},
    )
    return net(x, is_training=train)


def main(epochs: int = EPOCHS) -> float:
    """Trains, prints a line for every epoch, and returns the accuracy on images held out."""
    images, labels, test_images, test_labels = digits()
    model = hk.transform_with_state(resnet)
    params, state = model.init(jax.random.key(0), images[:8], True)
    # what modula_optax needs: the norms, read off the model, and a learning rate in units of them
    specs = mo.infer_specs(lambda p, x: model.apply(p, state, None, x, True)[0], params, images[:8])
    tx = mo.modular(optax.linear_schedule(RATE, 0.0, epochs * (len(images) // BATCH)), specs)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, state, opt_state, x, y):
        def loss_fn(params):
            logits, new_state = model.apply(params, state, None, x, True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new_state

        (loss, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, loss

    accuracy, predict = 0.0, jax.jit(lambda params, state, x: model.apply(params, state, None, x, False)[0])
    for epoch, chosen in batches(len(images), epochs):
        params, state, opt_state, loss = step(params, state, opt_state, images[chosen], labels[chosen])
        if epoch:
            accuracy = float(np.mean(np.argmax(predict(params, state, test_images), -1) == test_labels))
            print(f"epoch {epoch:2}: loss {float(loss):.3f}, accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
