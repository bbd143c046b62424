"""What Flax NNX has: every module of a model is asked what it is."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tests.real._model import Layout, RealModel, conv, dense, real_models, run_of


def _count(x: Any) -> int:
    return len(x) if isinstance(x, tuple | list) else 1


def _conv(module: Any, shape: tuple[int, ...]) -> Layout:
    taps = _count(module.kernel_size)
    return conv(taps, taps, taps + 1, 0, shape, getattr(module, "feature_group_count", 1))


GENERAL = {
    "kernel": lambda m, shape: dense(_count(m.in_features), _count(m.out_features)),
    "bias": lambda m, shape: f"bias > {run_of(0, _count(m.out_features))}",
}
NORM = {"scale": lambda m, shape: "gain > 0", "bias": lambda m, shape: "bias > 0"}
CONV = {"kernel": _conv, "bias": lambda m, shape: "bias > 0"}
LAYOUTS: dict[type, Any] = {
    nnx.Linear: GENERAL,
    nnx.LinearGeneral: GENERAL,
    nnx.Conv: CONV,
    nnx.ConvTranspose: CONV,
    nnx.Embed: {"embedding": lambda m, shape: "embedding 0 > 1"},
    nnx.LayerNorm: NORM,
    nnx.RMSNorm: NORM,
    nnx.BatchNorm: NORM,
    nnx.GroupNorm: NORM,
    nnx.LoRA: {"lora_a": lambda m, shape: "linear 0 > 1", "lora_b": lambda m, shape: "linear 0 > 1"},
}


def built(make: Callable[[nnx.Rngs], Any], *inputs: Any, own: Mapping[str, Layout] = {}) -> Callable[[], RealModel]:
    def build() -> RealModel:
        model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        modules = {"/".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        zeros = jax.tree.map(_zeros, rest)

        def apply(p: Any, *a: Any) -> Any:
            return nnx.merge(graph, p, zeros, copy=True)(*a)

        def documented(leaves: Mapping[str, Any]) -> dict[str, Layout]:
            return {path: _layout(path, tuple(leaf.shape), modules, own) for path, leaf in leaves.items()}

        return RealModel(apply, nnx.to_pure_dict(params), inputs, documented)

    return build


def _zeros(x: Any) -> Any:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.zeros(x.shape, x.dtype)


def _layout(path: str, shape: tuple[int, ...], modules: Mapping[str, Any], own: Mapping[str, Layout]) -> Layout:
    if path in own:
        return own[path]
    owner, _, name = path.rpartition("/")
    return next(
        layouts[name](modules[owner], shape)
        for kind, layouts in LAYOUTS.items()
        if isinstance(modules[owner], kind) and name in layouts
    )


class Attention(nnx.Module):
    """A transformer of one layer, in which a linear layer has a low-rank one beside it."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(200, 64, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(64, rngs=rngs), nnx.RMSNorm(64, rngs=rngs)])
        self.attention = nnx.MultiHeadAttention(4, 64, decode=False, normalize_qk=True, rngs=rngs)
        self.up = nnx.LoRALinear(64, 128, lora_rank=4, rngs=rngs)
        self.down = nnx.Linear(128, 64, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        x = x + self.attention(self.norms[0](x))
        x = x + self.down(nnx.gelu(self.up(self.norms[1](x))))
        return self.embed.attend(x)


class Images(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.down = nnx.Conv(3, 16, (3, 3), strides=2, rngs=rngs)
        self.apart = nnx.Conv(16, 16, (3, 3), feature_group_count=16, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(16, use_running_average=True, rngs=rngs), nnx.GroupNorm(8, 4, rngs=rngs)])
        self.up = nnx.ConvTranspose(16, 8, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norms[0](self.apart(self.down(x))))
        return self.head(nnx.relu(self.norms[1](self.up(x))).mean((1, 2)))


class Recurrent(nnx.Module):
    def __init__(self, cell: Any, rngs: nnx.Rngs):
        self.forward = nnx.RNN(cell(6, 24, rngs=rngs))
        self.head = nnx.Linear(24, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.forward(x))


SERIES = jax.ShapeDtypeStruct((4, 12, 6), jnp.float32)
real_models(
    "flax.nnx",
    {
        "attention": built(Attention, jax.ShapeDtypeStruct((2, 16), jnp.int32), own={"embed/embedding": "tied 0 > 1"}),
        "images": built(Images, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)),
        "lstm": built(lambda rngs: Recurrent(nnx.LSTMCell, rngs), SERIES),
        "optimized_lstm": built(lambda rngs: Recurrent(nnx.OptimizedLSTMCell, rngs), SERIES),
        "gru": built(lambda rngs: Recurrent(nnx.GRUCell, rngs), SERIES),
    },
)
