"""The GPT of `gpt/model.py` without what has no useful Lipschitz constant: sums become averages, norms go."""

from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from gpt.model import VOCABULARY, rotate

GELU_SLOPE = 1.129  # its largest, rounded up


class LipschitzGPT(nn.Module):
    """Decoder-only transformer that is Lipschitz wherever its weights are bounded.

    Attributes:
      width: size of the residual stream.
      depth: number of blocks.
    """

    width: int
    depth: int

    @nn.compact
    def __call__(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time 256"]:
        """Logits of the byte that follows each of `tokens`."""
        x = nn.Embed(VOCABULARY, self.width, name="embed")(tokens)
        # 2 L branches share the stream: their constants multiply to at most e^(mean of them - 1), at any depth
        share = 1 / (2 * self.depth)
        for i in range(self.depth):
            x = (1 - share) * x + share * Attention(name=f"attention_{i}")(x)
            x = (1 - share) * x + share * MLP(name=f"mlp_{i}")(x)
        return nn.Dense(VOCABULARY, use_bias=False, name="head")(x)


class Attention(nn.Module):
    """Causal self-attention of one head with rotary positions, scores scaled by 1/d.

    With 1/d in place of 1/sqrt(d), scores are as bounded at every width. H heads would multiply what is certified by
    sqrt(H), since an output may read from H positions at once, and scores, at worst, by H.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        """What each position reads from itself and those before it."""
        width = x.shape[-1]
        dense = partial(nn.Dense, width, use_bias=False)
        query, key, value = (dense(name=name)(x)[:, :, None] for name in ("query", "key", "value"))
        read = jax.nn.dot_product_attention(rotate(query), rotate(key), value, is_causal=True, scale=1 / width)
        # a third, as in Modula: the output depends on queries, keys and values
        return dense(name="out")(read[:, :, 0] / 3)


class MLP(nn.Module):
    """Two layers, four times as wide in between, and an activation of slope one."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        """What each position computes on its own."""
        width = x.shape[-1]
        hidden = nn.gelu(nn.Dense(4 * width, use_bias=False, name="up")(x)) / GELU_SLOPE
        return nn.Dense(width, use_bias=False, name="down")(hidden)
