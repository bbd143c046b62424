"""Plain JAX: what is trained beside frozen weights, and mixtures of experts, as their published code writes them."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import norm, rms, shapes
from tests.zoo.plain_published import LINEAR

X = array(2, 7, 8)


def heads(x, n):
    return x.reshape(*x.shape[:-1], n, -1)


def attend(q, k, v):
    w = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", heads(q, 2), heads(k, 2)))
    y = jnp.einsum("bhqk,bkhc->bqhc", w, heads(v, 2))
    return y.reshape(*q.shape[:2], -1)


@zoo_model(truth={"[qkv]/d|o/d": "gain > 0", "[qkv]/b|o/b": "gain > 0", ".*": "linear 0 > 1"})
def vectors_between_random_matrices():
    """VeRA: two random matrices are shared by all layers, between them and behind stand trained vectors."""

    def apply(p, x, a, b):
        def layer(x, p):
            return x @ p["w"] + ((x @ a) * p["d"]) @ b * p["b"]

        return layer(attend(*(layer(x, p[n]) for n in "qkv")), p["o"])

    return apply, {n: shapes(w=(8, 8), d=3, b=8) for n in "qkvo"}, (X, array(8, 3), array(3, 8))


@zoo_model(truth={"codes": "unused", "scales": "gain > 0 1", ".*g|scale": "gain > 0"} | LINEAR)
def adapters_beside_quantised_weights():
    """QLoRA: integers times a scale for each block are the frozen weight; adapters have a dropout before them."""

    def apply(p, x):
        w = (p["codes"].reshape(8, 2, 4) * lax.stop_gradient(p["scales"])[..., None]).reshape(8, 8)
        kept = jax.random.bernoulli(jax.random.key(0), 0.9, x.shape)
        h = jnp.where(kept, x / 0.9, 0.0)
        y = jax.nn.relu(x @ w + 2.0 * (h @ p["a"]) @ p["b"])
        return y @ p["head"]

    params = shapes(scales=(8, 2), a=(8, 3), b=(3, 8), head=(8, 4)) | {"codes": array(8, 8, dtype=jnp.int8)}
    return apply, params, (X,)


@zoo_model(truth={"[kv]p": "positional 1 > 2", "g.*": "gain > 0", ".*b": "bias > 0"} | LINEAR)
def prefixes_adapters_and_scales():
    """Learned keys and values before those of tokens, bottlenecks after, and a scale of keys, values and units."""

    def apply(p, x):
        q, k, v = (x @ p[n] for n in "qkv")
        k, v = k * p["gk"], v * p["gv"]
        k, v = (jnp.concatenate([jnp.repeat(p[n], len(x), 0), y], 1) for n, y in (("kp", k), ("vp", v)))
        y = attend(q, k, v) @ p["o"]
        y = y + jax.nn.gelu(y @ p["down"] + p["downb"]) @ p["up"] + p["upb"]
        h = norm(x + y, p["g0"], p["nb"])
        return h + (jax.nn.gelu(h @ p["w1"]) * p["gf"]) @ p["w2"]

    params = shapes(**dict.fromkeys("qkvo", (8, 8)), kp=(1, 3, 8), vp=(1, 3, 8), gk=8, gv=8, gf=12, g0=8, nb=8)
    return apply, params | shapes(down=(8, 3), downb=3, up=(3, 8), upb=8, w1=(8, 12), w2=(12, 8)), (X,)


@zoo_model(truth={"prompt": "positional 0 > 1", "keys": "linear 1 > 0", "table": "embedding 0 > 1"} | LINEAR)
def prompts_before_tokens():
    def apply(p, ids):
        x = p["table"][ids]
        x = jnp.concatenate([jnp.broadcast_to(p["prompt"], (len(ids), 4, 8)), x], 1)
        x = x + attend(*(rms(x) @ p[n] for n in "qkv")) @ p["o"]
        return rms(x[:, 4:]) @ p["head"]

    return apply, shapes(table=(11, 8), prompt=(4, 8), **dict.fromkeys("qkvo", (8, 8)), head=(8, 11)), (tokens(2, 5),)


@zoo_model(truth={"phi": "linear 0 > 1 2", "w1|w2": "linear 1 > 2", "b1|b2": "bias > 1", "scale": "gain > "})
def soft_mixture_of_experts():
    """Slots are means of tokens, experts take slots, tokens are means of what comes out."""

    def unit(x, axis):
        return x * lax.rsqrt((x * x).sum(axis, keepdims=True) + 1e-6)

    def apply(p, x):
        logits = jnp.einsum("bmd,dnp->bmnp", unit(x, -1), p["scale"] * unit(p["phi"], 0))
        dispatch = jax.nn.softmax(logits, 1)
        combine = jax.nn.softmax(logits.reshape(*x.shape[:2], -1), -1).reshape(logits.shape)
        slots = jnp.einsum("bmd,bmnp->bnpd", x, dispatch)
        h = jax.nn.gelu(jnp.einsum("bnpd,ndf->bnpf", slots, p["w1"]) + p["b1"][:, None])
        y = jnp.einsum("bnpf,nfd->bnpd", h, p["w2"]) + p["b2"][:, None]
        return jnp.einsum("bnpd,bmnp->bmd", y, combine)

    return apply, shapes(phi=(8, 3, 2), scale=(), w1=(3, 8, 6), b1=(3, 6), w2=(3, 6, 8), b2=(3, 8)), (X,)


@zoo_model(truth={"bias": "bias > 0", "w1|w3|w2": "linear 1 > 2", "table": "tied 0 > 1", "g.*": "gain > 0"} | LINEAR)
def balanced_experts_and_a_second_prediction():
    """Scores are shifted for the choice alone; a second block predicts one token further with the same table."""

    def experts(p, x):
        flat = x.reshape(-1, 8)
        scores = jax.nn.sigmoid(flat @ p["router"])
        where = lax.top_k(scores + lax.stop_gradient(p["bias"]), 2)[1]
        gates = jnp.take_along_axis(scores, where, -1)
        gates = gates / gates.sum(-1, keepdims=True)
        full = jnp.zeros_like(scores).at[jnp.arange(len(flat))[:, None], where].add(gates)
        h = jax.nn.silu(jnp.einsum("nd,edf->enf", flat, p["w1"])) * jnp.einsum("nd,edf->enf", flat, p["w3"])
        y = jnp.einsum("enf,efd,ne->nd", h, p["w2"], full)
        return (y + (jax.nn.silu(flat @ p["s1"]) * (flat @ p["s3"])) @ p["s2"]).reshape(x.shape)

    def apply(p, ids):
        x = p["table"][ids]
        x = x + experts(p, rms(x) * p["g0"])
        first = rms(x) * p["g1"] @ p["table"].T
        shifted = p["table"][jnp.roll(ids, -1, 1)]
        y = jnp.concatenate([rms(x) * p["g2"], rms(shifted) * p["g3"]], -1) @ p["join"]
        y = y + jnp.tanh(y @ p["m1"]) @ p["m2"]
        return first, rms(y) * p["g1"] @ p["table"].T

    params = shapes(router=(8, 3), bias=3, w1=(3, 8, 6), w3=(3, 8, 6), w2=(3, 6, 8), s1=(8, 6), s3=(8, 6), s2=(6, 8))
    params |= shapes(table=(11, 8), join=(16, 8), m1=(8, 8), m2=(8, 8)) | {f"g{i}": array(8) for i in range(4)}
    return apply, params, (tokens(2, 5),)


@zoo_model(truth={"patterns": "linear 1 > 0", "values": "linear 0 > 1", "g.*": "gain > 0"} | LINEAR)
def patterns_that_are_retrieved():
    """A Hopfield layer: states meet learned patterns until they settle, at a temperature."""

    def apply(p, x):
        q = rms(x @ p["q"])
        for _ in range(2):
            q = jax.nn.softmax(2.0 * q @ p["patterns"].T) @ p["patterns"]
        return jnp.tanh(q @ p["values"]) @ p["o"]

    return apply, shapes(q=(8, 6), patterns=(5, 6), values=(6, 4), o=(4, 3)), (X,)


@zoo_model(truth={"table": "embedding 0 > 1", ".*b": "bias > 0"} | LINEAR)
def pixels_shuffled_into_channels():
    """Tokens of an image, of which four become one, are put where the text has places for them."""

    def apply(p, image, ids, where):
        x = image.reshape(2, 4, 2, 4, 2, 3).swapaxes(2, 3).reshape(2, 16, 12) @ p["patch"] + p["patchb"]
        x = x + attend(*(rms(x) @ p[n] for n in "qkv")) @ p["o"]
        x = x.reshape(2, 4, 2, 12).swapaxes(1, 2).reshape(2, 2, 2, 24).swapaxes(1, 2).reshape(2, 4, 24)
        x = jax.nn.gelu(x @ p["c1"]) @ p["c2"]
        text = p["table"][ids]
        taken = jnp.take_along_axis(x, jnp.maximum(jnp.cumsum(where, 1) - 1, 0)[..., None], 1)
        text = jnp.where(where[..., None] > 0, taken, text)
        return rms(jnp.tanh(text @ p["w"]) + text) @ p["head"]

    params = shapes(patch=(12, 6), patchb=6, **dict.fromkeys("qkvo", (6, 6)), c1=(24, 10), c2=(10, 8), table=(11, 8))
    return apply, params | shapes(w=(8, 8), head=(8, 11)), (array(2, 8, 8, 3), tokens(2, 6), tokens(2, 6))
