"""Models of Haiku: its own networks, flows of `distrax`, equivariant networks of `e3nn-jax`."""

from typing import Any

import distrax
import e3nn_jax as e3nn
import haiku as hk
import jax
import jax.numpy as jnp

from tests.real._haiku import built
from tests.real._model import real_models


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


IMAGE, TOKENS, SERIES = array(2, 64, 64, 3), array(2, 16, dtype=jnp.int32), array(12, 4, 6)


def block(x: jax.Array) -> jax.Array:
    h = hk.LayerNorm(-1, True, True)(x)
    x = x + hk.MultiHeadAttention(4, 16, w_init_scale=1.0, model_size=64)(h, h, h)
    return x + hk.nets.MLP([256, 64])(hk.LayerNorm(-1, True, True)(x))


def transformer(tokens: jax.Array) -> jax.Array:
    x = hk.Embed(100, 64)(tokens) + hk.get_parameter("positions", (16, 64), init=jnp.zeros)
    return hk.Linear(100)(block(block(x)))


def layer_stack(tokens: jax.Array) -> jax.Array:
    return hk.Linear(100)(hk.experimental.layer_stack(6)(block)(hk.Embed(100, 64)(tokens)))


def recurrent(core: Any):
    def function(series: jax.Array) -> jax.Array:
        cell = core(32)
        outputs, _ = hk.dynamic_unroll(cell, series, cell.initial_state(series.shape[1]))
        return hk.Linear(3)(outputs)

    return function


def convolutional_lstm(images: jax.Array) -> jax.Array:
    cell = hk.Conv2DLSTM(images.shape[2:4], 8, (3, 3))
    outputs, _ = hk.dynamic_unroll(cell, images, cell.initial_state(images.shape[1]))
    return hk.Linear(3)(outputs[-1].mean((1, 2)))


def autoencoder(images: jax.Array) -> jax.Array:
    x = jax.nn.relu(hk.Conv2D(16, 4, 2)(images))
    x = hk.GroupNorm(4)(hk.Conv2D(24, 1)(hk.DepthwiseConv2D(2, (3, 3))(x)))
    quantised = hk.nets.VectorQuantizerEMA(24, 32, 0.25, 0.99)(x, True)["quantize"]
    return hk.Conv2DTranspose(3, 4, 2)(jax.nn.relu(hk.RMSNorm(-1)(quantised)))


def real_nvp(x: jax.Array) -> jax.Array:
    """Masked couplings, as in the example of `distrax`, with its splines in every other one."""
    mask = jnp.arange(x.shape[-1]) % 2 == 0
    couplings = []
    for i in range(4):
        width = 2 if i % 2 else 3 * 8 + 1
        conditioner = hk.Sequential([hk.nets.MLP([32, 32]), hk.Linear(x.shape[-1] * width), hk.Reshape((-1, width))])
        bijector = _affine if i % 2 else (lambda p: distrax.RationalQuadraticSpline(p, -3.0, 3.0))
        couplings.append(distrax.MaskedCoupling(mask if i % 2 else ~mask, conditioner, bijector))
    base = distrax.Independent(distrax.Normal(jnp.zeros(x.shape[-1]), jnp.ones(x.shape[-1])), 1)
    return distrax.Transformed(base, distrax.Inverse(distrax.Chain(couplings))).log_prob(x)


def _affine(p: jax.Array) -> distrax.ScalarAffine:
    return distrax.ScalarAffine(p[..., 0], log_scale=p[..., 1])


def equivariant(positions: jax.Array, species: jax.Array) -> jax.Array:
    """Messages of `e3nn-jax`'s guide: edges carry tensor products of features and spherical harmonics."""
    edges = positions[:, None] - positions[None]
    x = e3nn.IrrepsArray("16x0e", hk.Embed(5, 16)(species))
    for irreps in ("16x0e + 8x1o + 4x2e", "8x0e"):
        harmonics = e3nn.spherical_harmonics("0e + 1o + 2e", edges, True)
        messages = e3nn.tensor_product(e3nn.haiku.Linear(x.irreps)(x)[:, None], harmonics)
        radial = e3nn.haiku.MultiLayerPerceptron([16, messages.irreps.num_irreps], jax.nn.silu)(
            e3nn.bessel(jnp.sqrt((edges**2).sum(-1) + 1e-3), 8, 3.0)
        )
        x = e3nn.haiku.Linear(irreps)(e3nn.sum(messages * radial, axis=1))
        x = e3nn.haiku.Linear(irreps)(e3nn.norm_activation(x, [jax.nn.silu] + [None] * (len(x.irreps) - 1)))
    return e3nn.haiku.Linear("0e")(x).array.sum()


E3NN = {r".*multi_layer_perceptron.*/w": "linear 0 > 1", r".*linear.*/w\[\d+,\d+\].*": "linear 0 > 1"}
real_models(
    "dm-haiku",
    {
        "resnet50": built(lambda x: hk.nets.ResNet50(10)(x, is_training=True), IMAGE),
        "resnet18_v2": built(
            lambda x: hk.nets.ResNet18(10, resnet_v2=True)(x, is_training=False, test_local_stats=True), IMAGE
        ),
        "mobilenet_v1": built(lambda x: hk.nets.MobileNetV1(num_classes=10)(x, is_training=True), IMAGE),
        "transformer": built(transformer, TOKENS, own={"~/positions": "positional 0 > 1"}),
        "layer_stack": built(layer_stack, TOKENS),
        "lstm": built(recurrent(hk.LSTM), SERIES),
        "gru": built(recurrent(hk.GRU), SERIES),
        "vanilla_rnn": built(recurrent(hk.VanillaRNN), SERIES),
        "convolutional_lstm": built(convolutional_lstm, array(5, 2, 16, 16, 3)),
        "vq_vae": built(autoencoder, array(2, 32, 32, 3)),
    },
)
real_models("distrax", {"real_nvp": built(real_nvp, array(16, 6))})
real_models("e3nn-jax", {"messages": built(equivariant, array(7, 3), array(7, dtype=jnp.int32), own=E3NN)})
