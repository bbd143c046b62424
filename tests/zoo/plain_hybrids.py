"""Plain JAX: language models of the last two years, with states in place of attention, sinks."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import conv1d, rms, shapes
from tests.zoo.plain_published import LINEAR

X = array(2, 8, 10)
GAINS = {r"g\w?": "gain > 0"}


def unit(x):
    return x * lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def heads(x, n):
    return x.reshape(*x.shape[:-1], n, -1)


@zoo_model(
    truth={"conv": "depthwise > 1 @ 0 / 14", "convb|dt": "bias > 0", "A|D": "gain > 0"} | GAINS | LINEAR,
)
def mamba_2():
    """States in chunks: within each a masked product, between them a scan."""

    def apply(p, x):
        b, t = x.shape[:2]
        z, xbc, dt = jnp.split(rms(x) * p["gi"] @ p["in"], [6, 20], -1)
        padded = jnp.pad(xbc, ((0, 0), (3, 0), (0, 0)))
        xbc = jax.nn.silu(sum(padded[:, i : i + t] * p["conv"][i] for i in range(4)) + p["convb"])
        u, B, C = jnp.split(xbc, [6, 10], -1)
        dt = jax.nn.softplus(dt + p["dt"])
        u = heads(u, 3)
        a = (-jnp.exp(p["A"]) * dt).reshape(b, 2, 4, 3)
        v, B, C = (y.reshape(b, 2, 4, *y.shape[2:]) for y in (u * dt[..., None], B, C))
        s = jnp.cumsum(a, 2)
        decay = jnp.exp(jnp.where(jnp.tril(jnp.ones((4, 4), bool))[..., None], s[:, :, :, None] - s[:, :, None], -1e9))
        y = jnp.einsum("bcln,bcsn,bclsh,bcshp->bclhp", C, B, decay, v)
        states = jnp.einsum("bcsn,bcsh,bcshp->bchpn", B, jnp.exp(s[:, :, -1:] - s), v)

        def step(state, chunk):
            new, last = chunk
            return state * jnp.exp(last)[..., None, None] + new, state

        before = lax.scan(step, jnp.zeros_like(states[:, 0]), (states.swapaxes(0, 1), s[:, :, -1].swapaxes(0, 1)))[1]
        y = y + jnp.einsum("bcln,bchpn,bclh->bclhp", C, before.swapaxes(0, 1), jnp.exp(s))
        y = (y.reshape(b, t, 3, 2) + u * p["D"][:, None]).reshape(b, t, -1)
        return x + rms(y * jax.nn.silu(z)) * p["g"] @ p["out"]

    params = shapes(**{"in": (10, 23)}, conv=(4, 14), convb=14, dt=3, A=3, D=3, gi=10, g=6, out=(6, 10))
    return apply, params, (X,)


@zoo_model(truth={r"c[qkv]": "depthwise 1 > 2 @ 0 / 8", "A": "gain > 0", "dt": "bias > 0", "g": "gain > 0"} | LINEAR)
def gated_delta_net():
    def apply(p, x):
        def short(y, name):
            return jax.nn.silu(conv1d(jnp.pad(y, ((0, 0), (3, 0), (0, 0))), p[name], groups=8, padding="VALID"))

        q, k, v = (heads(short(x @ p[n], "c" + n), 2) for n in "qkv")
        q, k = unit(q) * 0.5, unit(k)
        beta = jax.nn.sigmoid(x @ p["beta"])
        decay = -jnp.exp(p["A"]) * jax.nn.softplus(x @ p["a"] + p["dt"])

        def step(s, token):
            q, k, v, beta, decay = token
            s = s * jnp.exp(decay)[..., None, None]
            error = (v - jnp.einsum("bhkv,bhk->bhv", s, k)) * beta[..., None]
            s = s + jnp.einsum("bhk,bhv->bhkv", k, error)
            return s, jnp.einsum("bhkv,bhk->bhv", s, q)

        streams = [y.swapaxes(0, 1) for y in (q, k, v, beta, decay)]
        y = lax.scan(step, jnp.zeros((2, 2, 4, 4)), streams)[1].swapaxes(0, 1)
        y = rms(y) * p["g"] * jax.nn.silu(heads(x @ p["z"], 2))
        return y.reshape(*x.shape[:2], 8) @ p["o"]

    params = shapes(**dict.fromkeys("qkvz", (10, 8)), cq=(4, 1, 8), ck=(4, 1, 8), cv=(4, 1, 8))
    return apply, params | shapes(beta=(10, 2), a=(10, 2), A=2, dt=2, g=4, o=(8, 10)), (X,)


@zoo_model(
    truth={
        r"full/[qkv]": "linear 0 > 1 2",
        "full/o": "linear 0 1 > 2",
        r".*/g\w": "gain > 0",
        "lin/f": "linear 1 > 2",
        "lin/fb": "bias > 1",
        r"lin/[\w]*": "linear 1 > 2",
        r"[\w/]*": "linear 0 > 1",
    }
)
def three_layers_of_states_and_one_of_attention():
    """Stacks of linear attention with a decay for each channel, and one gated attention with normalised queries."""

    def linear(x, p):
        q, k, v = (heads(jnp.tanh(rms(x) @ p[n]), 2) for n in "qkv")
        f = heads(jax.nn.log_sigmoid(x @ p["f"] @ p["f2"] + p["fb"]), 2)

        def step(s, token):
            q, k, v, f = token
            s = s * jnp.exp(f)[..., None] + k[..., None] * v[..., None, :]
            return s, (s * q[..., None]).sum(-2)

        s = jnp.zeros((x.shape[0], 2, 4, 4))
        y = lax.scan(step, s, tuple(y.swapaxes(0, 1) for y in (q, k, v, f)))[1].swapaxes(0, 1)
        return x + y.reshape(*x.shape[:2], 8) @ p["o"], None

    def full(x, p):
        q, k, v = (jnp.einsum("btd,dhc->bthc", x, p[n]) for n in "qkv")
        q, gate = jnp.split(q, 2, -1)
        q, k = rms(q) * p["gq"], rms(k) * p["gk"]
        q = q.reshape(*q.shape[:2], 2, 2, 4)
        w = jax.nn.softmax(jnp.einsum("bqnrc,bknc->bnrqk", q, k))
        y = jnp.einsum("bnrqk,bknc->bqnrc", w, v).reshape(*x.shape[:2], 4, 4) * jax.nn.sigmoid(gate)
        return x + jnp.einsum("bthc,hcd->btd", y, p["o"])

    def apply(p, x):
        return full(lax.scan(linear, x, p["lin"])[0], p["full"])

    lin = shapes(**dict.fromkeys("qkv", (3, 10, 8)), f=(3, 10, 3), f2=(3, 3, 8), fb=(3, 8), o=(3, 8, 10))
    attention = shapes(q=(10, 4, 8), k=(10, 2, 4), v=(10, 2, 4), gq=4, gk=4, o=(4, 4, 10))
    return apply, {"lin": lin, "full": attention}, (X,)


@zoo_model(
    truth={
        "sink": "bias > 0",
        r"[qkvo]b": "bias > 0",
        "rb": "bias > 0",
        "w1|w2": "linear 1 > 2",
        "b1|b2": "bias > 1",
        "g1|g2": "gain > 0",
    }
    | LINEAR
)
def gpt_oss():
    """Sinks in the softmax of each head, experts with biases, a clamped gate whose halves are interleaved."""

    def apply(p, x):
        b, t = x.shape[:2]
        h = rms(x) * p["g1"]
        q, k, v = (heads(h @ p[n] + p[n + "b"], m) for n, m in zip("qkv", (4, 2, 2), strict=True))
        s = jnp.einsum("bqnrc,bknc->bnrqk", q.reshape(b, t, 2, 2, 4), k)
        sink = jnp.broadcast_to(p["sink"].reshape(1, 2, 2, 1, 1), (b, 2, 2, t, 1))
        w = jax.nn.softmax(jnp.concatenate([s, sink], -1))[..., :-1]
        x = x + jnp.einsum("bnrqk,bknc->bqnrc", w, v).reshape(b, t, 16) @ p["o"] + p["ob"]
        h = rms(x) * p["g2"]
        best, where = lax.top_k(h @ p["r"] + p["rb"], 2)
        y = jnp.einsum("btd,btkdf->btkf", h, p["w1"][where]) + p["b1"][where]
        gate, up = jnp.minimum(y[..., ::2], 7.0), jnp.clip(y[..., 1::2], -7.0, 7.0)
        y = (up + 1) * gate * jax.nn.sigmoid(1.7 * gate)
        y = jnp.einsum("btkf,btkfd->btkd", y, p["w2"][where]) + p["b2"][where]
        return x + jnp.einsum("btkd,btk->btd", y, jax.nn.softmax(best))

    params = shapes(q=(10, 16), k=(10, 8), v=(10, 8), o=(16, 10), qb=16, kb=8, vb=8, ob=10, sink=4, g1=10, g2=10)
    return apply, params | shapes(r=(10, 5), rb=5, w1=(5, 10, 12), b1=(5, 12), w2=(5, 6, 10), b2=(5, 10)), (X,)


@zoo_model(truth={"up|down": "linear 1 > 2", "g": "gain > 0"} | LINEAR)
def llama_4():
    """Experts whose inputs are scaled, beside one that all tokens take; attention within chunks, at a temperature."""

    def apply(p, x):
        b, t = x.shape[:2]
        q, k, v = (heads(x @ p[n], 2).reshape(b, 2, 4, 2, 4) for n in "qkv")
        q = unit(q) * (jnp.log(jnp.floor(jnp.arange(t) / 4) + 1) + 1).reshape(2, 4, 1, 1)
        w = jax.nn.softmax(jnp.einsum("bcqhe,bckhe->bchqk", q, unit(k)))
        x = x + jnp.einsum("bchqk,bckhe->bcqhe", w, v).reshape(b, t, 8) @ p["o"]
        h = (rms(x) * p["g"]).reshape(-1, 10)
        logits = h @ p["router"]
        best, where = lax.top_k(logits, 1)
        scores = jax.nn.sigmoid(jnp.full_like(logits, -jnp.inf).at[jnp.arange(b * t)[:, None], where].set(best))
        routed = jnp.einsum("ne,nd->end", scores, h)
        gate, up = jnp.split(jnp.einsum("end,edf->enf", routed, p["up"]), 2, -1)
        y = jnp.einsum("enf,efd->end", jax.nn.silu(gate) * up, p["down"]).sum(0)
        shared = (jax.nn.silu(h @ p["sg"]) * (h @ p["su"])) @ p["sd"]
        return x + (y + shared).reshape(x.shape)

    params = shapes(**dict.fromkeys("qkv", (10, 8)), o=(8, 10), g=10, router=(10, 3), up=(3, 10, 12), down=(3, 6, 10))
    return apply, params | shapes(sg=(10, 6), su=(10, 6), sd=(6, 10)), (X,)


@zoo_model(truth={"gain": "gain > 0", "shift": "bias > 0"} | LINEAR)
def attention_to_indexed_tokens():
    """A light indexer with rectified scores chooses which tokens a query attends to; it learns from a divergence."""

    def apply(p, x):
        b, t = x.shape[:2]
        qi, ki = heads(x @ p["qi"], 3), x @ p["ki"]
        ki = (ki - ki.mean(-1, keepdims=True)) * lax.rsqrt(ki.var(-1, keepdims=True) + 1e-6) * p["gain"] + p["shift"]
        scores = jnp.einsum("bqhk,bqh->bqk", jax.nn.relu(jnp.einsum("bqhc,bkc->bqhk", qi, ki)), x @ p["wi"])
        kept = lax.top_k(scores, 4)[1]
        mask = jnp.where(jax.nn.one_hot(kept, t).sum(-2) > 0, 0.0, -1e9)
        q, k, v = (heads(x @ p[n], 2) for n in "qkv")
        w = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k) + mask[:, None])
        target = lax.stop_gradient(w.sum(1) / 2)
        divergence = -(target * jax.nn.log_softmax(scores + mask)).sum()
        return jnp.einsum("bhqk,bkhc->bqhc", w, v).reshape(b, t, 8) @ p["o"], divergence

    params = shapes(**dict.fromkeys("qkv", (10, 8)), o=(8, 10), qi=(10, 12), ki=(10, 4), wi=(10, 3), gain=4, shift=4)
    return apply, params, (X,)


@zoo_model(truth={"[qkv]": "linear 0 > 1 2", "o": "linear 0 1 > 2"})
def values_through_the_output_layer_first():
    """What each head adds is made of the values of single tokens, and weighed, and summed over heads, after that."""

    def apply(p, x):
        q, k, v = (jnp.einsum("btd,dhc->bthc", x, p[n]) for n in "qkv")
        w = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k))
        return jnp.einsum("bhqk,bkhd->bqd", w, jnp.einsum("bkhc,hcd->bkhd", v, p["o"]))

    return apply, shapes(**dict.fromkeys("qkv", (10, 3, 4)), o=(3, 4, 10)), (X,)


@zoo_model(truth={"predict": "unknown", "table|layers": "embedding 0 > 1", "scale|g": "gain > 0"} | LINEAR)
def alternating_updates():
    """Several streams, of which a layer computes one and predicts the others; rows of a table for each layer."""

    def apply(p, tokens):
        x = p["table"][tokens]
        own = p["layers"][tokens].reshape(*tokens.shape, 2, 4)
        streams = jnp.stack([x] + [x @ p[f"in{i}"] for i in (1, 2)])
        for layer in range(2):
            modes = jnp.tanh(rms(streams[0]) @ p["router"])
            mix = (modes @ p["predict"]).reshape(*modes.shape[:-1], 3, 3)
            predicted = streams + jnp.einsum("sbtd,btsr->rbtd", streams, mix)
            active = predicted[0]
            laurel = active + rms(active @ p["left"] @ p["right"]) * p["g"]
            y = (jax.nn.gelu(laurel @ p["up"]) @ p["down"] + laurel) * 0.7
            error = y - active
            weights = jnp.tanh(rms(y) @ p["router"]) @ p["correct"] + 1.0
            streams = predicted + jnp.moveaxis(weights, -1, 0)[..., None] * error
            gate = jax.nn.gelu((streams[0] * p["scale"]) @ p["gate"]) * own[..., layer, :]
            streams = streams.at[1:].add(gate @ p["project"])
        out = streams[0] + streams[1] @ p["out1"] + streams[2] @ p["out2"]
        return rms(out) @ p["head"]

    params = shapes(table=(13, 8), layers=(13, 8), router=(8, 3), predict=(3, 9), correct=(3, 3), scale=8, gate=(8, 4))
    params |= shapes(project=(4, 8), left=(8, 3), right=(3, 8), g=8, up=(8, 12), down=(12, 8), head=(8, 13))
    return apply, params | dict.fromkeys(("in1", "in2", "out1", "out2"), array(8, 8)), (tokens(2, 6),)
