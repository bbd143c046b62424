"""Flax NNX: an image classifier under `nnx.Optimizer`, trained by modular duality.

    python examples/image_nnx.py                # scikit-learn's digits
    python examples/image_nnx.py --data DIR     # Fashion-MNIST, from IDX files

Batch statistics and dropout keys are part of the model, but no parameters: `wrt=nnx.Param` leaves them out.
"""

import sys
from functools import partial
from typing import Any

import jax
import optax
from flax import nnx

import modula_optax as mo
from common.classify import Progress, Settings, main
from common.images import Images


class CNN(nnx.Module):
    """Two convolutions with batch norm, then two dense layers with dropout."""

    def __init__(self, shape: tuple[int, ...], rngs: nnx.Rngs):
        height, width, _ = shape
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.norm2 = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.hidden = nnx.Linear(32 * (height // 4) * (width // 4), 64, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Scores of the ten classes."""
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            x = nnx.relu(norm(conv(x), use_running_average=not train))
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = nnx.relu(self.hidden(x.reshape(len(x), -1)))
        return self.head(self.dropout(x, deterministic=not train))


@nnx.jit
def step(model: CNN, optimizer: nnx.Optimizer, images: Any, labels: Any) -> jax.Array:
    """The usual step of NNX: changes model and optimizer, returns the loss."""

    def loss_fn(model: CNN) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(images, train=True), labels).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


@partial(nnx.jit, static_argnames="train")
def predict(model: CNN, images: Any, train: bool = False) -> jax.Array:
    """Scores of the ten classes."""
    return model(images, train)


def train(data: Images, settings: Settings) -> Progress:
    """Builds, then trains; what modula_optax needs is the model as a function of its parameters."""
    model = CNN(data.images.shape[1:], nnx.Rngs(settings.seed))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    specs = mo.infer_specs(lambda p, x: nnx.merge(graph, p, rest, copy=True)(x, train=True), params, data.images[:8])
    tx = mo.modular(settings.schedule(data), specs)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for images, labels in settings.batches(data):
        loss = step(model, optimizer, images, labels)
        yield loss, partial(predict, model)


if __name__ == "__main__":
    sys.exit(main(train, __doc__, rate=0.05, epochs=12))
