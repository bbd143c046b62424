"""Networks of the panel in plain JAX: each a function that makes parameters, and one that reads them."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

BYTES = 256
CLASSES = 10
HEAD_SIZE = 16


@dataclasses.dataclass(frozen=True)
class GPT:
    """A byte-level transformer, its layers stacked: what people vary between one GPT and the next.

    Attributes:
      width: of the residual stream.
      depth: blocks.
      context: most bytes of a sequence, for learned positions.
      biases: whether linear layers have biases, and normalisations gains and biases (LayerNorm in place of RMSNorm).
      learned_positions: a table of positions, in place of rotary ones on RMS-normalised queries and keys.
      scaled_start: whether what is added to the stream starts smaller, by the root of twice the depth.
      tied: whether the table is also the head.
      key_heads: heads of keys and values, fewer than those of queries; 0 for as many.
      gated: whether the MLP is gated.
      head_size: of queries, keys and values.
    """

    width: int
    depth: int
    context: int = 64
    biases: bool = False
    learned_positions: bool = False
    scaled_start: bool = True
    tied: bool = False
    key_heads: int = 0
    gated: bool = False
    head_size: int = HEAD_SIZE

    @property
    def heads(self) -> int:
        """Of the queries."""
        return self.width // self.head_size

    def init(self, key: jax.Array) -> Any:
        """Parameters as people start them: linear layers at 1 over the root of their fan-in, tables at unit RMS."""
        keys = iter(jax.random.split(key, 16))
        d, small = self.width, 1 / math.sqrt(2 * self.depth) if self.scaled_start else 1.0
        grouped = (self.key_heads or self.heads) * self.head_size
        hidden = 8 * d // 3 // 16 * 16 if self.gated else 4 * d

        def linear(d_in: int, d_out: int, scale: float = 1.0, stack: tuple[int, ...] = (self.depth,)) -> Any:
            kernel = scale / math.sqrt(d_in) * jax.random.normal(next(keys), (*stack, d_in, d_out))
            return {"kernel": kernel} | ({"bias": jnp.zeros((*stack, d_out))} if self.biases else {})

        def norm(stack: tuple[int, ...] = (self.depth,)) -> Any:
            return {"scale": jnp.ones((*stack, d)), "bias": jnp.zeros((*stack, d))} if self.biases else {}

        blocks = {
            "attention_norm": norm(),
            "query": linear(d, d),
            "key": linear(d, grouped),
            "value": linear(d, grouped),
            "out": linear(d, d, small),
            "mlp_norm": norm(),
            "up": linear(d, hidden),
            "down": linear(hidden, d, small),
        }
        if self.gated:
            blocks["gate"] = linear(d, hidden)
        # a table that is the head as well starts as small as a head
        spread = 1 / math.sqrt(d) if self.tied else 1.0
        params = {"table": spread * jax.random.normal(next(keys), (BYTES, d)), "blocks": blocks, "norm": norm(())}
        if self.learned_positions:
            params["positions"] = 0.02 * jax.random.normal(next(keys), (self.context, d))
        if not self.tied:
            params["head"] = linear(d, BYTES, stack=())
        return params

    def predict(self, params: Any, tokens: jax.Array) -> jax.Array:
        """Logits of the byte that follows each of `tokens`."""
        x = params["table"][tokens]
        if self.learned_positions:
            x = x + params["positions"][: tokens.shape[-1]]
        x, _ = jax.lax.scan(lambda x, block: (self.block(block, x), None), x, params["blocks"])
        x = normalized(params["norm"], x)
        return x @ params["table"].T if self.tied else dense(params["head"], x)

    def block(self, p: Any, x: jax.Array) -> jax.Array:
        """Attention, then MLP, each added to the stream."""
        y = normalized(p["attention_norm"], x)
        query, key, value = (
            dense(p[name], y).reshape(*y.shape[:-1], -1, self.head_size) for name in ("query", "key", "value")
        )
        if not self.learned_positions:
            query, key = rotated(rms(query)), rotated(rms(key))
        read = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        x = x + dense(p["out"], read.reshape(y.shape))
        y = normalized(p["mlp_norm"], x)
        up = dense(p["up"], y)
        return x + dense(p["down"], jax.nn.silu(dense(p["gate"], y)) * up if self.gated else jax.nn.gelu(up))


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """A byte-level network of one gated recurrent cell."""

    width: int

    def init(self, key: jax.Array) -> Any:
        """Parameters at 1 over the root of their fan-in."""
        d, keys = self.width, iter(jax.random.split(key, 4))
        return {
            "table": jax.random.normal(next(keys), (BYTES, d)),
            "gates": fresh(next(keys), 2 * d, 2 * d),
            "candidate": fresh(next(keys), 2 * d, d),
            "head": fresh(next(keys), d, BYTES),
        }

    def predict(self, params: Any, tokens: jax.Array) -> jax.Array:
        """Logits of the byte that follows each of `tokens`."""

        def step(state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            gates = jax.nn.sigmoid(dense(params["gates"], jnp.concatenate([x, state], -1)))
            reset, update = jnp.split(gates, 2, -1)
            candidate = jnp.tanh(dense(params["candidate"], jnp.concatenate([x, reset * state], -1)))
            state = (1 - update) * state + update * candidate
            return state, state

        x = params["table"][tokens].swapaxes(0, 1)
        _, states = jax.lax.scan(step, jnp.zeros_like(x[0]), x)
        return dense(params["head"], states.swapaxes(0, 1))


@dataclasses.dataclass(frozen=True)
class Window:
    """A byte-level perceptron that sees the last eight bytes, and normalises nothing."""

    width: int
    seen: int = 8

    def init(self, key: jax.Array) -> Any:
        """Parameters at 1 over the root of their fan-in."""
        d, keys = self.width, iter(jax.random.split(key, 4))
        return {
            "table": jax.random.normal(next(keys), (BYTES, d)),
            "up": fresh(next(keys), self.seen * d, 2 * d),
            "down": fresh(next(keys), 2 * d, d),
            "head": fresh(next(keys), d, BYTES),
        }

    def predict(self, params: Any, tokens: jax.Array) -> jax.Array:
        """Logits of the byte that follows each of `tokens`."""
        x = params["table"][tokens]
        shifted = [jnp.pad(x, ((0, 0), (i, 0), (0, 0)))[:, : tokens.shape[1]] for i in range(self.seen)]
        hidden = jax.nn.gelu(dense(params["up"], jnp.concatenate(shifted, -1)))
        return dense(params["head"], jax.nn.gelu(dense(params["down"], hidden)))


@dataclasses.dataclass(frozen=True)
class MLP:
    """A perceptron with biases, for images."""

    width: int
    depth: int
    pixels: int

    def init(self, key: jax.Array) -> Any:
        """Parameters at 1 over the root of their fan-in."""
        sizes = [self.pixels] + [self.width] * self.depth + [CLASSES]
        keys = jax.random.split(key, len(sizes) - 1)
        return [fresh(k, d_in, d_out) for k, d_in, d_out in zip(keys, sizes, sizes[1:], strict=False)]

    def predict(self, params: Any, images: jax.Array) -> jax.Array:
        """Scores of the classes."""
        x = images.reshape(len(images), -1)
        for layer in params[:-1]:
            x = jax.nn.relu(dense(layer, x))
        return dense(params[-1], x)


@dataclasses.dataclass(frozen=True)
class ResNet:
    """Two stages of residual blocks; batch normalisation takes the statistics of its batch, also in validation."""

    width: int
    depth: int

    def init(self, key: jax.Array) -> Any:
        """Kernels as He et al. start them, gains of 1."""
        keys = iter(jax.random.split(key, 2 + 6 * self.depth))

        def conv(size: int, d_in: int, d_out: int) -> Any:
            scale = math.sqrt(2 / (size * size * d_in))
            kernel = scale * jax.random.normal(next(keys), (size, size, d_in, d_out))
            return {"kernel": kernel, "scale": jnp.ones(d_out), "bias": jnp.zeros(d_out)}

        params, d = {"stem": conv(3, 1, self.width), "blocks": []}, self.width
        for stage in range(2):
            for i in range(self.depth):
                d_out = self.width * 2**stage
                block = {"first": conv(3, d, d_out), "second": conv(3, d_out, d_out)}
                if d_out != d:
                    block["across"] = conv(1, d, d_out)
                params["blocks"].append(block)
                d = d_out
                del i
        params["head"] = fresh(next(keys), d, CLASSES)
        return params

    def predict(self, params: Any, images: jax.Array) -> jax.Array:
        """Scores of the classes."""
        x = jax.nn.relu(convolved(params["stem"], images))
        for block in params["blocks"]:
            stride = 2 if "across" in block else 1
            y = jax.nn.relu(convolved(block["first"], x, stride))
            x = convolved(block["across"], x, stride) if "across" in block else x
            x = jax.nn.relu(x + convolved(block["second"], y))
        return dense(params["head"], x.mean((1, 2)))


@dataclasses.dataclass(frozen=True)
class ViT:
    """A vision transformer: patches, learned positions, blocks of the GPT that look everywhere."""

    width: int
    depth: int
    pixels: int  # of a side
    patch: int  # of a side

    @property
    def patches(self) -> int:
        """How many an image has."""
        return (self.pixels // self.patch) ** 2

    def init(self, key: jax.Array) -> Any:
        """Parameters at 1 over the root of their fan-in."""
        d, keys = self.width, iter(jax.random.split(key, 3 + 4 * self.depth))

        def norm() -> Any:
            return {"scale": jnp.ones(d), "bias": jnp.zeros(d)}

        def block() -> Any:
            layers = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
            return {"attention_norm": norm(), "mlp_norm": norm()} | {
                name: fresh(next(keys), *sizes) for name, sizes in layers.items()
            }

        return {
            "patch": fresh(next(keys), self.patch**2, d),
            "positions": 0.02 * jax.random.normal(next(keys), (self.patches, d)),
            "blocks": [block() for _ in range(self.depth)],
            "norm": norm(),
            "head": fresh(next(keys), d, CLASSES),
        }

    def predict(self, params: Any, images: jax.Array) -> jax.Array:
        """Scores of the classes."""
        n, side, p = len(images), self.pixels // self.patch, self.patch
        patches = images.reshape(n, side, p, side, p).swapaxes(2, 3).reshape(n, side * side, p * p)
        x = dense(params["patch"], patches) + params["positions"]
        for block in params["blocks"]:
            qkv = dense(block["qkv"], normalized(block["attention_norm"], x))
            query, key, value = (part.reshape(*x.shape[:-1], -1, HEAD_SIZE) for part in jnp.split(qkv, 3, -1))
            x = x + dense(block["out"], jax.nn.dot_product_attention(query, key, value).reshape(x.shape))
            x = x + dense(block["down"], jax.nn.gelu(dense(block["up"], normalized(block["mlp_norm"], x))))
        return dense(params["head"], normalized(params["norm"], x).mean(1))


def fresh(key: jax.Array, d_in: int, d_out: int) -> Any:
    """A linear layer with a bias, at 1 over the root of its fan-in."""
    return {"kernel": jax.random.normal(key, (d_in, d_out)) / math.sqrt(d_in), "bias": jnp.zeros(d_out)}


def dense(p: Any, x: jax.Array) -> jax.Array:
    """A linear layer, with its bias if it has one."""
    y = x @ p["kernel"]
    return y + p["bias"] if "bias" in p else y


def normalized(p: Any, x: jax.Array) -> jax.Array:
    """LayerNorm where there are gains, RMSNorm without any where there are none."""
    if not p:
        return rms(x)
    x = x - x.mean(-1, keepdims=True)
    return rms(x) * p["scale"] + p["bias"]


def rms(x: jax.Array) -> jax.Array:
    """Every vector at RMS 1."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def convolved(p: Any, x: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution, then batch normalisation."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, p["kernel"], (stride, stride), "SAME", dimension_numbers=dimensions)
    y = y - y.mean((0, 1, 2))
    return y * jax.lax.rsqrt(jnp.mean(y * y, (0, 1, 2)) + 1e-5) * p["scale"] + p["bias"]


def rotated(x: jax.Array) -> jax.Array:
    """Rotary embedding: turns pairs of features by angles that grow with the position."""
    time, half = x.shape[-3], x.shape[-1] // 2
    angles = jnp.arange(time)[:, None, None] * 10_000.0 ** (-jnp.arange(half) / half)
    left, right = jnp.split(x, 2, -1)
    return jnp.concatenate(
        [left * jnp.cos(angles) - right * jnp.sin(angles), left * jnp.sin(angles) + right * jnp.cos(angles)], -1
    )
