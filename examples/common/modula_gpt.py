"""Modula's GPT, on plain Flax: every part is built so that its sensitivity is one, whatever the depth and the width."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gpt.model import rotate

GELU_SLOPE = 1.1289  # the largest, as Modula rounds it


class ModulaGPT(nn.Module):
    """Decoder-only transformer without normalisations, biases and gains.

    Attributes:
      vocabulary: number of tokens.
      width: size of the residual stream.
      heads: attention heads; they divide the width.
      blocks: number of transformer blocks.
    """

    vocabulary: int
    width: int
    heads: int
    blocks: int

    @nn.compact
    def __call__(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time vocabulary"]:
        """Logits of the token that follows each of `tokens`."""
        x = nn.Embed(self.vocabulary, self.width, name="embed")(tokens)
        for i in range(self.blocks):
            x = ModulaBlock(self.heads, self.blocks, name=f"block{i}")(x)
        return nn.Dense(self.vocabulary, use_bias=False, name="out")(x)


class ModulaBlock(nn.Module):
    """Attention, then MLP: each a convex combination with the residual stream, of which there are twice `blocks`."""

    heads: int
    blocks: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        """The stream after this block."""
        width, share = x.shape[-1], 1 / (2 * self.blocks)
        x = (1 - share) * x + share * ModulaAttention(self.heads, name="attention")(x)
        hidden = nn.gelu(nn.Dense(4 * width, use_bias=False, name="fc")(x)) / GELU_SLOPE
        return (1 - share) * x + share * nn.Dense(width, use_bias=False, name="proj")(hidden)


class ModulaAttention(nn.Module):
    """Causal attention whose scores are divided by the width of a head, and its values by three."""

    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        """What each position reads from itself and those before it."""
        batch, time, width = x.shape
        query, key, value = (
            nn.Dense(width, use_bias=False, name=name)(x).reshape(batch, time, self.heads, -1) for name in "qkv"
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", rotate(query), rotate(key)) / (width // self.heads)
        weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((time, time), bool)), scores, -jnp.inf))
        # scores, values and their average move the output by one each
        read = jnp.einsum("bhqk,bkhd->bqhd", weights, value) / 3
        return nn.Dense(width, use_bias=False, name="o")(read.reshape(x.shape))
