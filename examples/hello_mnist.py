"""Modula's "hello, MNIST" on plain Flax: squared error, dualized gradients, no momentum.

python examples/hello_mnist.py                # scikit-learn's digits
python examples/hello_mnist.py --data DIR     # MNIST or Fashion-MNIST, from IDX files
"""

import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import modula_optax as mo
from common.classify import Progress, Settings, main
from common.images import Images


class MLP(nn.Module):
    """Three linear layers without biases."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Scores of the ten classes."""
        x = images.reshape(len(images), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(256, use_bias=False)(x))
        return nn.Dense(10, use_bias=False)(x)


def train(data: Images, settings: Settings) -> Progress:
    """Gradient descent in the modular norm, from weights of norm one."""
    model = MLP()
    key = jax.random.key(settings.seed)
    params = jax.eval_shape(model.init, key, data.images[:8])
    specs = mo.tare(mo.infer_specs(model.apply, params, data.images[:8], sensitivity="traced"), r".*", 1.0)
    params = mo.initialize(key, params, specs)
    tx = optax.chain(mo.dualize(specs), optax.scale_by_learning_rate(settings.schedule(data)))
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state, images, labels):
        def loss_fn(params):
            scores = jnp.asarray(model.apply(params, images))
            return ((scores - jax.nn.one_hot(labels, 10)) ** 2).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    predict = jax.jit(model.apply)
    for images, labels in settings.batches(data):
        params, opt_state, loss = step(params, opt_state, images, labels)
        yield loss, partial(predict, params)


if __name__ == "__main__":
    sys.exit(main(train, __doc__, rate=0.1, epochs=10))
