"""Plain JAX: models of many kinds that inference had not seen when they were written; several taught it something."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import rms, shapes

LINEAR = {r"\w*": "linear 0 > 1"}


def one_each(rows, row):
    return jnp.broadcast_to(row, (rows.shape[0], *row.shape))


@zoo_model(truth={"slots": "positional 0 > 1"} | LINEAR)
def slot_attention():
    """Queries of the first round are made of parameters only, those of the second of data."""

    def apply(p, x):
        slots, k, v = one_each(x, p["slots"]), x @ p["k"], x @ p["v"]
        for _ in range(2):
            weights = jax.nn.softmax(k @ (rms(slots) @ p["q"]).swapaxes(1, 2))
            slots = slots + (weights / weights.sum(1, keepdims=True)).swapaxes(1, 2) @ v @ p["update"]
        return slots @ p["o"]

    params = shapes(slots=(3, 6), k=(4, 6), v=(4, 6), q=(6, 6), update=(6, 6), o=(6, 2))
    return apply, params, (array(2, 7, 4),)


@zoo_model(truth=LINEAR)
def inner_training():
    """The state of a recurrence is a layer that is trained on the way, from what the parameter is."""

    def apply(p, x):
        def step(w, inputs):
            k, v, q = inputs
            w = w - 0.1 * jax.grad(lambda w: ((k @ w - v) ** 2).sum())(w)
            return w, q @ w

        inputs = tuple((x @ p[name]).swapaxes(0, 1) for name in ("k", "v", "q"))
        return lax.scan(step, p["state"], inputs)[1].swapaxes(0, 1) @ p["o"]

    params = shapes(k=(6, 5), v=(6, 4), q=(6, 5), state=(5, 4), o=(4, 3))
    return apply, params, (array(2, 7, 6),)


@zoo_model(truth={"r": "gain > 0 1", "s": "gain > 1", "b": "bias > 1"} | LINEAR)
def batch_ensemble():
    def apply(p, x):
        h = (x[None] * p["r"][:, None]) @ p["w"] * p["s"][:, None] + p["b"][:, None]
        return jax.nn.relu(h) @ p["v"]

    return apply, shapes(r=(3, 4), s=(3, 6), b=(3, 6), w=(4, 6), v=(6, 2)), (array(7, 4),)


@zoo_model(truth={"cls": "positional 1 > 2"} | LINEAR)
def class_token_with_a_residual():
    """A class token stands beside the patches, and is added to what it has gathered from them."""

    def apply(p, x):
        cls = jnp.tile(p["cls"], (x.shape[0], 1, 1))
        z = jnp.concatenate([cls, x @ p["embed"]], 1)
        weights = jax.nn.softmax(z[:, :1] @ p["q"] @ (z @ p["k"]).swapaxes(1, 2))
        return (cls + weights @ z @ p["v"])[:, 0] @ p["head"]

    params = shapes(cls=(1, 1, 6), embed=(4, 6), q=(6, 5), k=(6, 5), v=(6, 6), head=(6, 3))
    return apply, params, (array(2, 7, 4),)


@zoo_model(truth={"rel": "linear 0 1 > 2", "b": "bias > 0"} | LINEAR)
def relational_graph_convolution():
    """Messages of all relations are summed: relations are inputs as heads are."""

    def apply(p, x, adjacency):
        h = jnp.einsum("rij,jd,rde->ie", adjacency, x, p["rel"]) + x @ p["own"] + p["b"]
        return jax.nn.relu(h) @ p["o"]

    return apply, shapes(rel=(3, 4, 6), own=(4, 6), b=6, o=(6, 2)), (array(7, 4), array(3, 7, 7))


@zoo_model(truth={"w": "linear 1 2 > 0", "b": "bias > 0"} | LINEAR)
def bilinear():
    """Linear in the products of two inputs."""

    def apply(p, x, y):
        return jnp.tanh(jnp.einsum("bi,kij,bj->bk", x @ p["u0"], p["w"], y @ p["u1"]) + p["b"])

    return apply, shapes(u0=(4, 5), u1=(3, 6), w=(7, 5, 6), b=7), (array(8, 4), array(8, 3))


@zoo_model(truth={"emb": "embedding 0 > 1", "time": "bias > 1", "halt": "linear 0 >", "hb": "bias >"} | LINEAR)
def universal_transformer():
    """What is added in each step of a loop is a stack of biases, a table of times or not."""

    def apply(p, idx):
        def step(carry, t):
            x, left = carry
            h = rms(x + p["time"][t])
            y = x + jax.nn.softmax(h @ p["q"] @ (h @ p["k"]).swapaxes(1, 2)) @ h @ p["v"]
            y = y + jax.nn.relu(y @ p["w1"]) @ p["w2"]
            share = jax.nn.sigmoid(y @ p["halt"] + p["hb"]) * left
            return (x * (1 - share[..., None]) + y * share[..., None], left - share), None

        (x, _), _ = lax.scan(step, (p["emb"][idx], jnp.ones(idx.shape, p["emb"].dtype)), jnp.arange(4))
        return x @ p["head"]

    params = shapes(emb=(11, 6), time=(4, 6), q=(6, 6), k=(6, 6), v=(6, 6), w1=(6, 9), w2=(9, 6), halt=6, hb=())
    return apply, params | shapes(head=(6, 11)), (tokens(2, 5),)


@zoo_model(truth={"q|uk|uv": "linear 0 > 1 2", "o": "linear 0 1 > 2", "norm": "gain > 0"} | LINEAR)
def latent_attention():
    """Keys and values from a common low-rank vector, and a part of the key that all heads share."""

    def apply(p, x):
        low = x @ p["down"]
        shared, low = low[..., 4:], rms(low[..., :4]) * p["norm"]
        k, v = (jnp.einsum("btc,che->bthe", low, p[name]) for name in ("uk", "uv"))
        k = jnp.concatenate([k, jnp.broadcast_to(shared[:, :, None], (*k.shape[:3], 2))], -1)
        q = jnp.einsum("btd,dhe->bthe", x, p["q"])
        weights = jax.nn.softmax(jnp.einsum("bqhe,bkhe->bhqk", q, k))
        return jnp.einsum("bhqk,bkhe,hed->bqd", weights, v, p["o"])

    params = shapes(q=(6, 2, 5), down=(6, 6), norm=4, uk=(4, 2, 3), uv=(4, 2, 3), o=(2, 3, 6))
    return apply, params, (array(2, 7, 6),)


@zoo_model(truth={"c.": "linear 0 2 > 1"} | LINEAR)
def kolmogorov_arnold():
    def apply(p, x):
        for i in range(2):
            basis = jnp.exp(-(((x[..., None] - np.linspace(-1, 1, 5, dtype=np.float32)) / 0.5) ** 2))
            x = jnp.einsum("bik,iok->bo", basis, p[f"c{i}"]) + jax.nn.silu(x) @ p[f"base{i}"]
        return x

    return apply, shapes(c0=(4, 6, 5), c1=(6, 3, 5), base0=(4, 6), base1=(6, 3)), (array(8, 4),)


@zoo_model(truth={"k.": "linear 1 > 0", "values": "embedding 0 > 1"} | LINEAR)
def product_keys():
    def apply(p, x):
        a, b = jnp.split(x @ p["q"], 2, -1)
        (s, i), (t, j) = lax.top_k(a @ p["k1"].T, 2), lax.top_k(b @ p["k2"].T, 2)
        scores, where = (s[:, :, None] + t[:, None]).reshape(-1, 4), (i[:, :, None] * 5 + j[:, None]).reshape(-1, 4)
        return jnp.einsum("bk,bkd->bd", jax.nn.softmax(scores), p["values"][where]) @ p["o"]

    return apply, shapes(q=(4, 6), k1=(5, 3), k2=(5, 3), values=(25, 7), o=(7, 2)), (array(6, 4),)


@zoo_model(truth={"g1": "linear 0 > 1 2", "g2": "linear 0 1 > 2"} | LINEAR)
def tensor_train():
    def apply(p, x):
        y = jnp.einsum("bij,iar->bjar", x.reshape(-1, 3, 4), p["g1"])
        y = jnp.einsum("bjar,rjc->bac", y, p["g2"])
        return jax.nn.relu(y.reshape(-1, 30)) @ p["w"]

    return apply, shapes(g1=(3, 5, 2), g2=(2, 4, 6), w=(30, 3)), (array(7, 12),)


@zoo_model(truth={"tables/.": "embedding 0 > 1", "b[01]": "bias > 0"} | LINEAR)
def recommendation():
    def apply(p, dense, sparse):
        vectors = [jax.nn.relu(dense @ p["bottom"] + p["b0"])]
        vectors += [p["tables"][name][sparse[:, i]] for i, name in enumerate("abc")]
        together = jnp.stack(vectors, 1)
        pairs = jnp.einsum("bid,bjd->bij", together, together)[:, *np.tril_indices(4, -1)]
        return jnp.concatenate([vectors[0], pairs], -1) @ p["top"] + p["b1"]

    params = shapes(bottom=(4, 6), b0=6, top=(12, 1), b1=1) | {"tables": shapes(a=(11, 6), b=(7, 6), c=(5, 6))}
    return apply, params, (array(8, 4), tokens(8, 3))


@zoo_model(truth={"w": "linear 2 > 3", "b": "bias > 1"} | LINEAR)
def capsules():
    """A matrix for each pair of an input and an output capsule: a guess, for the output capsules might be features."""

    def apply(p, x):
        u = (x @ p["primary"]).reshape(-1, 6, 4)
        votes = jnp.einsum("nid,ijde->nije", u, p["w"])
        logits, out = jnp.zeros(votes.shape[:3]), votes.sum(1)
        for _ in range(2):
            out = (jax.nn.softmax(logits, axis=2)[..., None] * votes).sum(1) + p["b"]
            logits = logits + (votes * out[:, None]).sum(-1)
        return jnp.linalg.norm(out, axis=-1)

    return apply, shapes(primary=(7, 24), w=(6, 5, 4, 3), b=(5, 3)), (array(3, 7),)


@zoo_model(truth={"k": "unknown"} | LINEAR)
def filter_of_single_channels():
    def apply(p, x):
        smooth = lambda row: jnp.convolve(row, p["k"], mode="same")  # noqa: E731
        return jax.nn.relu(jax.vmap(smooth)(x)) @ p["w"]

    return apply, shapes(k=3, w=(9, 2)), (array(5, 9),)


@zoo_model(truth={"r": "linear 1 > 0"} | LINEAR)
def synthesizer():
    """Attention weights that do not depend on data mix positions."""

    def apply(p, x):
        return jnp.einsum("ts,bsd->btd", jax.nn.softmax(p["r"]), x @ p["w"]) @ p["o"]

    return apply, shapes(r=(7, 7), w=(4, 6), o=(6, 3)), (array(2, 7, 4),)


@zoo_model(truth={"a|b": "linear 1 > 2"} | LINEAR)
def mixture_of_low_rank_adapters():
    def apply(p, x):
        y = jnp.einsum("ber,erf->bef", jnp.einsum("bd,edr->ber", x, p["a"]), p["b"])
        return (y * jax.nn.softmax(x @ p["gate"])[..., None]).sum(1)

    return apply, shapes(gate=(5, 3), a=(3, 5, 2), b=(3, 2, 6)), (array(7, 5),)


@zoo_model(truth={"q": "linear 0 > 1 2 3", "k|v": "linear 0 > 1 2", "o": "linear 0 1 2 > 3"})
def grouped_queries_with_an_axis_of_groups():
    def apply(p, x):
        q = jnp.einsum("btd,dkgh->btkgh", x, p["q"])
        k, v = (jnp.einsum("btd,dkh->btkh", x, p[name]) for name in "kv")
        weights = jax.nn.softmax(jnp.einsum("bqkgh,bskh->bkgqs", q, k))
        return jnp.einsum("bkgqs,bskh,kghd->bqd", weights, v, p["o"])

    return apply, shapes(q=(6, 2, 3, 4), k=(6, 2, 4), v=(6, 2, 4), o=(2, 3, 4, 6)), (array(2, 7, 6),)
