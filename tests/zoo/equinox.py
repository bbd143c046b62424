"""Equinox: weights are [fan_out, fan_in], convolutions [out, in, *taps]; models see one sample and are vmapped."""

import equinox as eqx
import jax
import jax.numpy as jnp

from tests.zoo._model import array, tokens, zoo_model

LINEAR = {
    r".*norm.*/weight": "gain > 0",
    r".*weight(_.h)?": "linear 1 > 0",
    r".*bias(_n)?": "bias > 0",
}
CONV = {r".*conv.*/weight": "conv 1 > 0 @ 2 3", r".*conv.*/bias": "bias > 0"}


def built(make, *inputs, batched=True):
    model = eqx.filter_eval_shape(make, jax.random.key(0))
    params, static = eqx.partition(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))

    def apply(p, *a):
        model = eqx.combine(p, static)
        return jax.vmap(model)(*a) if batched else model(*a)

    return apply, params, inputs


@zoo_model(truth=LINEAR)
def mlp():
    return built(lambda key: eqx.nn.MLP(6, 3, 9, 2, key=key), array(4, 6))


@zoo_model(truth=LINEAR)
def mlp_one_sample():
    return built(lambda key: eqx.nn.MLP(6, 3, 9, 2, key=key), array(6), batched=False)


class CNN(eqx.Module):
    conv1: eqx.nn.Conv2d
    conv2: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        a, b, c = jax.random.split(key, 3)
        self.conv1 = eqx.nn.Conv2d(3, 6, 3, key=a)
        self.conv2 = eqx.nn.Conv2d(6, 8, 3, stride=2, key=b)
        self.norm = eqx.nn.GroupNorm(2, 6)
        self.head = eqx.nn.Linear(8, 3, key=c)

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.conv1(x)))
        x = jax.nn.relu(self.conv2(x))
        return self.head(x.mean((1, 2)))


@zoo_model(truth=CONV | LINEAR)
def cnn():
    return built(CNN, array(2, 3, 9, 9))


class UNet(eqx.Module):
    down: eqx.nn.Conv2d
    depthwise: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    head: eqx.nn.Conv2d

    def __init__(self, key):
        a, b, c, d = jax.random.split(key, 4)
        self.down = eqx.nn.Conv2d(3, 6, 2, stride=2, key=a)
        self.depthwise = eqx.nn.Conv2d(6, 6, 3, padding=1, groups=6, key=b)
        self.up = eqx.nn.ConvTranspose2d(6, 5, 2, stride=2, key=c)
        self.head = eqx.nn.Conv2d(8, 2, 1, key=d)

    def __call__(self, x):
        y = self.up(jax.nn.gelu(self.depthwise(jax.nn.gelu(self.down(x)))))
        return self.head(jnp.concatenate([x, y]))


@zoo_model(
    truth={r"depthwise/weight": "depthwise 1 > 0 @ 2 3 / 6", r".*weight": "conv 1 > 0 @ 2 3", r".*bias": "bias > 0"}
)
def unet():
    return built(UNet, array(2, 3, 8, 8))


class Transformer(eqx.Module):
    embed: eqx.nn.Embedding
    pos: jax.Array
    attn: eqx.nn.MultiheadAttention
    norm1: eqx.nn.LayerNorm
    norm2: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        a, b, c, d, e = jax.random.split(key, 5)
        self.embed = eqx.nn.Embedding(11, 6, key=a)
        self.pos = jax.random.normal(b, (16, 6))
        self.attn = eqx.nn.MultiheadAttention(2, 6, use_query_bias=True, use_output_bias=True, key=c)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(6), eqx.nn.LayerNorm(6)
        self.mlp = eqx.nn.MLP(6, 6, 12, 1, key=d)
        self.head = eqx.nn.Linear(6, 11, use_bias=False, key=e)

    def __call__(self, idx):
        x = jax.vmap(self.embed)(idx) + self.pos[: idx.shape[0]]
        y = jax.vmap(self.norm1)(x)
        x = x + self.attn(y, y, y)
        x = x + jax.vmap(self.mlp)(jax.vmap(self.norm2)(x))
        return jax.vmap(self.head)(x)


@zoo_model(truth={r"embed/weight": "embedding 0 > 1", r"pos": "positional 0 > 1"} | LINEAR)
def transformer():
    return built(Transformer, tokens(2, 7))


class Recurrent(eqx.Module):
    cell: eqx.nn.GRUCell
    lstm: eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __init__(self, key):
        a, b, c = jax.random.split(key, 3)
        self.cell = eqx.nn.GRUCell(4, 6, key=a)
        self.lstm = eqx.nn.LSTMCell(6, 5, key=b)
        self.head = eqx.nn.Linear(5, 3, key=c)

    def __call__(self, xs):
        def step(carry, x):
            h, state = carry
            h = self.cell(x, h)
            return (h, self.lstm(h, state)), None

        carry = (jnp.zeros(6), (jnp.zeros(5), jnp.zeros(5)))
        (_, (h, _)), _ = jax.lax.scan(step, carry, xs)
        return self.head(h)


@zoo_model(truth=LINEAR)
def gru_lstm():
    return built(Recurrent, array(2, 7, 4))


@zoo_model(truth={r".*weight": "linear 2 > 1", r".*bias": "bias > 1"})
def ensemble():
    make = lambda key: eqx.filter_vmap(lambda k: eqx.nn.MLP(6, 3, 9, 2, key=k))(jax.random.split(key, 4))  # noqa: E731
    model = eqx.filter_eval_shape(make, jax.random.key(0))
    params, static = eqx.partition(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))

    def apply(p, x):
        member = lambda p, x: jax.vmap(eqx.combine(p, static))(x)  # noqa: E731
        return jax.vmap(member, in_axes=(0, None))(p, x)

    return apply, params, (array(5, 6),)


class ScanMLP(eqx.Module):
    layers: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key):
        self.layers = eqx.filter_vmap(lambda k: eqx.nn.Linear(6, 6, key=k))(jax.random.split(key, 4))
        self.head = eqx.nn.Linear(6, 3, key=key)

    def __call__(self, x):
        dynamic, static = eqx.partition(self.layers, eqx.is_array)

        def step(x, layer):
            return x + jnp.tanh(eqx.combine(layer, static)(x)), None

        return self.head(jax.lax.scan(step, x, dynamic)[0])


@zoo_model(truth={r"layers/weight": "linear 2 > 1", r"layers/bias": "bias > 1"} | LINEAR)
def scan_mlp():
    return built(ScanMLP, array(5, 6))


class Normalised(eqx.Module):
    first: eqx.nn.WeightNorm
    second: eqx.nn.Linear

    def __init__(self, key):
        self.first = eqx.nn.WeightNorm(eqx.nn.Linear(6, 9, key=key))
        self.second = eqx.nn.Linear(9, 3, key=key)

    def __call__(self, x):
        return self.second(jax.nn.relu(self.first(x)))


@zoo_model(truth={r"first/g": "gain > 0"} | LINEAR)
def weight_norm():
    return built(Normalised, array(5, 6))
