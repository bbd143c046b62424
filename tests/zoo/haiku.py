"""Haiku: w is [fan_in, fan_out], convolutions [*taps, in, out], transposed ones [*taps, out, in]."""

import haiku as hk
import jax
import jax.numpy as jnp

from tests.zoo._model import array, tokens, zoo_model

LINEAR = {
    r".*conv.*/w": "conv 2 > 3 @ 0 1",
    r".*/w(_[ih])?": "linear 0 > 1",
    r".*/b(_.)?": "bias > 0",
    r".*/scale": "gain > 0",
    r".*/offset": "bias > 0",
    r".*/embeddings": "embedding 0 > 1",
}


def built(f, *inputs):
    model = hk.transform_with_state(f)
    params, state = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)

    def apply(p, *a):
        return model.apply(p, state, jax.random.key(0), *a)[0]

    return apply, params, inputs


@zoo_model(truth=LINEAR)
def mlp():
    return built(lambda x: hk.nets.MLP([7, 7, 3])(x), array(4, 6))


@zoo_model(truth={r"batch_norm/scale": "gain > 3", r"batch_norm/offset": "bias > 3"} | LINEAR)
def lenet_with_batchnorm():
    def f(x):
        x = hk.Conv2D(6, 3)(x)
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training=True))
        x = hk.MaxPool((2, 2, 1), (2, 2, 1), "VALID")(x)
        return hk.Linear(3)(jax.nn.relu(hk.Linear(8)(hk.Flatten()(x))))

    return built(f, array(2, 8, 8, 3))


@zoo_model(truth={r".*transpose/w": "conv 3 > 2 @ 0 1"} | LINEAR)
def autoencoder():
    def f(x):
        x = jax.nn.relu(hk.Conv2D(6, 3, stride=2)(x))
        x = hk.Linear(5)(hk.Flatten()(x))
        x = hk.Reshape((4, 4, 6))(jax.nn.relu(hk.Linear(4 * 4 * 6)(x)))
        return hk.Conv2DTranspose(3, 3, stride=2)(x)

    return built(f, array(2, 8, 8, 3))


@zoo_model(truth={r".*depthwise.*/w": "depthwise 2 > 3 @ 0 1 / 6"} | LINEAR)
def separable():
    def f(x):
        x = hk.DepthwiseConv2D(2, 3)(x)
        return hk.Conv2D(5, 1)(jax.nn.relu(x)).mean((1, 2))

    return built(f, array(2, 8, 8, 6))


@zoo_model(truth=LINEAR)
def transformer():
    def f(idx):
        x = hk.Embed(11, 6)(idx)
        for _ in range(2):
            y = hk.LayerNorm(-1, True, True)(x)
            x = x + hk.MultiHeadAttention(2, 3, w_init=hk.initializers.RandomNormal(), model_size=6)(y, y, y)
            x = x + hk.nets.MLP([12, 6])(hk.LayerNorm(-1, True, True)(x))
        return hk.Linear(11)(x)

    return built(f, tokens(2, 7))


@zoo_model(truth=LINEAR)
def gru_and_lstm():
    def f(x):
        gru, lstm = hk.GRU(6), hk.LSTM(5)
        y, _ = hk.dynamic_unroll(gru, x, gru.initial_state(x.shape[1]))
        z, _ = hk.dynamic_unroll(lstm, y, lstm.initial_state(x.shape[1]))
        return hk.Linear(3)(z[-1])

    return built(f, array(7, 2, 4))


@zoo_model(truth=LINEAR)
def rnn_static_unroll():
    def f(x):
        core = hk.VanillaRNN(6)
        y, _ = hk.static_unroll(core, x, core.initial_state(x.shape[1]))
        return hk.Linear(3)(y[-1])

    return built(f, array(4, 2, 4))


@zoo_model(truth={r".*layer_stack.*/w": "linear 1 > 2", r".*layer_stack.*/b": "bias > 1"} | LINEAR)
def layer_stack():
    def f(x):
        x = hk.Linear(6)(x)
        x = hk.experimental.layer_stack(4)(lambda y: y + jnp.tanh(hk.Linear(6)(y)))(x)  # pyright: ignore[reportPrivateImportUsage]
        return hk.Linear(3)(x)

    return built(f, array(5, 4))


@zoo_model(truth=LINEAR)
def bilinear_gate():
    def f(x):
        a, b = hk.Linear(6)(x), hk.Linear(6, with_bias=False)(x)
        return hk.Linear(3)(a * jax.nn.sigmoid(b))

    return built(f, array(5, 4))
