"""The model: a small byte-level GPT in Flax Linen, written without any thought of the optimizer."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

VOCABULARY = 256


class GPT(nn.Module):
    """Decoder-only transformer: pre-norm, rotary attention, GELU MLP.

    Attributes:
      width: size of the residual stream.
      depth: number of blocks.
      heads: attention heads; they divide the width.
    """

    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time 256"]:
        """Logits of the byte that follows each of `tokens`."""
        x = nn.Embed(VOCABULARY, self.width, name="embed")(tokens)
        for i in range(self.depth):
            x = Block(self.heads, name=f"block_{i}")(x)
        return nn.Dense(VOCABULARY, use_bias=False, name="head")(nn.RMSNorm(name="norm")(x))


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream."""

    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        """The stream after this block."""
        x = x + Attention(self.heads, name="attention")(nn.RMSNorm(name="attention_norm")(x))
        return x + MLP(name="mlp")(nn.RMSNorm(name="mlp_norm")(x))


class Attention(nn.Module):
    """Causal self-attention with rotary positions and RMS-normalised queries and keys."""

    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        """What each position reads from itself and those before it."""
        width = x.shape[-1]
        project = partial(nn.DenseGeneral, (self.heads, width // self.heads), use_bias=False)
        query, key, value = (project(name=name)(x) for name in ("query", "key", "value"))
        normalize = nn.RMSNorm(use_scale=False)
        query, key = rotate(normalize(query)), rotate(normalize(key))
        read = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return nn.DenseGeneral(width, axis=(-2, -1), use_bias=False, name="out")(read)


class MLP(nn.Module):
    """Two layers, four times as wide in between."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        """What each position computes on its own."""
        width = x.shape[-1]
        hidden = nn.gelu(nn.Dense(4 * width, use_bias=False, name="up")(x))
        return nn.Dense(width, use_bias=False, name="down")(hidden)


def predict(model: nn.Module, params: Any, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time 256"]:
    """Logits of the next bytes, as a plain array."""
    return jnp.asarray(model.apply(params, tokens))


def rotate(x: Float[Array, "batch time heads size"]) -> Float[Array, "batch time heads size"]:
    """Rotary embedding: turns pairs of features by angles that grow with the position."""
    time, half = x.shape[1], x.shape[3] // 2
    frequencies = 10_000.0 ** (-jnp.arange(half, dtype=x.dtype) / half)
    angles = jnp.arange(time)[:, None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    left, right = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, left * sin + right * cos], axis=-1)
