"""Plain JAX: what frameworks do not show, layouts as written in each function."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, tokens, zoo_model


def shapes(**params):
    return {name: array(*(shape if isinstance(shape, tuple) else (shape,))) for name, shape in params.items()}


def rms(x):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def norm(x, g, b):
    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * g + b


def conv1d(x, w, groups=1, stride=1, padding="SAME", dilation=1):
    return lax.conv_general_dilated(
        x,
        w,
        (stride,),
        padding,
        rhs_dilation=(dilation,),
        feature_group_count=groups,
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


@zoo_model(truth={"w": "linear 0 > ", "b": "bias >"})
def linear_regression():
    return lambda p, x: x @ p["w"] + p["b"], shapes(w=5, b=()), (array(7, 5),)


@zoo_model(truth={"w": "linear 0 >"})
def linear_written_out():
    return lambda p, x: (x * p["w"]).sum(-1), shapes(w=5), (array(7, 5),)


@zoo_model(truth={"w": "linear 1 > 0", "v": "linear 0 > 1"})
def matrix_written_out():
    def apply(p, x):
        h = jnp.tanh((x[:, None, :] * p["w"]).sum(-1))
        return jnp.sum(h[:, :, None] * p["v"][None], axis=1)

    return apply, shapes(w=(6, 5), v=(6, 3)), (array(7, 5),)


@zoo_model(truth={"g.": "gain > 0", "w": "linear 0 > 1"})
def norm_after_norm():
    return lambda p, x: rms(rms(x @ p["w"]) * p["g1"]) * p["g2"], shapes(w=(5, 6), g1=6, g2=6), (array(7, 5),)


GPT = {"wte": (11, 6), "wqkv": (6, 18), "wo": (6, 6), "w1": (6, 12), "w2": (12, 6), "g1": 6, "g2": 6}


def attention_block(p, x):
    q, k, v = jnp.split(rms(x) * p["g1"] @ p["wqkv"], 3, axis=-1)
    heads = lambda y: y.reshape(*y.shape[:-1], 2, 3)  # noqa: E731
    x = x + jax.nn.dot_product_attention(heads(q), heads(k), heads(v), is_causal=True).reshape(x.shape) @ p["wo"]
    return x + jax.nn.gelu(rms(x) * p["g2"] @ p["w1"]) @ p["w2"]


@zoo_model(truth={"wte": "tied 0 > 1", "g.": "gain > 0", "w.*": "linear 0 > 1"})
def gpt_fused_qkv_tied():
    return lambda p, i: attention_block(p, p["wte"][i]) @ p["wte"].T, shapes(**GPT), (tokens(2, 7),)


@zoo_model(truth={"wte": "tied 0 > 1", "g.": "gain > 0", "w.*": "linear 0 > 1"})
def gpt_one_hot():
    def apply(p, i):
        return attention_block(p, jax.nn.one_hot(i, 11) @ p["wte"]) @ p["wte"].T

    return apply, shapes(**GPT), (tokens(2, 7),)


@zoo_model(truth={"wte": "tied 0 > 1", "g.": "gain > 1", "w.*": "linear 1 > 2"})
def gpt_fori_loop():
    def apply(p, i):
        stacked = {name: p[name] for name in p if name != "wte"}

        def step(layer, x):
            return attention_block({name: w[layer] for name, w in stacked.items()}, x)

        return lax.fori_loop(0, 3, step, p["wte"][i]) @ p["wte"].T

    params = {
        name: shape if name == "wte" else (3, *(shape if isinstance(shape, tuple) else (shape,)))
        for name, shape in GPT.items()
    }
    return apply, shapes(**params), (tokens(2, 7),)


@zoo_model(truth={"q": "linear 0 > 1 2", "kv": "linear 1 > 0 2 3", "o": "linear 0 1 > 2", "qb": "bias > 0 1"})
def grouped_query_attention():
    def apply(p, x):
        q = jnp.einsum("btd,dnh->btnh", x, p["q"]) + p["qb"]
        k, v = jnp.einsum("btd,sdkh->sbtkh", x, p["kv"])
        q = q.reshape(*q.shape[:2], 2, 2, 3)
        weights = jax.nn.softmax(jnp.einsum("btkgh,bskh->bkgts", q, k))
        out = jnp.einsum("bkgts,bskh->btkgh", weights, v)
        return jnp.einsum("btnh,nhd->btd", out.reshape(*out.shape[:2], 4, 3), p["o"])

    return apply, shapes(q=(6, 4, 3), qb=(4, 3), kv=(2, 6, 2, 3), o=(4, 3, 6)), (array(2, 7, 6),)


@zoo_model(truth={"[qkv]": "linear 1 > 0 2", "o": "linear 0 1 > 2"})
def heads_first():
    def apply(p, x):
        q, k, v = (jnp.einsum("btd,ndh->bnth", x, p[name]) for name in "qkv")
        out = jax.nn.softmax(jnp.einsum("bnth,bnsh->bnts", q, k)) @ v
        return jnp.einsum("bnth,nhd->btd", out, p["o"])

    return apply, shapes(q=(2, 6, 3), k=(2, 6, 3), v=(2, 6, 3), o=(2, 3, 6)), (array(2, 7, 6),)


@zoo_model(truth={"w.": "linear 1 > 2", "router": "linear 0 > 1", "b1": "bias > 1"})
def dense_experts():
    def apply(p, x):
        gates = jax.nn.softmax(x @ p["router"])
        h = jax.nn.relu(jnp.einsum("td,edf->tef", x, p["w1"]) + p["b1"])
        return jnp.einsum("te,ted->td", gates, jnp.einsum("tef,efd->ted", h, p["w2"]))

    return apply, shapes(w1=(4, 6, 9), b1=(4, 9), w2=(4, 9, 6), router=(6, 4)), (array(8, 6),)


@zoo_model(truth={"w.": "linear 1 > 2", "router": "linear 0 > 1", "b1": "bias > 1"})
def dense_experts_in_one_sum():
    """Gates, experts and the sum over them in one einsum: heads would be contracted just so, but for the gates."""

    def apply(p, x):
        gates = jax.nn.softmax(x @ p["router"])
        h = jax.nn.relu(jnp.einsum("td,edf->tef", x, p["w1"]) + p["b1"])
        return jnp.einsum("tef,efd,te->td", h, p["w2"], gates)

    return apply, shapes(w1=(4, 6, 9), b1=(4, 9), w2=(4, 9, 6), router=(6, 4)), (array(8, 6),)


@zoo_model(truth={"w.": "linear 1 > 2", "router": "linear 0 > 1"})
def experts_looked_up():
    def apply(p, x):
        scores = jax.nn.softmax(x @ p["router"])
        gate, chosen = lax.top_k(scores, 2)
        h = jax.nn.relu(jnp.einsum("td,tkdf->tkf", x, p["w1"][chosen]))
        return jnp.einsum("tkf,tkfd,tk->td", h, p["w2"][chosen], gate)

    return apply, shapes(w1=(4, 6, 9), w2=(4, 9, 6), router=(6, 4)), (array(8, 6),)


@zoo_model(truth={"w.": "linear 1 > 2", "router": "linear 0 > 1"})
def ragged_experts():
    def apply(p, x):
        chosen = (x @ p["router"]).argmax(-1)
        order = jnp.argsort(chosen)
        sizes = jnp.bincount(chosen, length=4)
        h = jax.nn.relu(lax.ragged_dot(x[order], p["w1"], sizes))
        gate = jnp.take_along_axis(jax.nn.softmax(x @ p["router"]), chosen[:, None], axis=1)
        return lax.ragged_dot(h, p["w2"], sizes)[jnp.argsort(order)] * gate

    return apply, shapes(w1=(4, 6, 9), w2=(4, 9, 6), router=(6, 4)), (array(8, 6),)


@zoo_model(
    truth={
        "conv": "depthwise 1 > 2 @ 0 / 12",
        "conv_b|dt_b": "bias > 0",
        "a_log": "gain > 0 1",
        "d": "gain > 0",
        "w.*": "linear 0 > 1",
    }
)
def mamba():
    def apply(p, x):
        h, z = jnp.split(x @ p["w_in"], 2, -1)
        h = lax.conv_general_dilated(
            h, p["conv"], (1,), [(3, 0)], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=12
        )
        h = jax.nn.silu(h + p["conv_b"])
        low, b, c = jnp.split(h @ p["w_x"], (3, 7), -1)
        dt = jax.nn.softplus(low @ p["w_dt"] + p["dt_b"])
        decay = jnp.exp(dt[..., None] * -jnp.exp(p["a_log"]))
        drive = (dt * h)[..., None] * b[:, :, None]

        def step(state, inputs):
            decay, drive, c = inputs
            state = decay * state + drive
            return state, jnp.einsum("bdn,bn->bd", state, c)

        time_first = jax.tree.map(lambda y: y.swapaxes(0, 1), (decay, drive, c))
        _, y = lax.scan(step, jnp.zeros((x.shape[0], 12, 4)), time_first)
        y = (y.swapaxes(0, 1) + h * p["d"]) * jax.nn.silu(z)
        return y @ p["w_out"]

    params = shapes(w_in=(6, 24), conv=(4, 1, 12), conv_b=12, w_x=(12, 11), w_dt=(3, 12), dt_b=12, a_log=(12, 4), d=12)
    return apply, params | shapes(w_out=(12, 6)), (array(2, 7, 6),)


@zoo_model(truth={"w.*": "linear 0 > 1", "b.*": "bias > 0"})
def nerf():
    def apply(p, x):
        frequencies = 2.0 ** jnp.arange(4)
        e = (x[..., None] * frequencies).reshape(*x.shape[:-1], 12)
        e = jnp.concatenate([x, jnp.sin(e), jnp.cos(e)], -1)
        h = jax.nn.relu(e @ p["w0"] + p["b0"])
        h = jax.nn.relu(jnp.concatenate([h, e], -1) @ p["w1"] + p["b1"])
        return h @ p["w_rgb"] + p["b_rgb"], jax.nn.softplus(h @ p["w_sigma"])

    params = shapes(w0=(27, 9), b0=9, w1=(36, 9), b1=9, w_rgb=(9, 3), b_rgb=3, w_sigma=(9, 1))
    return apply, params, (array(5, 3),)


@zoo_model(truth={"w.*": "linear 0 > 1", "a_.": "linear 0 >", "b": "bias > 0"})
def graph_attention():
    def apply(p, x, senders, receivers):
        h = x @ p["w0"] + p["b"]
        score = jax.nn.leaky_relu((h @ p["a_s"])[senders] + (h @ p["a_r"])[receivers])
        weight = jnp.exp(score)
        total = jax.ops.segment_sum(weight, receivers, 9)
        out = jax.ops.segment_sum(h[senders] * weight[:, None], receivers, 9) / total[:, None]
        return jax.nn.relu(out) @ p["w1"]

    graph = (array(9, 5), tokens(20), tokens(20))
    return apply, shapes(w0=(5, 6), b=6, a_s=6, a_r=6, w1=(6, 3)), graph


@zoo_model(truth={"w|a|b": "linear 0 > 1", "head": "linear 0 > 1"})
def lora():
    def apply(p, x):
        return jax.nn.relu(x @ p["w"] + 0.5 * (x @ p["a"]) @ p["b"]) @ p["head"]

    return apply, shapes(w=(5, 6), a=(5, 2), b=(2, 6), head=(6, 3)), (array(7, 5),)


@zoo_model(truth={"w|a|b": "linear 0 > 1", "head": "linear 0 > 1"})
def lora_merged():
    def apply(p, x):
        return jax.nn.relu(x @ (p["w"] + 0.5 * p["a"] @ p["b"])) @ p["head"]

    return apply, shapes(w=(5, 6), a=(5, 2), b=(2, 6), head=(6, 3)), (array(7, 5),)


@zoo_model(truth={"w": "linear 0 > 1", "b.": "bias > 0"})
def autoencoder_tied():
    def apply(p, x):
        return jax.nn.sigmoid(x @ p["w"] + p["b1"]) @ p["w"].T + p["b2"]

    return apply, shapes(w=(8, 3), b1=3, b2=8), (array(5, 8),)


@zoo_model(truth={"w.": "linear 0 > 1", "b.": "bias > 0"})
def energy_forces():
    def energy(x, p):
        return (jnp.tanh(x @ p["w0"] + p["b0"]) @ p["w1"]).sum()

    return lambda p, x: -jax.grad(energy)(x, p), shapes(w0=(3, 6), b0=6, w1=(6, 2)), (array(7, 3),)


@zoo_model(truth={"v": "linear 0 > 1", "g": "gain > 0", "w": "linear 0 > 1"})
def weight_norm():
    def apply(p, x):
        w = p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0)
        return jax.nn.relu(x @ w) @ p["w"]

    return apply, shapes(v=(5, 6), g=6, w=(6, 3)), (array(7, 5),)


@zoo_model(truth={"k": "conv 2 > 3 @ 0 1", "w": "linear 0 > 1", "gain": "gain > 0"})
def weight_standardised():
    def apply(p, x):
        k = p["k"] - p["k"].mean((0, 1, 2))
        k = k / jnp.sqrt(k.var((0, 1, 2)) + 1e-4) * p["gain"]
        x = lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(x).mean((1, 2)) @ p["w"]

    return apply, shapes(k=(3, 3, 2, 6), gain=6, w=(6, 3)), (array(2, 6, 6, 2),)


@zoo_model(truth={"w.": "linear 0 > 1"})
def shared_layers():
    def apply(p, x):
        x = x @ p["w0"]
        for _ in range(3):
            x = x + jax.nn.relu(x @ p["w1"])
        return x @ p["w2"]

    return apply, shapes(w0=(4, 6), w1=(6, 6), w2=(6, 3)), (array(5, 4),)


@zoo_model(truth={"layers": "linear 1 > 2", "w.": "linear 0 > 1", "bs": "bias > 1"})
def stack_indexed():
    def apply(p, x):
        x = x @ p["w0"]
        for i in range(3):
            x = jax.nn.relu(x @ p["layers"][i] + p["bs"][i])
        return x @ p["w1"]

    return apply, shapes(w0=(4, 6), layers=(3, 6, 6), bs=(3, 6), w1=(6, 2)), (array(5, 4),)


@zoo_model(truth={"w.": "linear 0 > 1", "mix": "linear 0 > 1"})
def mixer():
    def apply(p, x):
        x = x @ p["w0"]
        x = x + jnp.einsum("btd,ts->bsd", jax.nn.gelu(x), p["mix"])
        return (x + jax.nn.gelu(x @ p["w1"])).mean(1) @ p["w2"]

    return apply, shapes(w0=(4, 6), mix=(7, 7), w1=(6, 6), w2=(6, 2)), (array(5, 7, 4),)


@zoo_model(truth={"table": "embedding 0 > 1", "w": "linear 0 > 1"})
def vq_vae():
    def apply(p, x):
        z = x @ p["w"]
        distances = (z**2).sum(-1, keepdims=True) - 2 * z @ p["table"].T + (p["table"] ** 2).sum(-1)
        q = p["table"][distances.argmin(-1)]
        return (
            z + lax.stop_gradient(q - z),
            ((z - lax.stop_gradient(q)) ** 2).mean(),
            ((lax.stop_gradient(z) - q) ** 2).mean(),
        )

    return apply, shapes(table=(9, 6), w=(4, 6)), (array(5, 4),)


@zoo_model(truth={"w": "linear 0 > 1", "a": "gain >", "t": "gain >"})
def prelu_and_temperature():
    def apply(p, x):
        h = x @ p["w"]
        return jnp.where(h > 0, h, p["a"] * h) * jnp.exp(p["t"])

    return apply, shapes(w=(4, 6), a=(), t=()), (array(5, 4),)


@zoo_model(truth={"w.": "linear 0 > 1", "h0": "bias > 0"})
def learned_initial_state():
    def apply(p, x):
        def step(h, x):
            return jnp.tanh(x @ p["wx"] + h @ p["wh"]), None

        h0 = jnp.broadcast_to(p["h0"], (x.shape[1], 6))
        return lax.scan(step, h0, x)[0] @ p["wo"]

    return apply, shapes(wx=(4, 6), wh=(6, 6), wo=(6, 2), h0=6), (array(7, 3, 4),)


@zoo_model(truth={"w.": "linear 0 > 1", "b.": "bias > 0"})
def cond_and_while():
    def apply(p, x, flag):
        h = jnp.tanh(x @ p["w0"] + p["b0"])
        h = lax.cond(flag > 0, lambda h: jax.nn.relu(h @ p["w1"] + p["b1"]), lambda h: h, h)
        h = lax.while_loop(lambda s: s[1] < 3, lambda s: (jnp.tanh(s[0] @ p["w2"]), s[1] + 1), (h, 0))[0]
        return h @ p["w3"]

    params = shapes(w0=(4, 6), b0=6, w1=(6, 6), b1=6, w2=(6, 6), w3=(6, 2))
    return apply, params, (array(5, 4), array(dtype=jnp.int32))


@zoo_model(truth={"w.": "linear 0 > 1"})
def concatenated_weights():
    def apply(p, x):
        q, k, v = jnp.split(x @ jnp.concatenate([p["wq"], p["wk"], p["wv"]], axis=1), 3, -1)
        return (jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v) @ p["wo"]

    return apply, shapes(wq=(4, 6), wk=(4, 6), wv=(4, 6), wo=(6, 2)), (array(3, 5, 4),)


@zoo_model(truth={"w": "unknown", "head": "linear 0 > 1"})
def flat_vector():
    def apply(p, x):
        w0, w1 = p["w"][:24].reshape(4, 6), p["w"][24:].reshape(6, 6)
        return jax.nn.relu(jax.nn.relu(x @ w0) @ w1) @ p["head"]

    return apply, shapes(w=60, head=(6, 3)), (array(5, 4),)


@zoo_model(truth={"kernels": "unknown", "w": "linear 0 > 1", "gate": "linear 0 > 1"})
def mixture_of_weights():
    def apply(p, x):
        mixed = jnp.einsum("be,eio->bio", jax.nn.softmax(x @ p["gate"]), p["kernels"])
        return jax.nn.relu(jnp.einsum("bi,bio->bo", x, mixed)) @ p["w"]

    return apply, shapes(gate=(4, 3), kernels=(3, 4, 6), w=(6, 2)), (array(5, 4),)


@zoo_model(truth={"hyper1|hyper_b": "unknown", "hyper0": "linear 0 > 1", "w": "linear 0 > 1"})
def hypernetwork():
    def apply(p, z, x):
        made = jax.nn.relu(z @ p["hyper0"]) @ p["hyper1"] + p["hyper_b"]
        return jax.nn.relu(jnp.einsum("bi,bio->bo", x, made.reshape(-1, 4, 6))) @ p["w"]

    return apply, shapes(hyper0=(3, 7), hyper1=(7, 24), hyper_b=24, w=(6, 2)), (array(5, 3), array(5, 4))


@zoo_model(truth={"latents": "positional 0 > 1", "w.": "linear 0 > 1"})
def latents_times_weight():
    def apply(p, x):
        q = p["latents"] @ p["wq"]
        weights = jax.nn.softmax(jnp.einsum("nd,btd->bnt", q, x @ p["wk"]))
        return jnp.einsum("bnt,btd->bnd", weights, x @ p["wv"]) @ p["wo"]

    return apply, shapes(latents=(5, 6), wq=(6, 6), wk=(4, 6), wv=(4, 6), wo=(6, 2)), (array(2, 7, 4),)


@zoo_model(truth={"centres": "unknown", "w": "linear 0 > 1"})
def radial_basis():
    def apply(p, x):
        return jnp.exp(-((x[:, None] - p["centres"]) ** 2).sum(-1)) @ p["w"]

    return apply, shapes(centres=(7, 4), w=(7, 2)), (array(5, 4),)


@zoo_model(truth={"w": "unknown", "v": "linear 0 > 1"})
def fourier_of_a_parameter():
    def apply(p, x):
        kernel = jnp.fft.irfft(jnp.fft.rfft(p["w"], axis=0), 4, axis=0)
        return jax.nn.relu(x @ kernel) @ p["v"]

    return apply, shapes(w=(4, 6), v=(6, 2)), (array(5, 4),)


@zoo_model(truth={"r|i": "linear 1 > 2", "w.": "linear 0 > 1"})
def fourier_neural_operator():
    def apply(p, x):
        h = x @ p["w0"]
        modes = jnp.fft.rfft(h, axis=1)[:, :4]
        mixed = jnp.einsum("bki,kio->bko", modes, lax.complex(p["r"], p["i"]))
        return (jnp.fft.irfft(mixed, 9, axis=1) + h @ p["w1"]) @ p["w2"]

    return apply, shapes(w0=(3, 6), r=(4, 6, 6), i=(4, 6, 6), w1=(6, 6), w2=(6, 2)), (array(2, 9, 3),)


@zoo_model(truth={"w.": "linear 0 > 1", "unused": "unused"})
def unused_leaf():
    return lambda p, x: jax.nn.relu(x @ p["w0"]) @ p["w1"], shapes(w0=(4, 6), w1=(6, 2), unused=3), (array(5, 4),)


@zoo_model(truth={"time": "embedding 0 > 1", "label": "embedding 0 > 1", "w.*": "linear 0 > 1", "b": "bias > 0"})
def diffusion_conditioned():
    def apply(p, x, t, y):
        e = p["time"][t] + p["label"][y]
        scale, shift = jnp.split(jax.nn.silu(e) @ p["w_mod"] + p["b"], 2, -1)
        h = rms(x @ p["w0"]) * (1 + scale) + shift
        return jax.nn.silu(h) @ p["w1"]

    params = shapes(time=(20, 5), label=(10, 5), w_mod=(5, 12), b=12, w0=(4, 6), w1=(6, 4))
    return apply, params, (array(3, 4), tokens(3), tokens(3))


@zoo_model(truth={"w.": "linear 0 > 1", "pos": "positional 0 1 > 2"})
def positions_in_two_dimensions():
    def apply(p, x):
        h = x @ p["w0"] + p["pos"]
        return jnp.tanh(h).mean((1, 2)) @ p["w1"]

    return apply, shapes(w0=(3, 6), pos=(4, 5, 6), w1=(6, 2)), (array(2, 4, 5, 3),)


@zoo_model(truth={"w.": "linear 0 > 1", "rows": "positional 0 > 1", "cols": "positional 0 > 1"})
def positions_by_axis():
    def apply(p, x):
        h = x @ p["w0"] + (p["rows"][:, None] + p["cols"][None])
        return jnp.tanh(h).mean((1, 2)) @ p["w1"]

    return apply, shapes(w0=(3, 6), rows=(4, 6), cols=(5, 6), w1=(6, 2)), (array(2, 4, 5, 3),)


@zoo_model(truth={"w.": "linear 0 > 1", "b": "bias > 0", "s": "gain > 0"})
def batchnorm_folded():
    def apply(p, x, mean, var):
        h = x @ p["w0"]
        scale = p["s"] * lax.rsqrt(var + 1e-5)
        return jax.nn.relu(h * scale + (p["b"] - mean * scale)) @ p["w1"]

    return apply, shapes(w0=(3, 6), s=6, b=6, w1=(6, 2)), (array(4, 3), array(6), array(6))


@zoo_model(truth={"w.": "linear 1 > 2", "b": "bias > 1"})
def vmapped_ensemble():
    def member(p, x):
        return jax.nn.relu(x @ p["w0"] + p["b"]) @ p["w1"]

    return jax.vmap(member, in_axes=(0, None)), shapes(w0=(4, 3, 6), b=(4, 6), w1=(4, 6, 2)), (array(5, 3),)


@zoo_model(truth={"k.": "conv 3 > 4 @ 1 2", "w": "linear 1 > 2"})
def vmapped_cnn():
    def member(p, x):
        for name in ("k0", "k1"):
            x = lax.conv_general_dilated(x, p[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(x)
        return x.mean((1, 2)) @ p["w"]

    params = shapes(k0=(4, 3, 3, 2, 6), k1=(4, 3, 3, 6, 6), w=(4, 6, 3))
    return jax.vmap(member, in_axes=(0, None)), params, (array(5, 7, 7, 2),)


@zoo_model(truth={"w.": "linear 0 > 1", "s": "gain >"})
def contrastive():
    def apply(p, x, y):
        a, b = x @ p["wx"], y @ p["wy"]
        a, b = (v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b))
        logits = a @ b.T * jnp.exp(p["s"])
        return -jnp.diag(jax.nn.log_softmax(logits)).mean()

    return apply, shapes(wx=(4, 6), wy=(5, 6), s=()), (array(7, 4), array(7, 5))


@zoo_model(truth={"w.": "linear 0 > 1", "loss_free": "linear 0 > 1"})
def loss_with_weight_decay():
    def apply(p, x):
        out = jax.nn.relu(x @ p["w0"]) @ p["w1"]
        return (out**2).mean() + 1e-3 * sum((w**2).sum() for w in p.values())

    return apply, shapes(w0=(4, 6), w1=(6, 2)), (array(5, 4),)
