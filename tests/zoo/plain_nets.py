"""x."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import rms, shapes


@zoo_model(truth={"w.": "linear 0 > 1", "b.": "bias > 0"})
def coordinates_made_inside():
    def apply(p, scale):
        grid = jnp.stack(jnp.meshgrid(jnp.linspace(0, 1, 4), jnp.linspace(0, 1, 5)), -1)
        h = jnp.sin(grid @ p["w0"] + p["b0"])
        return jnp.sin(h @ p["w1"] + p["b1"]) @ p["w2"] * scale

    return apply, shapes(w0=(2, 6), b0=6, w1=(6, 6), b1=6, w2=(6, 3)), (array(3),)


@zoo_model(truth={"w.": "linear 0 > 1", "pos": "positional 0 > 1"})
def resized_positions():
    def apply(p, x):
        pos = jax.image.resize(p["pos"], (7, 6), "bilinear")
        return jnp.tanh(x @ p["w0"] + pos) @ p["w1"]

    return apply, shapes(w0=(4, 6), pos=(5, 6), w1=(6, 2)), (array(3, 7, 4),)


@zoo_model(truth={"cb": "bias > 0", "w.|c.": "linear 0 > 1"})
def continuous_position_bias():
    """Swin v2: a small network of constant offsets biases attention."""

    def apply(p, x):
        offsets = np.stack(np.meshgrid(np.arange(-2.0, 3), np.arange(-2.0, 3)), -1).reshape(-1, 2).astype(np.float32)
        bias = jax.nn.relu(offsets @ p["c0"] + p["cb"]) @ p["c1"]
        q, k, v = (x @ p[name] for name in ("wq", "wk", "wv"))
        q, k, v = (y.reshape(*y.shape[:2], 2, 3) for y in (q, k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias.reshape(5, 5, 2).transpose(2, 0, 1)
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(x.shape) @ p["wo"]

    params = shapes(c0=(2, 7), cb=7, c1=(7, 2), wq=(6, 6), wk=(6, 6), wv=(6, 6), wo=(6, 3))
    return apply, params, (array(2, 5, 6),)


@zoo_model(truth={"w.": "linear 1 > 2", "b.": "bias > 1", "router": "linear 0 > 1"})
def experts_looked_up_with_biases():
    def apply(p, x):
        chosen = (x @ p["router"]).argmax(-1)
        h = jax.nn.relu(jnp.einsum("td,tdf->tf", x, p["w1"][chosen]) + p["b1"][chosen])
        gate = jnp.take_along_axis(jax.nn.softmax(x @ p["router"]), chosen[:, None], axis=1)
        return (jnp.einsum("tf,tfd->td", h, p["w2"][chosen]) + p["b2"][chosen]) * gate

    return apply, shapes(w1=(4, 6, 9), b1=(4, 9), w2=(4, 9, 6), b2=(4, 6), router=(6, 4)), (array(8, 6),)


@zoo_model(truth={"tables": "embedding 1 > 2", "w": "linear 0 > 1"})
def codebooks():
    def apply(p, codes):
        x = jax.vmap(lambda table, ids: table[ids], in_axes=(0, -1), out_axes=0)(p["tables"], codes)
        return jnp.tanh(x.sum(0)) @ p["w"]

    return apply, shapes(tables=(3, 11, 6), w=(6, 2)), (tokens(2, 5, 3),)


@zoo_model(truth={"w.*": "linear 0 > 1", "mu.|u|decay": "gain > 0", "g": "gain > 0"})
def rwkv():
    def apply(p, x):
        y = rms(x) * p["g"]
        last = jnp.pad(y, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        mix = lambda mu: y * mu + last * (1 - mu)  # noqa: E731
        r, k, v = mix(p["mur"]) @ p["wr"], mix(p["muk"]) @ p["wk"], mix(p["muv"]) @ p["wv"]

        def step(state, inputs):
            k, v = inputs
            out = state + jnp.exp(p["u"]) * jnp.exp(k) * v
            return jnp.exp(-jnp.exp(p["decay"])) * state + jnp.exp(k) * v, out

        _, out = lax.scan(step, jnp.zeros((x.shape[0], 6)), (k.swapaxes(0, 1), v.swapaxes(0, 1)))
        return (jax.nn.sigmoid(r) * out.swapaxes(0, 1)) @ p["wo"]

    params = shapes(g=6, mur=6, muk=6, muv=6, wr=(6, 6), wk=(6, 6), wv=(6, 6), wo=(6, 6), u=6, decay=6)
    return apply, params, (array(2, 5, 6),)


@zoo_model(truth={"w.": "linear 0 > 1", "e|k|q|v": "linear 0 > 1", "a": "linear 0 >", "emb.": "embedding 0 > 1"})
def seq2seq_additive_attention():
    def apply(p, source, target):
        memory = jnp.tanh(p["embs"][source] @ p["e"])

        def step(h, x):
            score = jnp.tanh((h @ p["q"])[:, None] + memory @ p["k"]) @ p["a"]
            context = jnp.einsum("bt,btd->bd", jax.nn.softmax(score), memory)
            h = jnp.tanh(jnp.concatenate([x, context, h], -1) @ p["wh"])
            return h, h @ p["wo"]

        return lax.scan(step, memory.mean(1), p["embt"][target].swapaxes(0, 1))[1]

    params = shapes(embs=(11, 4), embt=(13, 4), e=(4, 6), q=(6, 5), k=(6, 5), a=5, wh=(16, 6), wo=(6, 13))
    return apply, params, (tokens(2, 7), tokens(2, 5))


@zoo_model(truth={"w.": "linear 0 > 1", "[uv]": "bias > 0 1", "q|k": "linear 0 > 1 2", "r": "linear 0 > 1 2"})
def transformer_xl():
    def apply(p, x):
        q, k = (jnp.einsum("btd,dnh->btnh", x, p[name]) for name in "qk")
        angles = jnp.arange(5)[:, None] * jnp.array([1.0, 0.1, 0.01])
        r = jnp.einsum("td,dnh->tnh", jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1), p["r"])
        scores = jnp.einsum("bqnh,bknh->bnqk", q + p["u"], k) + jnp.einsum("bqnh,knh->bnqk", q + p["v"], r)
        return jnp.einsum("bnqk,bkd->bqnd", jax.nn.softmax(scores), x).reshape(2, 5, 12) @ p["wo"]

    return apply, shapes(q=(6, 2, 3), k=(6, 2, 3), r=(6, 2, 3), u=(2, 3), v=(2, 3), wo=(12, 3)), (array(2, 5, 6),)


@zoo_model(truth={"w.": "linear 0 > 1", "eps": "gain >"})
def graph_isomorphism():
    def apply(p, x, adjacency):
        h = x @ p["w0"]
        h = jax.nn.relu(((1 + p["eps"]) * h + adjacency @ h) @ p["w1"])
        return h.sum(0) @ p["w2"]

    return apply, shapes(w0=(4, 6), eps=(), w1=(6, 6), w2=(6, 2)), (array(7, 4), array(7, 7))


@zoo_model(truth={"lr|li": "gain > 0", "b.": "linear 1 > 0", "c.": "linear 1 > 0", "d": "gain > 0", "step": "gain > 0"})
def diagonal_state_space():
    """S5: a complex diagonal recurrence, with matrices in real and imaginary parts."""

    def apply(p, u):
        decay = lax.complex(p["lr"], p["li"])
        discrete = jnp.exp(decay * jnp.exp(p["step"]))
        drive = (u + 0j) @ lax.complex(p["br"], p["bi"]).T
        elements = (jnp.broadcast_to(discrete, drive.shape), drive)
        combine = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])  # noqa: E731
        _, states = lax.associative_scan(combine, elements)
        return (states @ lax.complex(p["cr"], p["ci"]).T).real + p["d"] * u

    params = shapes(lr=5, li=5, br=(5, 4), bi=(5, 4), cr=(4, 5), ci=(4, 5), d=4, step=5)
    return apply, params, (array(8, 4),)


@zoo_model(truth={"w.*": "linear 0 > 1", "log_std": "gain > 0", "b": "bias > 0"})
def policy_loss():
    def apply(p, obs, action):
        h = jnp.tanh(obs @ p["w0"] + p["b"])
        mean, value = h @ p["w_pi"], (h @ p["w_v"])[..., 0]
        z = (action - mean) / jnp.exp(p["log_std"])
        return (0.5 * z**2 + p["log_std"]).sum(-1).mean() + (value**2).mean()

    return apply, shapes(w0=(5, 6), b=6, w_pi=(6, 2), w_v=(6, 1), log_std=2), (array(7, 5), array(7, 2))


@zoo_model(truth={"wte": "embedding 0 > 1", "w.*": "linear 0 > 1", "g.": "gain > 0"})
def llama():
    def apply(p, idx):
        x = p["wte"][idx]
        h = rms(x) * (1 + p["g0"])
        q, k, v = h @ p["wq"], h @ p["wk"], h @ p["wv"]
        q = rotary(q.reshape(*q.shape[:2], 4, 4))
        k, v = rotary(k.reshape(*k.shape[:2], 2, 4)), v.reshape(*v.shape[:2], 2, 4)
        x = x + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(*idx.shape, 16) @ p["wo"]
        h = rms(x) * (1 + p["g1"])
        x = x + (jax.nn.silu(h @ p["w1"]) * (h @ p["w2"])) @ p["w3"]
        return 30 * jnp.tanh(rms(x) * (1 + p["g2"]) @ p["w_out"] / 30)

    params = shapes(wte=(11, 6), g0=6, g1=6, g2=6, wq=(6, 16), wk=(6, 8), wv=(6, 8), wo=(16, 6))
    return apply, params | shapes(w1=(6, 9), w2=(6, 9), w3=(9, 6), w_out=(6, 11)), (tokens(2, 5),)


def rotary(x):
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * 10.0 ** -jnp.arange(half)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return jnp.concatenate([x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin], -1)


@zoo_model(truth={"w.": "linear 0 > 1", "mask_token": "bias > 0", "prompt": "positional 0 > 1"})
def masked_with_prompts():
    def apply(p, x, mask):
        h = jnp.where(mask[..., None], p["mask_token"], x @ p["w0"])
        prompt = jnp.broadcast_to(p["prompt"], (h.shape[0], 3, 6))
        h = jnp.concatenate([prompt, h], axis=1)
        scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", h @ p["wq"], h @ p["wk"]))
        return scores @ h @ p["w1"]

    params = shapes(w0=(4, 6), mask_token=6, prompt=(3, 6), wq=(6, 6), wk=(6, 6), w1=(6, 2))
    return apply, params, (array(2, 7, 4), array(2, 7, dtype=jnp.bool_))


@zoo_model(truth={"a|b": "linear 0 > 1", "bias": "bias > 0", "w": "linear 0 > 1"})
def low_rank_factors():
    def apply(p, x):
        return jax.nn.relu(x @ (p["a"] @ p["b"]) + p["bias"]) @ p["w"]

    return apply, shapes(a=(5, 2), b=(2, 6), bias=6, w=(6, 3)), (array(7, 5),)


@zoo_model(truth={"table": "embedding 0 > 1 2", "w": "linear 0 1 > 2"})
def embedding_with_heads():
    def apply(p, idx):
        return jnp.einsum("btnh,nhd->btd", jnp.tanh(p["table"][idx]), p["w"])

    return apply, shapes(table=(11, 2, 3), w=(2, 3, 4)), (tokens(2, 5),)


@zoo_model(truth={"w.": "linear 1 > 2", "b": "bias > 1", "head": "linear 0 > 1"})
def block_diagonal():
    def apply(p, x):
        h = x.reshape(-1, 3, 2)
        h = jax.nn.relu(jnp.einsum("bnd,ndh->bnh", h, p["w0"]) + p["b"])
        return jnp.einsum("bnd,ndh->bnh", h, p["w1"]).reshape(-1, 12) @ p["head"]

    return apply, shapes(w0=(3, 2, 5), b=(3, 5), w1=(3, 5, 4), head=(12, 2)), (array(7, 6),)


@zoo_model(truth={"memory": "unknown", "w.": "linear 0 > 1"})
def symmetric_parameter():
    def apply(p, x):
        return (x @ p["w0"] @ (p["memory"] + p["memory"].T)) @ p["w1"]

    return apply, shapes(w0=(4, 6), memory=(6, 6), w1=(6, 2)), (array(5, 4),)


@zoo_model(truth={"w": "unknown", "v": "linear 0 > 1"})
def matrix_as_shift():
    """The same array contracted in one place and added in another."""
    return lambda p, x: (x @ p["w"] + p["w"].sum(0) + p["w"]) @ p["v"], shapes(w=(6, 6), v=(6, 2)), (array(6, 6),)


@zoo_model(truth={"t": "unknown", "w.": "linear 0 > 1"})
def learned_threshold():
    return lambda p, x: jnp.maximum(x @ p["w0"], p["t"]) @ p["w1"], shapes(w0=(4, 6), t=6, w1=(6, 2)), (array(5, 4),)


@zoo_model(truth={"k.": "conv 1 > 2 @ 0", "w": "linear 0 > 1", "b.": "bias > 0", "d": "depthwise 1 > 2 @ 0 / 6"})
def wavenet():
    def conv(x, k, dilation=1, groups=1):
        pad = [((k.shape[0] - 1) * dilation, 0)]
        numbers = ("NWC", "WIO", "NWC")
        return lax.conv_general_dilated(
            x, k, (1,), pad, rhs_dilation=(dilation,), dimension_numbers=numbers, feature_group_count=groups
        )

    def apply(p, x):
        h = conv(x, p["k0"])
        for i in (1, 2):
            gated = conv(h, p[f"k{i}"], 2**i) + p[f"b{i}"]
            a, b = jnp.split(gated, 2, -1)
            h = h + jnp.tanh(a) * jax.nn.sigmoid(b)
        return conv(h, p["d"], groups=6) @ p["w"]

    params = shapes(k0=(2, 3, 6), k1=(2, 6, 12), k2=(2, 6, 12), b1=12, b2=12, d=(3, 1, 6), w=(6, 2))
    return apply, params, (array(2, 9, 3),)


@zoo_model(truth={"w.": "linear 0 > 1"})
def in_another_basis():
    """Weights written in the basis of a cosine transform, on either side."""

    def apply(p, x):
        basis = lambda n: np.cos(np.pi / n * np.outer(np.arange(n), np.arange(n) + 0.5)).astype(np.float32)  # noqa: E731
        h = jax.nn.relu(x @ (basis(4) @ p["w0"]))
        return jax.nn.relu(h @ (p["w1"] @ basis(5))) @ p["w2"]

    return apply, shapes(w0=(4, 6), w1=(6, 5), w2=(5, 2)), (array(7, 4),)
