"""Conventions of large training codes in plain JAX: their reviewed dimension numbers are the truth here.

MaxText scans layers along the second axis, `[embed, layers, heads, head_dim]`, and reviews for Muon which axes are
reduced and which are kept: (0,) to (-2, -1) of query, key, value and of the second factors of latent attention, (0, -2)
to (-1,) of attention's output, (-2,) to (-1,) of experts, (0,) to (-1,) of all others. Levanter keeps outputs first and
layers along the first axis.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import rms, shapes

LAYERS, EMBED, HEADS, WIDTH, VOCAB = 3, 12, 4, 6, 17
MAXTEXT = {
    "embedding": "embedding 0 > 1",
    "logits_dense": "linear 0 > 1",
    r"decoder_norm/scale": "gain > 0",
    r".*scale": "gain > 0",
    r".*(query|key|value)/kernel": "linear 0 > 2 3",
    r".*(wq_b|wkv_b)/kernel": "linear 0 > 2 3",
    r".*attention/out/kernel": "linear 0 2 > 3",
    r".*kernel": "linear 0 > 2",
}


def scanned(block, p, x):
    """Layers along the second axis of every parameter of `p["layers"]`."""
    first = jax.tree.map(lambda w: jnp.moveaxis(w, 1, 0), p["layers"])
    return lax.scan(lambda x, w: (block(w, x).astype(x.dtype), None), x, first)[0]


def decoder(block):
    def apply(p, ids):
        x = scanned(block, p, p["embedding"][ids])
        return (rms(x) * p["decoder_norm"]["scale"]) @ p["logits_dense"]

    return apply


def attend(q, k, v):
    scores = jnp.einsum("bqkgh,bskh->bkgqs", q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1]), k)
    mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    out = jnp.einsum("bkgqs,bskh->bqkgh", jax.nn.softmax(jnp.where(mask, scores, -1e9)), v)
    return out.reshape(*q.shape[:3], v.shape[-1])


def rotated(x):
    angles = jnp.arange(x.shape[1])[:, None] * 10.0 ** -jnp.arange(x.shape[-1] // 2)
    a, b = jnp.split(x, 2, -1)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def gated_mlp(p, x):
    return (jax.nn.silu(x @ p["wi_0"]["kernel"]) * (x @ p["wi_1"]["kernel"])) @ p["wo"]["kernel"]


def kernel(*shape):
    return {"kernel": array(*shape)}


def scale(*shape):
    return {"scale": array(*shape)}


def model_of(layers):
    top = shapes(embedding=(VOCAB, EMBED), logits_dense=(EMBED, VOCAB))
    return {**top, "decoder_norm": scale(EMBED), "layers": layers}


MLP = {"wi_0": kernel(EMBED, LAYERS, 20), "wi_1": kernel(EMBED, LAYERS, 20), "wo": kernel(20, LAYERS, EMBED)}


@zoo_model(truth=MAXTEXT)
def maxtext_llama():
    def block(w, x):
        h, a = rms(x) * w["pre_norm"]["scale"], w["attention"]
        q, k, v = (jnp.einsum("btd,dnh->btnh", h, a[name]["kernel"]) for name in ("query", "key", "value"))
        x = x + jnp.einsum("btnh,nhd->btd", attend(rotated(q), rotated(k), v), a["out"]["kernel"])
        return x + gated_mlp(w["mlp"], rms(x) * w["post_norm"]["scale"])

    attention = {
        "query": kernel(EMBED, LAYERS, HEADS, WIDTH),
        "key": kernel(EMBED, LAYERS, 2, WIDTH),
        "value": kernel(EMBED, LAYERS, 2, WIDTH),
        "out": kernel(HEADS, LAYERS, WIDTH, EMBED),
    }
    norms = {"pre_norm": scale(EMBED, LAYERS), "post_norm": scale(EMBED, LAYERS)}
    return decoder(block), model_of({**norms, "attention": attention, "mlp": MLP}), (tokens(2, 7),)


NOPE, ROPE, LATENT, VALUE = 5, 4, 8, 7


@zoo_model(truth=MAXTEXT)
def maxtext_deepseek_latent_attention():
    """Queries and keys of low rank; a rotated part of the key is shared by all heads."""

    def block(w, x):
        h, a = rms(x) * w["pre_norm"]["scale"], w["attention"]
        low = rms(h @ a["wq_a"]["kernel"]) * a["q_norm"]["scale"]
        q = jnp.einsum("btl,lnh->btnh", low, a["wq_b"]["kernel"])
        low, shared = jnp.split(h @ a["wkv_a"]["kernel"], [LATENT], -1)
        low = rms(low) * a["kv_norm"]["scale"]
        k, v = jnp.split(jnp.einsum("btl,lnh->btnh", low, a["wkv_b"]["kernel"]), [NOPE], -1)
        q = jnp.concatenate([q[..., :NOPE], rotated(q[..., NOPE:])], -1)
        shared = jnp.broadcast_to(rotated(shared[:, :, None]), (*k.shape[:3], ROPE))
        out = attend(q, jnp.concatenate([k, shared], -1), v)
        x = x + jnp.einsum("btnh,nhd->btd", out, a["out"]["kernel"])
        return x + gated_mlp(w["mlp"], rms(x) * w["post_norm"]["scale"])

    attention = {
        "wq_a": kernel(EMBED, LAYERS, 10),
        "q_norm": scale(10, LAYERS),
        "wq_b": kernel(10, LAYERS, HEADS, NOPE + ROPE),
        "wkv_a": kernel(EMBED, LAYERS, LATENT + ROPE),
        "kv_norm": scale(LATENT, LAYERS),
        "wkv_b": kernel(LATENT, LAYERS, HEADS, NOPE + VALUE),
        "out": kernel(HEADS, LAYERS, VALUE, EMBED),
    }
    norms = {"pre_norm": scale(EMBED, LAYERS), "post_norm": scale(EMBED, LAYERS)}
    return decoder(block), model_of({**norms, "attention": attention, "mlp": MLP}), (tokens(2, 9),)


EXPERTS = 5
SPARSE = {
    r".*moe/(wi_0|wi_1|wo)": "linear 2 > 3",  # it moves what is chosen, and so gets no gradient
    r".*gate/bias": "bias > 0",
    **MAXTEXT,
}


def mixture(w, x, combine):
    """DeepSeek's routing: a bias moves which experts are chosen, and not how much they count."""
    scores = jax.nn.sigmoid(x @ w["gate"]["kernel"])
    _, chosen = lax.top_k(lax.stop_gradient(scores + w["gate"]["bias"]), 2)
    weights = jnp.take_along_axis(scores, chosen, -1)
    return combine(w, x, weights / weights.sum(-1, keepdims=True), chosen)


