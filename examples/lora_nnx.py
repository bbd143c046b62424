"""Flax NNX: a trained classifier is adapted to transposed images through low-rank (LoRA) parameters alone.

    python examples/lora_nnx.py                # scikit-learn's digits
    python examples/lora_nnx.py --data DIR     # Fashion-MNIST, from IDX files

The same function trains both times: the filter that is `wrt=` of `nnx.Optimizer` also says what specs are needed of.
"""

import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import modula_optax as mo
from common.classify import Batch, Progress, Settings, main
from common.images import Images

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


def fit(model: MLP, wrt: type[nnx.Param], batches: Iterator[Batch], schedule: optax.Schedule) -> Iterator[jax.Array]:
    """Trains the parameters of one kind, the others stay; yields the loss of every step."""
    graph, params, rest = nnx.split(model, wrt, ...)
    images, _ = first = next(batches)
    specs = mo.infer_specs(lambda p, x: nnx.merge(graph, p, rest, copy=True)(x), params, images)
    optimizer = nnx.Optimizer(model, mo.modular(schedule, specs), wrt=wrt)

    @nnx.jit
    def step(model, optimizer, images, labels):
        def loss_fn(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

        loss, grads = nnx.value_and_grad(loss_fn, argnums=nnx.DiffState(0, wrt))(model)
        optimizer.update(model, grads)
        return loss

    for images, labels in chain([first], batches):
        yield step(model, optimizer, images, labels)


@nnx.jit
def predict(model: MLP, images: Any) -> jax.Array:
    """Scores of the ten classes."""
    return model(images)


def transposed(images: np.ndarray) -> np.ndarray:
    """Images with height and width in each other's place."""
    return images.transpose(0, 2, 1, 3)


def train(data: Images, settings: Settings) -> Progress:
    """Trains on images as they are, then the low-rank parameters on transposed ones."""
    model = MLP(data.images[0].size, nnx.Rngs(settings.seed))
    schedule = settings.schedule(data)
    for _ in fit(model, nnx.Param, settings.batches(data), schedule):
        pass
    print(f"accuracy on images as they are: {data.accuracy(partial(predict, model)):.4f}")

    def adapted(images: np.ndarray) -> jax.Array:
        return predict(model, transposed(images))

    print(f"accuracy on transposed images: {data.accuracy(adapted):.4f}")
    add_lora(model, nnx.Rngs(settings.seed))
    batches = ((transposed(images), labels) for images, labels in settings.batches(data))
    for loss in fit(model, nnx.LoRAParam, batches, schedule):
        yield loss, adapted


if __name__ == "__main__":
    sys.exit(main(train, __doc__, rate=0.05, epochs=10))
