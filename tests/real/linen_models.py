"""What Flax Linen has: cells, attention, normalised weights."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.real._linen import built
from tests.real._model import real_models


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


class Recurrent(nn.Module):
    """A cell in both directions, and a layer after it."""

    cell: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.Bidirectional(nn.RNN(self.cell(24)), nn.RNN(self.cell(24)))(x))


class Translator(nn.Module):
    """An encoder and a decoder, as in Flax's example for WMT."""

    @nn.compact
    def __call__(self, source: jax.Array, target: jax.Array) -> jax.Array:
        embed = nn.Embed(200, 64)
        memory, x = embed(source), embed(target)
        positions = self.param("positions", nn.initializers.zeros, (16, 64))
        memory, x = memory + positions, x + positions
        memory += nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(memory))
        memory += nn.Dense(64)(nn.relu(nn.Dense(128)(nn.LayerNorm()(memory))))
        x += nn.MultiHeadDotProductAttention(4, normalize_qk=True)(nn.LayerNorm()(x), mask=nn.make_causal_mask(target))
        x += nn.MultiHeadDotProductAttention(4)(nn.RMSNorm()(x), memory)
        return embed.attend(x + nn.Dense(64)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x)))))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
        x += nn.SelfAttention(4)(nn.LayerNorm()(x))
        return x + nn.Dense(64)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x)))), None


class Scanned(nn.Module):
    """Layers along the first axis, by `nn.scan` of a rematerialised block."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        stack = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = stack()(nn.Embed(200, 64)(tokens), None)
        return nn.Dense(200)(nn.LayerNorm()(x))


class Normalised(nn.Module):
    """Weights that are normalised before they are used, in a critic of images."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.leaky_relu(nn.SpectralNorm(nn.Conv(8, (3, 3), 2))(x, update_stats=True))
        x = nn.PReLU()(nn.WeightNorm(nn.Conv(16, (3, 3), 2))(x))
        x = nn.InstanceNorm()(nn.ConvTranspose(12, (3, 3), (2, 2))(x))
        x = nn.GroupNorm(4)(nn.Conv(24, (3, 3), feature_group_count=12)(x)).mean((1, 2))
        return nn.WeightNorm(nn.Dense(5))(x)


NORMALISED = {
    # the module that normalises keeps one gain for each output of the layer that it wraps
    r".*WeightNorm_\d/.*scale": "gain > 0",
}
real_models(
    "flax.linen",
    {
        "lstm": lambda: built(Recurrent(nn.LSTMCell), array(4, 12, 6)),
        "optimized_lstm": lambda: built(Recurrent(nn.OptimizedLSTMCell), array(4, 12, 6)),
        "gru": lambda: built(Recurrent(nn.GRUCell), array(4, 12, 6)),
        "mgu": lambda: built(Recurrent(nn.MGUCell), array(4, 12, 6)),
        "simple": lambda: built(Recurrent(nn.SimpleCell), array(4, 12, 6)),
        "convolutional_lstm": lambda: built(nn.RNN(nn.ConvLSTMCell(8, (3, 3))), array(2, 5, 12, 12, 3)),
        "translator": lambda: built(
            Translator(),
            *(array(2, 16, dtype=jnp.int32),) * 2,
            own={"Embed_0/embedding": "tied 0 > 1", "positions": "positional 0 > 1"},
        ),
        "scanned": lambda: built(Scanned(), array(2, 16, dtype=jnp.int32)),
        "normalised": lambda: built(Normalised(), array(2, 32, 32, 3), own=NORMALISED),
    },
)