def in_dense_products(w, x, weights, chosen):
    """Every token through all experts, weighted."""
    gates = (jax.nn.one_hot(chosen, EXPERTS) * weights[..., None]).sum(-2)
    h = jax.nn.silu(jnp.einsum("btd,edf->btef", x, w["wi_0"])) * jnp.einsum("btd,edf->btef", x, w["wi_1"])
    return jnp.einsum("btef,efd,bte->btd", h, w["wo"], gates)


def in_capacities(w, x, weights, chosen):
    """Tokens dispatched to places of their experts, and combined from there."""
    places = jax.nn.one_hot(chosen, EXPERTS)
    order = jnp.cumsum(places.reshape(x.shape[0], -1, EXPERTS), 1).reshape(places.shape) * places
    order = order.astype(jnp.int32)
    mask = (places[..., None] * jax.nn.one_hot(order, 4)).sum(2)
    combined = ((places * weights[..., None])[..., None] * jax.nn.one_hot(order, 4)).sum(2)
    x = jnp.einsum("btd,btec->becd", x, mask)
    h = jax.nn.silu(jnp.einsum("becd,edf->becf", x, w["wi_0"])) * jnp.einsum("becd,edf->becf", x, w["wi_1"])
    return jnp.einsum("becd,btec->btd", jnp.einsum("becf,efd->becd", h, w["wo"]), combined)


def in_groups(w, x, weights, chosen):
    """Tokens sorted by expert, and products of groups."""
    rows = jnp.repeat(x.reshape(-1, EMBED), 2, 0)
    order = jnp.argsort(chosen.reshape(-1))
    sizes = jnp.bincount(chosen.reshape(-1), length=EXPERTS)
    rows = rows[order]
    h = jax.nn.silu(lax.ragged_dot(rows, w["wi_0"], sizes)) * lax.ragged_dot(rows, w["wi_1"], sizes)
    out = lax.ragged_dot(h, w["wo"], sizes)[jnp.argsort(order)].reshape(*x.shape[:2], 2, EMBED)
    return (out * weights[..., None]).sum(-2)


