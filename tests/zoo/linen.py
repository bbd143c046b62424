"""Flax Linen: kernels [fan_in, fan_out], of attention [features, heads, width], of convolutions [*taps, in, out]."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.zoo._model import array, tokens, zoo_model

DENSE = {r".*kernel": "linear 0 > 1", r".*bias": "bias > 0", r".*scale": "gain > 0"}
CONV2 = {r".*Conv.*kernel": "conv 2 > 3 @ 0 1"}
ATTENTION = {
    r".*(query|key|value)/kernel": "linear 0 > 1 2",
    r".*(query|key|value)/bias": "bias > 0 1",
    r".*out/kernel": "linear 0 1 > 2",
}


def init(model: nn.Module, *inputs: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Shapes of the parameters, and zeros for all other collections."""
    variables = dict(jax.eval_shape(lambda key, *a: model.init(key, *a, **kwargs), jax.random.key(0), *inputs))
    params = variables.pop("params")
    return params, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables)


def built(model: nn.Module, *inputs: Any, **kwargs: Any):
    params, state = init(model, *inputs, **kwargs)

    def apply(p, *a):
        out = model.apply({"params": p, **state}, *a, mutable=list(state) or False, **kwargs)
        return out[0] if state else out

    return apply, params, inputs


@zoo_model(truth=DENSE)
def mlp():
    return built(nn.Sequential([nn.Dense(7), nn.gelu, nn.Dense(7), nn.relu, nn.Dense(5)]), array(4, 6))


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(10, (3, 3))(x))
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(5)(nn.relu(nn.Dense(12)(x)))


@zoo_model(truth=CONV2 | DENSE)
def cnn():
    return built(CNN(), array(2, 8, 8, 3))


class ResBlock(nn.Module):
    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.features, (3, 3), (self.strides,) * 2, use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=False)(y))
        y = nn.Conv(self.features, (3, 3), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=False, scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), (self.strides,) * 2, use_bias=False)(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(6, (3, 3))(x)))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        for features, strides in ((6, 1), (10, 2), (10, 1)):
            x = ResBlock(features, strides)(x)
        return nn.Dense(5)(x.mean((1, 2)))


@zoo_model(truth=CONV2 | DENSE)
def resnet():
    return built(ResNet(), array(2, 16, 16, 3))


class MobileNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.Conv(8, (3, 3), name="stem")(x))
        for i in range(2):
            y = nn.Conv(8, (3, 3), feature_group_count=8, name=f"depthwise{i}")(x)
            y = nn.GroupNorm(num_groups=2)(y)
            gate = nn.sigmoid(nn.Dense(8)(nn.relu(nn.Dense(3)(y.mean((1, 2))))))
            x = x + nn.Conv(8, (1, 1), name=f"pointwise{i}")(nn.silu(y * gate[:, None, None]))
        x = nn.Conv(12, (3, 3), feature_group_count=4, name="grouped")(x)
        return nn.Dense(5)(x.mean((1, 2)))


@zoo_model(
    truth={
        r"depthwise./kernel": "depthwise 2 > 3 @ 0 1 / 8",
        r"grouped/kernel": "conv 2 > 3 @ 0 1 / 4",
        r"(stem|pointwise.)/kernel": "conv 2 > 3 @ 0 1",
    }
    | DENSE
)
def mobilenet():
    return built(MobileNet(), array(2, 8, 8, 3))


