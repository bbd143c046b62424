"""Flax Linen: an image classifier in a `TrainState`, trained by modular duality.

python examples/image_linen.py                # scikit-learn's digits
python examples/image_linen.py --data DIR     # Fashion-MNIST, from IDX files
"""

import sys
from functools import partial

import flax.linen as nn
import jax
import optax
from flax.training.train_state import TrainState

import modula_optax as mo
from common.classify import Progress, Settings, main
from common.images import Images


class CNN(nn.Module):
    """Two convolutions, two dense layers."""

    @nn.compact
    def __call__(self, x):
        """Scores of the ten classes."""
        for features in (16, 32):
            x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


def train(data: Images, settings: Settings) -> Progress:
    """The usual loop of Linen; the two lines of modula_optax are marked."""
    model = CNN()
    params = model.init(jax.random.key(settings.seed), data.images[:1])["params"]
    specs = mo.infer_specs(lambda p, x: model.apply({"params": p}, x), params, data.images[:8])  # the norms ...
    tx = mo.modular(settings.schedule(data), specs)  # ... and the steepest steps under them
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def step(state, images, labels):
        def loss_fn(params):
            logits = state.apply_fn({"params": params}, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    predict = jax.jit(lambda params, images: model.apply({"params": params}, images))
    for images, labels in settings.batches(data):
        state, loss = step(state, images, labels)
        yield loss, partial(predict, state.params)


if __name__ == "__main__":
    sys.exit(main(train, __doc__, rate=0.05, epochs=12))
