"""Haiku: a ResNet with batch norm under `hk.transform_with_state`, trained by modular duality.

python examples/image_haiku.py                # scikit-learn's digits
python examples/image_haiku.py --data DIR     # Fashion-MNIST, from IDX files
"""

import sys
from functools import partial

import haiku as hk
import jax
import optax

import modula_optax as mo
from common.classify import Progress, Settings, main
from common.images import Images


def resnet(images: jax.Array, train: bool) -> jax.Array:
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
    return net(images, is_training=train)


def train(data: Images, settings: Settings) -> Progress:
    """The usual loop of Haiku; parameters are trained, state is passed along."""
    model = hk.transform_with_state(resnet)
    params, state = model.init(jax.random.key(settings.seed), data.images[:8], True)
    specs = mo.infer_specs(lambda p, x: model.apply(p, state, None, x, True)[0], params, data.images[:8])
    tx = mo.modular(settings.schedule(data), specs)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, state, opt_state, images, labels):
        def loss_fn(params):
            logits, new_state = model.apply(params, state, None, images, True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new_state

        (loss, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, loss

    predict = jax.jit(lambda params, state, images: model.apply(params, state, None, images, False)[0])
    for images, labels in settings.batches(data):
        params, state, opt_state, loss = step(params, state, opt_state, images, labels)
        yield loss, partial(predict, params, state)


if __name__ == "__main__":
    sys.exit(main(train, __doc__, rate=0.05, epochs=6))
