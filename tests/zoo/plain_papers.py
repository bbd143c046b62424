"""Plain JAX: layers that papers are known for, each small."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.ode import odeint
from jax.sharding import Mesh, PartitionSpec

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import rms, shapes

LINEAR = {r"\w*": "linear 0 > 1"}


@zoo_model(truth={"b": "bias > 0", "table": "embedding 0 > 1"} | LINEAR)
def swin():
    def apply(p, x):
        windows = (x @ p["embed"]).reshape(-1, 2, 2, 2, 2, 6).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 6)
        q, k, v = (windows @ p["qkv"] + p["b"]).reshape(-1, 4, 3, 2, 3).transpose(2, 0, 3, 1, 4)
        bias = p["table"][np.arange(16) % 9].reshape(4, 4, 2).transpose(2, 0, 1)
        out = jax.nn.softmax(q @ k.swapaxes(-1, -2) + bias) @ v
        return (out.transpose(0, 2, 1, 3).reshape(-1, 4, 6) @ p["o"]).mean(1) @ p["head"]

    return apply, shapes(embed=(3, 6), qkv=(6, 18), b=18, table=(9, 2), o=(6, 6), head=(6, 5)), (array(2, 4, 4, 3),)


@zoo_model(truth={"q": "linear 0 > 1 2", "o": "linear 0 1 > 2"} | LINEAR)
def multi_query_attention_of_one_sample():
    def apply(p, x):
        q, k, v = jnp.einsum("td,dnh->tnh", x, p["q"]), x @ p["k"], x @ p["v"]
        out = jnp.einsum("nts,sh->tnh", jax.nn.softmax(jnp.einsum("tnh,sh->nts", q, k)), v)
        return jnp.einsum("tnh,nhd->td", out, p["o"])

    return apply, shapes(q=(6, 4, 3), k=(6, 3), v=(6, 3), o=(4, 3, 6)), (array(7, 6),)


@zoo_model(truth={"[qkv]": "linear 2 > 0 1", "o": "linear 1 2 > 0", "sink": "bias > 0", "s.": "gain > 0"})
def heads_of_torch_with_sinks():
    def apply(p, x):
        q, k, v = (jnp.einsum("btd,nhd->bnth", x, p[name]) for name in "qkv")
        scores = (rms(q) * p["sq"]) @ (rms(k) * p["sk"]).swapaxes(-1, -2)
        sink = jnp.broadcast_to(p["sink"][None, :, None, None], (*scores.shape[:3], 1))
        weights = jax.nn.softmax(jnp.concatenate([scores, sink], -1))[..., :-1]
        return jnp.einsum("bnth,dnh->btd", weights @ v, p["o"])

    return apply, shapes(q=(2, 3, 6), k=(2, 3, 6), v=(2, 3, 6), o=(6, 2, 3), sink=2, sq=3, sk=3), (array(2, 7, 6),)


@zoo_model(truth=LINEAR)
def linear_attention():
    def apply(p, x):
        q, (k, v) = jax.nn.elu(x @ p["q"]) + 1, jnp.split(x @ p["kv"], 2, -1)
        q, k, v = (y.reshape(*y.shape[:2], 2, 3) for y in (q, jax.nn.elu(k) + 1, v))
        return jnp.einsum("bthk,bhkv->bthv", q, jnp.einsum("bthk,bthv->bhkv", k, v)).reshape(x.shape) @ p["o"]

    return apply, shapes(q=(6, 6), kv=(6, 12), o=(6, 6)), (array(2, 7, 6),)


@zoo_model(truth=LINEAR)
def delta_rule():
    def apply(p, x):
        def step(state, inputs):
            q, k, v, rate = inputs
            state = state + rate * jnp.outer(v - state @ k, k)
            return state, state @ q

        q, k, v = (x @ p[name] for name in "qkv")
        one = lambda *inputs: lax.scan(step, jnp.zeros((6, 6)), inputs)[1]  # noqa: E731
        return jax.vmap(one)(q, k, v, jax.nn.sigmoid(x @ p["rate"])) @ p["o"]

    return apply, shapes(q=(4, 6), k=(4, 6), v=(4, 6), rate=(4, 1), o=(6, 2)), (array(2, 7, 4),)


@zoo_model(truth={"m": "gain > 0"} | LINEAR)
def dora():
    def apply(p, x):
        w = p["w"] + p["a"] @ p["b"]
        return jax.nn.relu(x @ (p["m"] * w / jnp.linalg.norm(w, axis=0))) @ p["v"]

    return apply, shapes(w=(4, 6), a=(4, 2), b=(2, 6), m=6, v=(6, 2)), (array(7, 4),)


@zoo_model(truth={"fb": "bias > 0", "d": "gain > 0"} | LINEAR)
def hyena():
    def apply(p, x):
        time = jnp.linspace(0, 1, 7)[:, None]
        filters = jnp.sin(jnp.concatenate([time, jnp.sin(time), jnp.cos(time)], -1) @ p["f0"] + p["fb"]) @ p["f1"]
        u = x @ p["w0"]
        spectrum = jnp.fft.rfft(u, 14, axis=1) * jnp.fft.rfft(filters, 14, axis=0)
        return (jnp.fft.irfft(spectrum, 14, axis=1)[:, :7] + u * p["d"]) @ p["w1"]

    return apply, shapes(f0=(3, 8), fb=8, f1=(8, 6), w0=(4, 6), d=6, w1=(6, 2)), (array(2, 7, 4),)


@zoo_model(truth={"query": "positional 0 > 1"} | LINEAR)
def learned_object_queries():
    """The queries are multiplied by matrices, and by each other, before they meet data."""

    def apply(p, x):
        attend = lambda q, k, v: jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v  # noqa: E731
        query = jnp.broadcast_to(p["query"], (2, 5, 6))
        t = jnp.zeros((2, 5, 6))
        t = t + attend((t + query) @ p["sq"], (t + query) @ p["sk"], t @ p["sv"]) @ p["so"]
        memory = x @ p["enc"]
        t = t + attend((t + query) @ p["cq"], memory @ p["ck"], memory @ p["cv"]) @ p["co"]
        return t @ p["head"]

    square = dict.fromkeys(("sq", "sk", "sv", "so", "cq", "ck", "cv", "co"), (6, 6))
    return apply, shapes(query=(5, 6), enc=(4, 6), head=(6, 3), **square), (array(2, 7, 4),)


@zoo_model(truth={"w": "linear 1 > 2"} | LINEAR)
def relational_graph_convolution():
    def apply(p, x, senders, receivers, kinds):
        messages = jnp.einsum("ei,eio->eo", x[senders], p["w"][kinds])
        return jax.ops.segment_sum(messages, receivers, 9) + x @ p["self"]

    return apply, shapes(w=(3, 4, 6), self=(4, 6)), (array(9, 4), tokens(20), tokens(20), tokens(20))


@zoo_model(truth={"w": "linear 1 > 2"} | LINEAR)
def chebyshev_graph_convolution():
    def apply(p, x, laplacian):
        a, b = x, laplacian @ x
        out = a @ p["w"][0] + b @ p["w"][1]
        for k in range(2, 4):
            a, b = b, 2 * laplacian @ b - a
            out = out + b @ p["w"][k]
        return jax.nn.relu(out) @ p["v"]

    return apply, shapes(w=(4, 5, 6), v=(6, 2)), (array(7, 5), array(7, 7))


@zoo_model(truth={"e1": "unknown"} | LINEAR)
def edge_conditioned_convolution():
    def apply(p, x, edges, senders, receivers):
        matrices = (jax.nn.relu(edges @ p["e0"]) @ p["e1"]).reshape(-1, 4, 6)
        messages = jnp.einsum("ei,eio->eo", x[senders], matrices)
        return jax.ops.segment_sum(messages, receivers, 9) @ p["w"]

    inputs = (array(9, 4), array(20, 3), tokens(20), tokens(20))
    return apply, shapes(e0=(3, 7), e1=(7, 24), w=(6, 2)), inputs


@zoo_model(truth={"e|r": "embedding 0 > 1", "b": "embedding 0 >", "mu": "bias >"})
def knowledge_graph():
    def apply(p, head, relation, tail):
        return (p["e"][head] * p["r"][relation] * p["e"][tail]).sum(-1) + p["b"][tail] + p["mu"]

    return apply, shapes(e=(9, 6), r=(3, 6), b=9, mu=()), (tokens(5), tokens(5), tokens(5))


@zoo_model(truth={"const": "unknown", "k": "conv 2 > 3 @ 0 1"} | LINEAR)
def modulated_convolution():
    def apply(p, z):
        k = p["k"] * (z @ p["style"])[:, None, None, :, None]
        k = k * lax.rsqrt((k**2).sum((1, 2, 3), keepdims=True) + 1e-8)
        x = jnp.broadcast_to(p["const"], (z.shape[0], 5, 5, 4))
        numbers = ("NHWC", "HWIO", "NHWC")
        convolve = lambda x, k: lax.conv_general_dilated(x[None], k, (1, 1), "SAME", dimension_numbers=numbers)[0]  # noqa: E731
        return jax.vmap(convolve)(x, k) @ p["rgb"]

    return apply, shapes(style=(7, 4), k=(3, 3, 4, 6), const=(5, 5, 4), rgb=(6, 3)), (array(2, 7),)


@zoo_model(truth=LINEAR)
def weights_dropped_at_random():
    return lambda p, x, mask: x @ (p["w"] * mask) @ p["v"], shapes(w=(4, 6), v=(6, 2)), (array(7, 4), array(4, 6))


@zoo_model(truth=LINEAR)
def quantised_straight_through():
    def apply(p, x):
        w = p["w"] + lax.stop_gradient(jnp.sign(p["w"]) - p["w"])
        masked = p["m"] * np.tri(6, 5, dtype=np.float32)
        return jax.nn.relu(x @ w) @ masked

    return apply, shapes(w=(4, 6), m=(6, 5)), (array(7, 4),)


@zoo_model(truth={"g|b": "embedding 0 > 1"} | LINEAR)
def conditional_normalisation():
    def apply(p, x, label):
        return jax.nn.relu(rms(x @ p["w"]) * p["g"][label] + p["b"][label]) @ p["v"]

    return apply, shapes(w=(4, 6), g=(10, 6), b=(10, 6), v=(6, 2)), (array(7, 4), tokens(7))


@zoo_model(truth={"sb": "bias > 0"} | LINEAR)
def spatial_gating():
    def apply(p, x):
        a, b = jnp.split(x @ p["w"], 2, -1)
        return (a * (jnp.einsum("btd,ts->bsd", b, p["s"]) + p["sb"][:, None])) @ p["v"]

    return apply, shapes(w=(4, 12), s=(7, 7), sb=7, v=(6, 2)), (array(2, 7, 4),)


@zoo_model(truth=LINEAR)
def sharded():
    def apply(p, x):
        mesh = Mesh(np.array(jax.devices()[:1]), "d")
        specs = (PartitionSpec("d", None), PartitionSpec(None, "d"))
        product = jax.shard_map(lambda w, x: lax.psum(x @ w, "d"), mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
        return jax.nn.relu(product(p["w"], x)) @ p["v"]

    return apply, shapes(w=(4, 6), v=(6, 2)), (array(7, 4),)


@zoo_model(truth={"b": "bias > 0"} | LINEAR)
def neural_ode():
    def apply(p, x):
        field = lambda y, t, p: jnp.tanh(y @ p["w"] + p["b"]) @ p["v"]  # noqa: E731
        return odeint(field, x, jnp.linspace(0.0, 1.0, 3), p)[-1]

    return apply, shapes(w=(4, 6), b=6, v=(6, 4)), (array(7, 4),)


@zoo_model(truth={"b.": "bias > 0"} | LINEAR)
def one_step_of_a_gru():
    """From a state of zeros: the recurrent matrices are multiplied with nothing else."""

    def apply(p, x):
        h = jnp.zeros((x.shape[0], 6))
        update = jax.nn.sigmoid(x @ p["wz"] + h @ p["uz"] + p["bz"])
        new = jnp.tanh(x @ p["wn"] + update * (h @ p["un"] + p["bn"]))
        return ((1 - update) * new + update * h) @ p["v"]

    return apply, shapes(wz=(4, 6), uz=(6, 6), bz=6, wn=(4, 6), un=(6, 6), bn=6, v=(6, 2)), (array(7, 4),)


@zoo_model(truth={"k": "linear 0 1 2 > 3"} | LINEAR)
def convolution_by_patches():
    def apply(p, x):
        patches = lax.conv_general_dilated_patches(
            x, (3, 3), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(patches @ p["k"].reshape(27, 6)) @ p["v"]

    return apply, shapes(k=(3, 3, 3, 6), v=(6, 2)), (array(2, 5, 5, 3),)


@zoo_model(truth={"b": "bias > 0"} | {r"\w": "linear 1 > 0"})
def column_vectors():
    def apply(p, x):
        return p["v"] @ jnp.tanh(p["w"] @ x + p["b"][:, None])

    return apply, shapes(w=(6, 4), b=6, v=(2, 6)), (array(4, 7),)


@zoo_model(truth={"[ep]": "embedding 0 > 1"} | LINEAR)
def decoding_with_a_cache():
    def apply(p, token, position, cache):
        x = p["e"][token] + p["p"][position]
        cache = lax.dynamic_update_slice(cache, (x @ p["k"])[:, None], (0, position, 0))
        weights = jax.nn.softmax(jnp.einsum("bd,btd->bt", x @ p["q"], cache))
        return jnp.einsum("bt,btd->bd", weights, cache) @ p["o"], cache

    params = shapes(e=(11, 6), p=(8, 6), k=(6, 6), q=(6, 6), o=(6, 11))
    return apply, params, (tokens(2), array(dtype=jnp.int32), array(2, 8, 6))