class EncoderBlock(nn.Module):
    heads: int = 2

    @nn.compact
    def __call__(self, x, mask=None):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(y, y, mask=mask)
        y = nn.Dense(20)(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(nn.gelu(y))


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (4, 4), strides=(4, 4), name="patch")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        cls = self.param("cls", nn.initializers.zeros, (1, 1, 6))
        x = jnp.concatenate([jnp.tile(cls, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("pos", nn.initializers.normal(0.02), (1, x.shape[1], 6))
        for _ in range(2):
            x = EncoderBlock()(x)
        return nn.Dense(5, name="head")(nn.LayerNorm()(x)[:, 0])


@zoo_model(
    truth={r"patch/kernel": "conv 2 > 3 @ 0 1", r"cls": "positional 1 > 2", r"pos": "positional 1 > 2"}
    | ATTENTION
    | DENSE
)
def vit():
    return built(ViT(), array(2, 12, 12, 3))


class GPT(nn.Module):
    layers: int = 2
    tied: bool = False
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, idx):
        embed = nn.Embed(11, 6, name="wte", dtype=self.dtype)
        x = embed(idx) + nn.Embed(16, 6, name="wpe", dtype=self.dtype)(jnp.arange(idx.shape[1]))
        mask = nn.make_causal_mask(idx)
        block = nn.remat(EncoderBlock) if self.remat else EncoderBlock
        for i in range(self.layers):
            x = block(name=f"h{i}")(x, mask)
        x = nn.LayerNorm(name="ln_f")(x)
        return embed.attend(x) if self.tied else nn.Dense(11, use_bias=False, name="head")(x)


GPT_TRUTH = {r"wpe/embedding": "embedding 0 > 1", r"wte/embedding": "embedding 0 > 1"} | ATTENTION | DENSE


@zoo_model(truth=GPT_TRUTH)
def gpt():
    return built(GPT(), tokens(2, 9))


@zoo_model(truth=GPT_TRUTH)
def gpt_remat_bfloat16():
    return built(GPT(remat=True, dtype=jnp.bfloat16), tokens(2, 9))


@zoo_model(truth=GPT_TRUTH | {r"wte/embedding": "tied 0 > 1"})
def gpt_tied():
    return built(GPT(tied=True), tokens(2, 9))


@zoo_model(truth=GPT_TRUTH)
def gpt_loss():
    apply, params, inputs = built(GPT(), tokens(2, 9))

    def loss(p, idx):
        logits = apply(p, idx)[:, :-1]  # pyright: ignore[reportCallIssue, reportArgumentType]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), idx[:, 1:, None], axis=-1).mean()

    return loss, params, inputs


class ScanGPT(nn.Module):
    @nn.compact
    def __call__(self, idx):
        x = nn.Embed(11, 6, name="wte")(idx)
        x = x + self.param("pos", nn.initializers.normal(0.02), (16, 6))[: idx.shape[1]]
        mask = nn.make_causal_mask(idx)
        block = nn.scan(
            nn.remat(ScanBlock),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
        )
        x, _ = block(name="blocks")(x, mask)
        return nn.Dense(11, use_bias=False, name="head")(nn.RMSNorm()(x))


class ScanBlock(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        return EncoderBlock()(x, mask), None


@zoo_model(
    truth={
        r"wte/embedding": "embedding 0 > 1",
        r"pos": "positional 0 > 1",
        r"blocks/.*(query|key|value)/kernel": "linear 1 > 2 3",
        r"blocks/.*(query|key|value)/bias": "bias > 1 2",
        r"blocks/.*out/kernel": "linear 1 2 > 3",
        r"blocks/.*kernel": "linear 1 > 2",
        r"blocks/.*bias": "bias > 1",
        r"blocks/.*scale": "gain > 1",
    }
    | DENSE
)
def gpt_scan():
    return built(ScanGPT(), tokens(2, 9))


class T5Layer(nn.Module):
    decoder: bool = False

    @nn.compact
    def __call__(self, x, memory=None, bias=None):
        y = nn.RMSNorm()(x)
        x = x + T5Attention(name="self")(y, y, bias)
        if self.decoder:
            x = x + T5Attention(name="cross")(nn.RMSNorm()(x), memory, None)
        y = nn.RMSNorm()(x)
        gated = nn.gelu(nn.Dense(9, use_bias=False)(y)) * nn.Dense(9, use_bias=False)(y)
        return x + nn.Dense(6, use_bias=False)(gated)


class T5Attention(nn.Module):
    @nn.compact
    def __call__(self, x, memory, bias):
        dense = lambda name: nn.DenseGeneral((2, 4), use_bias=False, name=name)  # noqa: E731
        q, k, v = dense("query")(x), dense("key")(memory), dense("value")(memory)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k)
        weights = jax.nn.softmax(logits if bias is None else logits + bias)
        out = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return nn.DenseGeneral(6, axis=(-2, -1), use_bias=False, name="out")(out)


class T5(nn.Module):
    @nn.compact
    def __call__(self, source, target):
        embed = nn.Embed(11, 6, name="shared")
        table = self.param("relative", nn.initializers.normal(), (32, 2))
        x, y = embed(source), embed(target)
        for i in range(2):
            x = T5Layer(name=f"encoder{i}")(x, bias=relative_bias(table, source.shape[1]))
        memory = nn.RMSNorm(name="encoder_norm")(x)
        for i in range(2):
            y = T5Layer(True, name=f"decoder{i}")(y, memory)
        return nn.Dense(11, use_bias=False, name="head")(nn.RMSNorm(name="decoder_norm")(y))


def relative_bias(table, n):
    distance = jnp.clip(jnp.arange(n)[:, None] - jnp.arange(n)[None] + 16, 0, 31)
    return table[distance].transpose(2, 0, 1)[None]


@zoo_model(truth={r"shared/embedding": "embedding 0 > 1", r"relative": "embedding 0 > 1"} | ATTENTION | DENSE)
def t5():
    return built(T5(), tokens(2, 7), tokens(2, 5))


class Perceiver(nn.Module):
    """Learned queries that meet data before they meet a matrix."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6)(x)
        latents = self.param("latents", nn.initializers.normal(), (5, 6))
        scores = jnp.einsum("nd,btd->bnt", latents, nn.Dense(6, name="k")(x))
        z = jnp.einsum("bnt,btd->bnd", jax.nn.softmax(scores), nn.Dense(6, name="v")(x))
        for _ in range(2):
            z = EncoderBlock()(z)
        return nn.Dense(3)(z.mean(1))


@zoo_model(truth={r"latents": "linear 1 > 0"} | ATTENTION | DENSE)
def perceiver():
    return built(Perceiver(), array(2, 8, 4))


class MoE(nn.Module):
    """Dense dispatch by one-hot masks, as in GShard."""

    experts: int = 4
    capacity: int = 5

    @nn.compact
    def __call__(self, x):
        gates = jax.nn.softmax(nn.Dense(self.experts, use_bias=False, name="router")(x))
        choice = jax.nn.one_hot(gates.argmax(-1), self.experts)
        position = jnp.cumsum(choice, axis=0) * choice
        dispatch = choice[..., None] * jax.nn.one_hot(position.astype(jnp.int32), self.capacity)
        w_in = self.param("w_in", nn.initializers.normal(), (self.experts, 6, 9))
        b_in = self.param("b_in", nn.initializers.normal(), (self.experts, 9))
        w_out = self.param("w_out", nn.initializers.normal(), (self.experts, 9, 6))
        expert_in = jnp.einsum("td,tec->ecd", x, dispatch)
        hidden = nn.relu(jnp.einsum("ecd,edf->ecf", expert_in, w_in) + b_in[:, None])
        expert_out = jnp.einsum("ecf,efd->ecd", hidden, w_out)
        return jnp.einsum("ecd,tec->td", expert_out, dispatch * gates[..., None])


class MoENet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6)(x)
        x = x + MoE()(nn.LayerNorm()(x))
        return nn.Dense(3)(x)


@zoo_model(truth={r".*w_(in|out)": "linear 1 > 2", r".*b_in": "bias > 1"} | DENSE)
def moe():
    return built(MoENet(), array(7, 8))


class RNNs(nn.Module):
    cell: Any

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(self.cell(6))(nn.Dense(5)(x))[:, -1])  # pyright: ignore[reportCallIssue, reportArgumentType]


@zoo_model(truth=DENSE)
def lstm():
    return built(RNNs(nn.OptimizedLSTMCell), array(2, 7, 4))


@zoo_model(truth=DENSE)
def gru():
    return built(RNNs(nn.GRUCell), array(2, 7, 4))


class UnrolledRNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        cell = nn.SimpleCell(6)
        carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
        for t in range(x.shape[1]):
            carry, y = cell(carry, x[:, t])
        return nn.Dense(3)(y)


@zoo_model(truth=DENSE)
def rnn_unrolled():
    return built(UnrolledRNN(), array(2, 3, 4))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        a = nn.relu(nn.Conv(6, (3, 3))(x))
        b = nn.relu(nn.Conv(10, (3, 3), strides=(2, 2))(a))
        b = nn.relu(nn.Conv(10, (3, 3), kernel_dilation=2)(b))
        up = nn.ConvTranspose(6, (2, 2), strides=(2, 2))(b)
        c = nn.relu(nn.Conv(6, (3, 3))(jnp.concatenate([a, up], -1)))
        return nn.Conv(2, (1, 1))(c)


@zoo_model(truth={r".*Conv.*kernel": "conv 2 > 3 @ 0 1"} | DENSE)
def unet():
    return built(UNet(), array(2, 8, 8, 3))


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, z):
        x = nn.Dense(4 * 4 * 6)(z).reshape(-1, 4, 4, 6)
        x = nn.relu(nn.ConvTranspose(5, (3, 3), strides=(2, 2), transpose_kernel=True)(x))
        return nn.ConvTranspose(3, (3, 3), strides=(2, 2), transpose_kernel=True)(x)


@zoo_model(truth={r".*Conv.*kernel": "conv 3 > 2 @ 0 1"} | DENSE)
def dcgan_transpose_kernel():
    return built(Decoder(), array(2, 7))


@zoo_model(truth={r".*layer_instance.*/scale": "gain > 0", r".*kernel/scale": "gain > 0"} | CONV2 | DENSE)
def weight_norm():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.WeightNorm(nn.Conv(6, (3, 3)))(x))
            return nn.WeightNorm(nn.Dense(5))(x.mean((1, 2)))

    return built(Net(), array(2, 6, 6, 3))


@zoo_model(truth=DENSE)
def spectral_norm():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.SpectralNorm(nn.Dense(7))(x, update_stats=True))
            return nn.SpectralNorm(nn.Dense(5))(x, update_stats=False)

    return built(Net(), array(4, 6))


@zoo_model(truth={r".*kernel": "linear 1 > 2", r".*bias": "bias > 1"})
def ensemble_vmap():
    class Member(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.relu(nn.Dense(7)(x)))

    members = nn.vmap(
        Member,
        in_axes=None,  # pyright: ignore[reportArgumentType]
        out_axes=0,
        axis_size=4,
        variable_axes={"params": 0},
        split_rngs={"params": True},  # pyright: ignore[reportArgumentType]
    )
    return built(members(), array(5, 6))


@zoo_model(
    truth={r"Dense.*kernel": "linear 0 > 1", r"Dense.*bias": "bias > 0", r".*phi.*kernel": "linear 0 > 1"} | DENSE
)
def deepsets():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(7, name="phi0")(x))
            x = nn.Dense(9, name="phi1")(x).sum(1)
            return nn.Dense(2)(nn.relu(nn.Dense(5)(x)))

    return built(Net(), array(3, 6, 4))


class ConvNeXt(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Conv(8, (4, 4), strides=(4, 4))(x))
        y = nn.LayerNorm()(nn.Conv(8, (7, 7), feature_group_count=8, name="depthwise")(x))
        y = nn.Dense(8)(nn.gelu(nn.Dense(32)(y)))
        x = x + y * self.param("gamma", nn.initializers.ones, (8,))
        return nn.Dense(10)(x.mean((1, 2)))


@zoo_model(truth={r"depthwise/kernel": "depthwise 2 > 3 @ 0 1 / 8", r"gamma": "gain > 0"} | CONV2 | DENSE)
def convnext():
    return built(ConvNeXt(), array(2, 16, 16, 3))


@zoo_model(truth={r"ConvLSTM.*kernel": "conv 2 > 3 @ 0 1"} | DENSE)
def conv_lstm():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.RNN(nn.ConvLSTMCell(6, (3, 3)))(x).mean((1, 2, 3)))  # pyright: ignore[reportAttributeAccessIssue]

    return built(Net(), array(2, 4, 8, 8, 3))


@zoo_model(truth=DENSE)
def bidirectional():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.LSTMCell(4)))(x)

    return built(Net(), array(2, 5, 3))


@zoo_model(
    truth={
        r"DenseGeneral_0/kernel": "linear 0 > 1 2",
        r"DenseGeneral_0/bias": "bias > 0 1",
        r"DenseGeneral_1/kernel": "linear 0 1 > 2",
        r"ConvLocal_0/kernel": "linear 1 > 2",
        r"ConvLocal_0/bias": "bias > 1",
        r"PReLU_0/negative_slope": "gain >",
    }
    | DENSE
)
def rarer_layers():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.PReLU()(nn.Dense(8)(x))
            x = nn.DenseGeneral((2, 4))(x)
            x = nn.GroupNorm(2)(nn.DenseGeneral(8, axis=(-2, -1))(x))
            return nn.InstanceNorm()(nn.ConvLocal(6, (2,))(x))

    return built(Net(), array(2, 5, 7))
