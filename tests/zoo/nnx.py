"""Flax NNX: layouts as in Linen; the model is split into a graph and parameters, and merged again."""

import jax
import jax.numpy as jnp
from flax import nnx

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.linen import ATTENTION, DENSE


def built(make, *inputs):
    model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    rest = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype) if jnp.issubdtype(x.dtype, jnp.number) else jax.random.key(0), rest
    )

    def apply(p, *a):
        return nnx.merge(graph, p, rest, copy=True)(*a)

    return apply, params, inputs


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.fc = nnx.Linear(6, 9, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(9, 4, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(jax.nn.gelu(self.fc(self.norm(x)))))


@zoo_model(truth=DENSE)
def mlp():
    return built(MLP, array(3, 6))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm1, self.norm2 = nnx.RMSNorm(6, rngs=rngs), nnx.LayerNorm(6, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
        self.fc, self.proj = nnx.Linear(6, 20, rngs=rngs), nnx.Linear(20, 6, rngs=rngs)

    def __call__(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.proj(jax.nn.gelu(self.fc(self.norm2(x))))


class GPT(nnx.Module):
    def __init__(self, rngs, tied=False):
        self.tied = tied
        self.wte, self.wpe = nnx.Embed(11, 6, rngs=rngs), nnx.Embed(16, 6, rngs=rngs)
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.head = None if tied else nnx.Linear(6, 11, use_bias=False, rngs=rngs)

    def __call__(self, idx):
        x = self.wte(idx) + self.wpe(jnp.arange(idx.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.wte.attend(x) if self.tied else self.head(x)  # pyright: ignore[reportOptionalCall]


@zoo_model(truth={r".*embedding": "embedding 0 > 1"} | ATTENTION | DENSE)
def gpt():
    return built(GPT, tokens(2, 9))


@zoo_model(truth={r".*wte.*": "tied 0 > 1", r".*embedding": "embedding 0 > 1"} | ATTENTION | DENSE)
def gpt_tied():
    return built(lambda rngs: GPT(rngs, tied=True), tokens(2, 9))


class CNN(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=False, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.conv(x)))
        return self.head(self.depthwise(x).mean((1, 2)))


@zoo_model(truth={r"conv/kernel": "conv 2 > 3 @ 0 1", r"depthwise/kernel": "depthwise 2 > 3 @ 0 1 / 8"} | DENSE)
def cnn():
    return built(CNN, array(2, 8, 8, 3))


class ScanMLP(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=4)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return MLPBlock(rngs)

        self.layers = make(rngs)
        self.head = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, layer):
            return layer(x)

        return self.head(forward(x, self.layers))


class MLPBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.fc = nnx.Linear(6, 6, rngs=rngs)

    def __call__(self, x):
        return x + jax.nn.relu(self.fc(self.norm(x)))


@zoo_model(
    truth={r"layers/.*kernel": "linear 1 > 2", r"layers/.*bias": "bias > 1", r"layers/.*scale": "gain > 1"} | DENSE
)
def mlp_scanned():
    return built(ScanMLP, array(3, 6))


class LSTMNet(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.LSTMCell(4, 6, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])  # pyright: ignore[reportCallIssue, reportArgumentType]


@zoo_model(truth=DENSE)
def lstm():
    return built(LSTMNet, array(2, 5, 4))


class LoRANet(nnx.Module):
    def __init__(self, rngs):
        self.fc = nnx.LoRALinear(6, 9, lora_rank=2, rngs=rngs)
        self.head = nnx.Linear(9, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.fc(x)))


class LoRAParams(nnx.Module):
    pass


@zoo_model(truth={r".*lora_[ab].*": "linear 0 > 1"} | DENSE)
def lora():
    return built(LoRANet, array(3, 6))


class GeneralLayers(nnx.Module):
    """Features in two axes, flattened for a depthwise convolution: its groups are no batch of layers."""

    def __init__(self, rngs):
        self.up = nnx.Einsum("btd,dnh->btnh", (6, 2, 4), (2, 4), rngs=rngs)
        self.mix = nnx.LinearGeneral((2, 4), (3, 5), axis=(-2, -1), rngs=rngs)
        self.depthwise = nnx.Conv(15, 15, (3,), feature_group_count=15, rngs=rngs)
        self.grouped = nnx.Conv(15, 6, (3,), feature_group_count=3, rngs=rngs)
        self.out = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.mix(jax.nn.relu(self.up(x))))
        x = jax.nn.relu(self.depthwise(x.reshape(*x.shape[:2], 15)))
        return self.out(jax.nn.relu(self.grouped(x)).mean(1))


@zoo_model(
    truth={
        "up/kernel": "linear 0 > 1 2",
        "mix/kernel": "linear 0 1 > 2 3",
        "(up|mix)/bias": "bias > 0 1",
        "depthwise/kernel": "depthwise 1 > 2 @ 0 / 15",
        "grouped/kernel": "conv 1 > 2 @ 0 / 3",
    }
    | DENSE
)
def general_layers():
    return built(GeneralLayers, array(2, 7, 6))
