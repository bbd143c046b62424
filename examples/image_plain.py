"""No framework: an image classifier in a list of dictionaries, trained by modular duality.

python examples/image_plain.py                # scikit-learn's digits
python examples/image_plain.py --data DIR     # Fashion-MNIST, from IDX files
"""

import sys
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax

import modula_optax as mo
from common.classify import Progress, Settings, main
from common.images import Images


def make_layers(*sizes: int) -> list[dict[str, jax.Array]]:
    """Weights `[fan_in, fan_out]` and biases; their values come from `mo.initialize`."""
    return [{"w": jnp.zeros(pair), "b": jnp.zeros(pair[1])} for pair in pairwise(sizes)]


def predict(params: Any, images: jax.Array) -> jax.Array:
    """Scores of the ten classes."""
    *hidden, last = params
    x = images.reshape(len(images), -1)
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def train(data: Images, settings: Settings) -> Progress:
    """The usual loop of Optax."""
    params = make_layers(data.images[0].size, 256, 256, 10)
    specs = mo.infer_specs(predict, params, data.images[:8])
    params = mo.initialize(jax.random.key(settings.seed), params, specs)
    tx = mo.modular(settings.schedule(data), specs)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state, images, labels):
        def loss_fn(params):
            return optax.softmax_cross_entropy_with_integer_labels(predict(params, images), labels).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for images, labels in settings.batches(data):
        params, opt_state, loss = step(params, opt_state, images, labels)
        yield loss, partial(jax.jit(predict), params)


if __name__ == "__main__":
    sys.exit(main(train, __doc__, rate=0.05, epochs=12))
