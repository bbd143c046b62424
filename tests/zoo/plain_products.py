"""Plain JAX: what data meet as a product of parameters, or with kernels made from data: queries, memories, factors."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, zoo_model
from tests.zoo.plain import rms, shapes
from tests.zoo.plain_published import LINEAR

X = array(2, 7, 8)
UNKNOWN = {"[ab]": "unknown"} | LINEAR


def attend(p, queries, keys, name=""):
    """Attention of two heads with biases; `name` is what those of its parameters begin with."""

    def heads(x, which):
        y = x @ p[name + which] + p[f"{name}{which}_b"]
        return y.reshape(*y.shape[:-1], 2, -1)

    q, k, v = heads(queries, "q"), heads(keys, "k"), heads(keys, "v")
    y = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k)), v)
    return y.reshape(*y.shape[:-2], -1) @ p[name + "o"] + p[name + "o_b"]


def attention(name="", d=8):
    return shapes(**{name + x: (d, d) for x in "qkvo"}, **{f"{name}{x}_b": d for x in "qkvo"})


def normalised(x, gain, bias):
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * gain + bias


TRUTH = {r"\w*_b|n.": "bias > 0", "g.": "gain > 0", "queries|latents|pos": "positional 0 > 1"} | LINEAR


@zoo_model(truth=UNKNOWN)
def scores_in_two_factors():
    """Pooling by attention without keys: the queries may be one factor of a low-rank layer, or vectors of their own."""

    def apply(p, x):
        x = rms(x @ p["e"])
        x = x + jax.nn.softmax(x @ x.swapaxes(1, 2)) @ (x @ p["v"])
        return jnp.einsum("btq,btd->bqd", jax.nn.softmax(x @ (p["a"] @ p["b"]), 1), x) @ p["o"]

    return apply, shapes(e=(8, 8), v=(8, 8), a=(8, 3), b=(3, 5), o=(8, 4)), (X,)


@zoo_model(truth=UNKNOWN)
def tokens_mixed_in_two_factors():
    def apply(p, x):
        x = jnp.einsum("btd,ts->bsd", x @ p["e"], p["a"] @ p["b"])
        return jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).swapaxes(1, 2)) @ (x @ p["v"]) @ p["o"]

    return apply, shapes(e=(8, 8), a=(7, 3), b=(3, 7), q=(8, 8), k=(8, 8), v=(8, 8), o=(8, 4)), (X,)


@zoo_model(truth={"pos": "positional 0 > 1"} | UNKNOWN)
def learned_adjacency():
    """Embeddings of nodes of which all pairs are multiplied: which is the kernel of the other cannot be told."""

    def apply(p, x):
        weights = jax.nn.softmax(jax.nn.relu(p["a"] @ p["b"].T), 1)
        return jnp.tanh(jnp.einsum("ts,bsd->btd", weights, x @ p["e"] + p["pos"]) @ p["v"]) @ p["o"]

    params = shapes(e=(8, 8), pos=(7, 8), a=(7, 3), b=(7, 3), v=(8, 8), o=(8, 4))
    return apply, params, (X,)


@zoo_model(truth={"seed|wq|qb": "unknown"} | LINEAR)
def vector_as_query():
    """A vector has no two factors: neither what makes the one query, nor what is added to it, is a layer."""

    def apply(p, x):
        q = p["seed"] @ p["wq"] + p["qb"]
        weights = jax.nn.softmax(jnp.einsum("c,btc->bt", q, x @ p["k"]))
        return jnp.einsum("bt,btd->bd", weights, x @ p["v"]) @ p["o"]

    return apply, shapes(seed=8, wq=(8, 8), qb=8, k=(8, 8), v=(8, 8), o=(8, 4)), (X,)


@zoo_model(truth={"wq": "linear 0 > 1 2"} | TRUTH)
def queries_that_share_their_keys():
    def apply(p, x):
        q = jnp.einsum("qd,dhc->qhc", p["queries"], p["wq"])
        weights = jax.nn.softmax(jnp.einsum("qhc,btc->bhqt", q, x @ p["k"]))
        return jnp.einsum("bhqt,btc->bqhc", weights, x @ p["v"]).reshape(2, 3, 8) @ p["o"]

    return apply, shapes(queries=(3, 8), wq=(8, 2, 4), k=(8, 4), v=(8, 4), o=(8, 5)), (X,)


@zoo_model(truth=TRUTH)
def detection_transformer():
    """Slots start at zero: before they meet data, they are sums and products of parameters."""

    def apply(p, x):
        memory, queries, slots = x @ p["e"], p["queries"][None], jnp.zeros((2, 5, 8))
        for _ in range(2):
            y = normalised(slots, p["g1"], p["n1"])
            slots = slots + attend(p, y + queries, y, "s")
            y = normalised(slots, p["g2"], p["n2"])
            slots = slots + attend(p, y + queries, memory, "c")
            slots = slots + jax.nn.relu(slots @ p["f1"] + p["f1_b"]) @ p["f2"] + p["f2_b"]
        return slots @ p["h"] + p["h_b"]

    own = shapes(e=(8, 8), queries=(5, 8), g1=8, n1=8, g2=8, n2=8, f1=(8, 16), f1_b=16, f2=(16, 8), f2_b=8)
    return apply, attention("s") | attention("c") | own | shapes(h=(8, 4), h_b=4), (X,)


@zoo_model(truth={"out_queries": "positional 0 > 1"} | TRUTH)
def perceiver_with_output_queries():
    def apply(p, x):
        memory = normalised(x @ p["e"], p["g1"], p["n1"])
        latents = jnp.broadcast_to(p["latents"], (2, 5, 8))
        latents = latents + attend(p, normalised(latents, p["g2"], p["n2"]), memory, "i")
        queries = jnp.broadcast_to(p["out_queries"], (2, 3, 8))
        return attend(p, normalised(queries, p["g3"], p["n3"]), latents, "o") @ p["h"]

    own = shapes(e=(8, 8), latents=(5, 8), out_queries=(3, 8), **{x + n: 8 for x in "gn" for n in "123"}, h=(8, 4))
    return apply, attention("i") | attention("o") | own, (X,)


@zoo_model(truth={"slots": "positional 0 > 1"} | TRUTH)
def slot_attention_with_gates():
    def apply(p, x):
        x = normalised(x, p["g1"], p["n1"])
        slots = jnp.broadcast_to(p["slots"], (2, 4, 8))
        for _ in range(3):
            q = normalised(slots, p["g2"], p["n2"]) @ p["q"]
            weights = jax.nn.softmax(jnp.einsum("bsd,btd->bst", q, x @ p["k"]), 1)
            update = weights / weights.sum(-1, keepdims=True) @ (x @ p["v"])
            gate = jax.nn.sigmoid(update @ p["wz"] + slots @ p["uz"] + p["z_b"])
            slots = (1 - gate) * slots + gate * jnp.tanh(update @ p["wh"] + (slots * gate) @ p["uh"] + p["h_b"])
        return slots @ p["o"]

    squares = shapes(**dict.fromkeys(("q", "k", "v", "wz", "uz", "wh", "uh"), (8, 8)))
    own = shapes(slots=(4, 8), g1=8, n1=8, g2=8, n2=8, z_b=8, h_b=8, o=(8, 3))
    return apply, squares | own, (X,)


@zoo_model(truth=TRUTH)
def memory_of_learned_vectors():
    """All keys and values come from a table."""

    def apply(p, x):
        return attend(p, x, jnp.broadcast_to(p["latents"], (2, 5, 8))) @ p["h"]

    return apply, attention() | shapes(latents=(5, 8), h=(8, 4)), (X,)


@zoo_model(truth={"k_sink|v_sink": "positional 0 > 1"} | LINEAR)
def keys_and_values_to_sink_in():
    def apply(p, x):
        k, v = (
            jnp.concatenate([jnp.broadcast_to(p[f"{name}_sink"], (2, 3, 8)), x @ p[name]], 1) for name in ("k", "v")
        )
        return jax.nn.softmax((x @ p["q"]) @ k.swapaxes(1, 2)) @ v @ p["o"]

    return apply, shapes(q=(8, 8), k=(8, 8), v=(8, 8), k_sink=(3, 8), v_sink=(3, 8), o=(8, 5)), (X,)


@zoo_model(truth={"make": "unknown", "b": "bias > 0"} | LINEAR)
def bias_of_generated_kernels():
    def apply(p, x, style):
        kernels = (style @ p["make"]).reshape(2, 8, 6)
        return jax.nn.relu(x @ kernels + p["b"]) @ p["o"]

    return apply, shapes(make=(3, 48), b=6, o=(6, 4)), (X, array(2, 3))


@zoo_model(truth={"w": "unknown", "b": "bias > 0"} | LINEAR)
def bias_of_mixed_kernels():
    def apply(p, x):
        weights = jax.nn.sigmoid(x.mean(1) @ p["r"])
        return x @ jnp.einsum("be,edf->bdf", weights, p["w"]) + p["b"]

    return apply, shapes(r=(8, 4), w=(4, 8, 6), b=6), (X,)


@zoo_model(truth=LINEAR)
def features_of_several_kinds_in_one_axis():
    """Scalars and vectors, joined into one axis, cut apart again, and gated: layers of equivariant networks."""

    def apply(p, scalars, vectors, radial):
        mixed = jnp.einsum("eui,uw->ewi", vectors, p["vectors"]).reshape(len(vectors), -1)
        y = jnp.concatenate([scalars @ p["scalars"], mixed], -1)
        scalars, vectors = y[:, :8], y[:, 8:].reshape(-1, 6, 3)
        return jnp.einsum("ewi,ew->ei", vectors, jax.nn.silu(radial @ p["radial"])), scalars.sum(-1)

    params = shapes(scalars=(5, 8), vectors=(7, 6), radial=(4, 6))
    return apply, params, (array(9, 5), array(9, 7, 3), array(9, 4))
