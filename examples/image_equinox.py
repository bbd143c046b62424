"""Equinox: an image classifier under `filter_jit`, trained by modular duality.

    python examples/image_equinox.py                # scikit-learn's digits
    python examples/image_equinox.py --data DIR     # Fashion-MNIST, from IDX files

Weights are `[out, in]`, and activations are leaves of the model: `eqx.partition` leaves them out.
"""

import sys
from functools import partial

import equinox as eqx
import jax
import optax

import modula_optax as mo
from common.classify import Progress, Settings, main
from common.images import Images


class CNN(eqx.Module):
    """Two convolutions, two dense layers."""

    layers: list

    def __init__(self, shape: tuple[int, ...], key: jax.Array):
        height, width, _ = shape
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 16, 3, padding=1, key=keys[0]),
            jax.nn.relu,
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(16, 32, 3, padding=1, key=keys[1]),
            jax.nn.relu,
            eqx.nn.MaxPool2d(2, 2),
            jax.numpy.ravel,
            eqx.nn.Linear(32 * (height // 4) * (width // 4), 64, key=keys[2]),
            jax.nn.relu,
            eqx.nn.Linear(64, 10, key=keys[3]),
        ]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scores of the ten classes, for one image."""
        x = x.transpose(2, 0, 1)
        for layer in self.layers:
            x = layer(x)
        return x


def train(data: Images, settings: Settings) -> Progress:
    """The usual loop of Equinox; specs and optimizer state are of the parameters alone."""
    model = CNN(data.images.shape[1:], jax.random.key(settings.seed))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    specs = mo.infer_specs(lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, data.images[:8])
    tx = mo.modular(settings.schedule(data), specs)
    opt_state = tx.init(params)

    @eqx.filter_jit
    def step(model, opt_state, images, labels):
        def loss_fn(model):
            logits = jax.vmap(model)(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        updates, opt_state = tx.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), opt_state, loss

    predict = eqx.filter_jit(lambda model, images: jax.vmap(model)(images))
    for images, labels in settings.batches(data):
        model, opt_state, loss = step(model, opt_state, images, labels)
        yield loss, partial(predict, model)


if __name__ == "__main__":
    sys.exit(main(train, __doc__, rate=0.05, epochs=12))