def experts(combine):
    def block(w, x):
        h = rms(x) * w["norm"]["scale"]
        return x + mixture(w["moe"], h, combine) + gated_mlp(w["shared"], h)

    moe = {
        "gate": {"kernel": array(EMBED, LAYERS, EXPERTS), "bias": array(EXPERTS, LAYERS)},
        **shapes(wi_0=(EXPERTS, LAYERS, EMBED, 14), wi_1=(EXPERTS, LAYERS, EMBED, 14), wo=(EXPERTS, LAYERS, 14, EMBED)),
    }
    layers = {"norm": scale(EMBED, LAYERS), "moe": moe, "shared": MLP}
    return decoder(block), model_of(layers), (tokens(2, 8),)


@zoo_model(truth=SPARSE)
def maxtext_deepseek_experts_dense():
    return experts(in_dense_products)


@zoo_model(truth=SPARSE)
def maxtext_deepseek_experts_dispatched():
    return experts(in_capacities)


@zoo_model(truth=SPARSE)
def maxtext_deepseek_experts_ragged():
    return experts(in_groups)


KEYS, VALUES, K, V = 2, 4, 5, 3  # heads of keys and of values, and their widths


@zoo_model(
    truth={
        r".*conv1d": "depthwise 2 > 3 @ 0 / 32",
        r".*dt_bias": "bias > 0",
        # the rate of each head, multiplied with its step
        r".*A_log": "gain > 0",
        **MAXTEXT,
    }
)
def maxtext_gated_delta_net():
    """Qwen3-Next: a state that forgets, and is corrected by what it predicts wrongly, token after token."""
    mixed = 2 * KEYS * K + VALUES * V

    def block(w, x):
        d = w["delta"]
        h = rms(x) * w["norm"]["scale"]
        qkv, z = jnp.split(h @ d["in_proj_qkvz"]["kernel"], [mixed], -1)
        beta, a = jnp.split(h @ d["in_proj_ba"]["kernel"], 2, -1)
        qkv = jnp.pad(qkv, ((0, 0), (3, 0), (0, 0)))
        qkv = lax.conv_general_dilated(
            qkv, d["conv1d"], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=mixed
        )
        q, k, v = jnp.split(jax.nn.silu(qkv), [KEYS * K, 2 * KEYS * K], -1)
        q, k = (jnp.repeat(u.reshape(*u.shape[:2], KEYS, K), VALUES // KEYS, 2) for u in (q, k))
        v = v.reshape(*v.shape[:2], VALUES, V)
        forget = jnp.exp(-jnp.exp(d["A_log"]) * jax.nn.softplus(a + d["dt_bias"]))
        beta = jax.nn.sigmoid(beta)

        def step(state, inputs):
            q, k, v, f, b = inputs
            state = state * f[..., None, None]
            error = (v - jnp.einsum("bnkv,bnk->bnv", state, k)) * b[..., None]
            state = state + jnp.einsum("bnk,bnv->bnkv", k, error)
            return state, jnp.einsum("bnkv,bnk->bnv", state, q)

        start = jnp.zeros((x.shape[0], VALUES, K, V))
        over_time = jax.tree.map(lambda u: jnp.moveaxis(u, 1, 0), (q, k, v, forget, beta))
        out = jnp.moveaxis(lax.scan(step, start, over_time)[1], 0, 1)
        out = rms(out) * d["norm"]["scale"] * jax.nn.silu(z.reshape(out.shape))
        x = x + out.reshape(*x.shape[:2], -1) @ d["out_proj"]["kernel"]
        return x + gated_mlp(w["mlp"], rms(x) * w["post_norm"]["scale"])

    delta = {
        "in_proj_qkvz": kernel(EMBED, LAYERS, mixed + VALUES * V),
        "in_proj_ba": kernel(EMBED, LAYERS, 2 * VALUES),
        "conv1d": array(4, LAYERS, 1, mixed),
        "A_log": array(VALUES, LAYERS),
        "dt_bias": array(VALUES, LAYERS),
        "norm": scale(V, LAYERS),
        "out_proj": kernel(VALUES * V, LAYERS, EMBED),
    }
    layers = {"norm": scale(EMBED, LAYERS), "post_norm": scale(EMBED, LAYERS), "delta": delta, "mlp": MLP}
    return decoder(block), model_of(layers), (tokens(2, 7),)


LEVANTER = {
    "embeddings": "tied 0 > 1",
    r"ln_f": "gain > 0",
    r".*(ln|norm)\w*": "gain > 1",
    r".*attn/c_attn/weight": "linear 4 > 1 2 3",
    r".*attn/c_attn/bias": "bias > 1 2 3",
    r".*c_proj/weight": "linear 2 3 > 1",
    r".*c_proj/bias": "bias > 1",
    r".*(q_proj)/weight": "linear 4 > 1 2 3",
    r".*(k_proj|v_proj)/weight": "linear 3 > 1 2",
    r".*o_proj/weight": "linear 2 3 > 1",
    r".*experts/\w*": "linear 3 > 2",
    r".*weight": "linear 2 > 1",
    r".*bias": "bias > 1",
}


def stacked(block, p, ids):
    x, _ = lax.scan(lambda x, w: (block(w, x).astype(x.dtype), None), p["embeddings"][ids], p["layers"])
    return jnp.einsum("btd,vd->btv", rms(x) * p["ln_f"], p["embeddings"])


def levanter(block, layers):
    params = {**shapes(embeddings=(VOCAB, EMBED), ln_f=EMBED), "layers": layers}
    return lambda p, ids: stacked(block, p, ids), params, (tokens(2, 7),)


def weight(*shape, bias=()):
    return {"weight": array(LAYERS, *shape), **({"bias": array(LAYERS, *bias)} if bias else {})}


@zoo_model(truth=LEVANTER)
def levanter_gpt2():
    """One kernel for queries, keys and values: `[3, heads, head_size, embed]`."""

    def block(w, x):
        a = w["attn"]
        qkv = jnp.einsum("btd,snhd->sbtnh", rms(x) * w["ln_1"], a["c_attn"]["weight"])
        q, k, v = qkv + a["c_attn"]["bias"][:, None, None]
        out = attend(q, k, v)
        x = x + jnp.einsum("btnh,dnh->btd", out, a["c_proj"]["weight"]) + a["c_proj"]["bias"]
        h = jnp.einsum("btd,fd->btf", rms(x) * w["ln_2"], w["mlp"]["c_fc"]["weight"]) + w["mlp"]["c_fc"]["bias"]
        return x + jax.nn.gelu(h) @ w["mlp"]["c_out"]["weight"].T + w["mlp"]["c_out"]["bias"]

    attn = {
        "c_attn": weight(3, HEADS, WIDTH, EMBED, bias=(3, HEADS, WIDTH)),
        "c_proj": weight(EMBED, HEADS, WIDTH, bias=(EMBED,)),
    }
    mlp = {"c_fc": weight(30, EMBED, bias=(30,)), "c_out": weight(EMBED, 30, bias=(EMBED,))}
    norms = shapes(ln_1=(LAYERS, EMBED), ln_2=(LAYERS, EMBED))
    return levanter(block, {**norms, "attn": attn, "mlp": mlp})


@zoo_model(truth=LEVANTER)
def levanter_mixtral():
    """Grouped queries `[kv_heads, q_heads_per_group, head_size, embed]`, and experts in products of groups."""

    def block(w, x):
        a, m = w["attn"], w["moe"]
        h = rms(x) * w["norm_1"]
        q = jnp.einsum("btd,kghd->btkgh", h, a["q_proj"]["weight"])
        k, v = (jnp.einsum("btd,khd->btkh", h, a[name]["weight"]) for name in ("k_proj", "v_proj"))
        out = attend(q.reshape(*q.shape[:2], -1, WIDTH), k, v)
        x = x + jnp.einsum("btnh,dnh->btd", out, a["o_proj"]["weight"])
        h = (rms(x) * w["norm_2"]).reshape(-1, EMBED)
        gates, chosen = lax.top_k(jax.nn.softmax(h @ m["gate"]["weight"].T), 2)
        order = jnp.argsort(chosen.reshape(-1))
        sizes, rows = jnp.bincount(chosen.reshape(-1), length=EXPERTS), h[order // 2]
        w1, w2, w3 = (jnp.swapaxes(m["experts"][name], 1, 2) for name in ("w1", "w2", "w3"))
        up = jax.nn.silu(lax.ragged_dot(rows, w1, sizes)) * lax.ragged_dot(rows, w3, sizes)
        out = lax.ragged_dot(up, w2, sizes)[jnp.argsort(order)].reshape(-1, 2, EMBED)
        return x + jnp.einsum("tkd,tk->td", out, gates).reshape(x.shape)

    attn = {
        "q_proj": weight(2, 2, WIDTH, EMBED),
        "k_proj": weight(2, WIDTH, EMBED),
        "v_proj": weight(2, WIDTH, EMBED),
        "o_proj": weight(EMBED, HEADS, WIDTH),
    }
    experts = shapes(w1=(LAYERS, EXPERTS, 14, EMBED), w2=(LAYERS, EXPERTS, EMBED, 14), w3=(LAYERS, EXPERTS, 14, EMBED))
    norms = shapes(norm_1=(LAYERS, EMBED), norm_2=(LAYERS, EMBED))
    return levanter(block, {**norms, "attn": attn, "moe": {"gate": weight(EXPERTS, EMBED), "experts": experts}})
