"""Ninjax: an image classifier in a flat state, trained by modular duality under Ninjax's optimizer module.

    python examples/image_ninjax.py                # scikit-learn's digits
    python examples/image_ninjax.py --data DIR     # Fashion-MNIST, from IDX files

The state also holds what is not trained, here the mean of the images seen: the optimizer gets the keys of the network.
"""

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ninjax as nj
import optax

import modula_optax as mo
from common.classify import Progress, Settings, main
from common.images import Images


def random_kernel(shape: tuple[int, ...]) -> jax.Array:
    """A kernel drawn with the seed of the pure function that it is made in."""
    key: Any = nj.seed()
    return jax.nn.initializers.he_normal()(key, shape)


class Conv(nj.Module):
    """A 3 x 3 convolution of stride 2."""

    def __init__(self, features: int):
        self.features = features

    def __call__(self, x: jax.Array) -> jax.Array:
        """Half as high and wide, with as many channels as there are features."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.value("kernel", lambda: random_kernel(shape))
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return x + self.value("bias", jnp.zeros, self.features)


class Dense(nj.Module):
    """A linear layer."""

    def __init__(self, features: int):
        self.features = features

    def __call__(self, x: jax.Array) -> jax.Array:
        """As many outputs as there are features."""
        shape = (x.shape[-1], self.features)
        kernel = self.value("kernel", lambda: random_kernel(shape))
        return x @ kernel + self.value("bias", jnp.zeros, self.features)


class Net(nj.Module):
    """Two convolutions, two dense layers."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scores of the ten classes."""
        x = jax.nn.relu(self.sub("conv1", Conv, 32)(x))
        x = jax.nn.relu(self.sub("conv2", Conv, 32)(x))
        x = jax.nn.relu(self.sub("hidden", Dense, 64)(x.reshape(len(x), -1)))
        return self.sub("head", Dense, 10)(x)


class Classifier(nj.Module):
    """The network, after the running mean of the images is taken off."""

    def __call__(self, images: jax.Array) -> jax.Array:
        """Scores of the ten classes."""
        return self.sub("net", Net)(images - self.value("mean", jnp.zeros, images.shape[1:]))

    def loss(self, images: jax.Array, labels: jax.Array) -> jax.Array:
        """Cross-entropy of a batch, which the mean takes note of."""
        logits = self(images)
        self.write("mean", 0.95 * self.read("mean") + 0.05 * images.mean(0))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(data: Images, settings: Settings) -> Progress:
    """The usual loop of Ninjax: one pure function of the state, in which the optimizer is a module as well."""
    model = Classifier(name="classifier")  # pyright: ignore[reportCallIssue]  (the metaclass takes it)
    state = nj.init(model.__call__)({}, data.images[:8], seed=settings.seed)
    params = {key: value for key, value in state.items() if key.startswith("classifier/net/")}
    specs = mo.infer_specs(lambda p, x: nj.pure(model.__call__)({**state, **p}, x)[1], params, data.images[:8])
    # Ninjax passes no parameters to the optimizer, which decay would need
    tx = mo.modular(settings.schedule(data), specs, weight_decay=0.0)
    optimizer = nj.FromOptax(tx)(name="optimizer")

    def update(images, labels):
        loss, *_ = optimizer(model.loss, ["classifier/net"], images, labels)
        return loss

    step, predict = jax.jit(nj.pure(update)), jax.jit(nj.pure(model.__call__))
    state = nj.init(update)(state, data.images[:8], data.labels[:8], seed=settings.seed)  # adds the optimizer's keys
    for images, labels in settings.batches(data):
        state, loss = step(state, images, labels)
        yield loss, partial(lambda state, images: predict(state, images)[1], state)


if __name__ == "__main__":
    sys.exit(main(train, __doc__, rate=0.05, epochs=12))
