"""Plain JAX: further models that inference had not seen when they were written, those that taught it something."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import rms, shapes
from tests.zoo.plain_varied import LINEAR


@zoo_model(truth={"[bc]": "linear 1 > 0", "lam_re|lam_im|step|d": "gain > 0"} | LINEAR)
def discretised_state_space():
    """S5: what a state decays by is a factor of its input matrix, too."""

    def apply(p, x):
        lam = p["lam_re"] + 1j * p["lam_im"]
        b, c = (p[name][..., 0] + 1j * p[name][..., 1] for name in "bc")
        decay = jnp.exp(lam * jnp.exp(p["step"]))
        drive = ((decay - 1) / lam)[:, None] * b
        u = x @ p["enc"]
        decays = jnp.broadcast_to(decay, (*u.shape[:2], 5))
        inputs = u.astype(jnp.complex64) @ drive.T
        states = lax.associative_scan(lambda s, t: (t[0] * s[0], t[0] * s[1] + t[1]), (decays, inputs), axis=1)[1]
        return jax.nn.gelu((states @ c.T).real + p["d"] * u) @ p["dec"]

    params = shapes(enc=(3, 6), lam_re=5, lam_im=5, step=5, b=(5, 6, 2), c=(6, 5, 2), d=6, dec=(6, 4))
    return apply, params, (array(2, 7, 3),)


@zoo_model(truth={"pair": "linear 0 1 > 2", "g": "gain > 0", "b": "bias > 0"} | LINEAR)
def outer_product_mean():
    """Evoformer: a layer of the products of two vectors, summed over sequences; then pairs are normalised."""

    def apply(p, m, z):
        z = z + jnp.einsum("sia,sjb,abc->ijc", m @ p["left"], m @ p["right"], p["pair"]) / m.shape[0]
        h = rms(z) * p["g"] + p["b"]
        rows, columns = jax.nn.sigmoid(h @ p["gate"]) * (h @ p["rows"]), h @ p["columns"]
        return z + rms(jnp.einsum("ikc,jkc->ijc", rows, columns)) @ p["out"]

    params = shapes(left=(6, 4), right=(6, 3), pair=(4, 3, 5), g=5, b=5, gate=(5, 7), rows=(5, 7), columns=(5, 7))
    return apply, params | shapes(out=(7, 5)), (array(4, 7, 6), array(7, 7, 5))


@zoo_model(truth={"scale": "gain > 0 1", "shift|cls": "positional 0 > 1"} | LINEAR)
def tokens_of_numbers():
    """FT-Transformer: every column of a table of numbers has a vector that it scales."""

    def apply(p, x):
        z = x[..., None] * p["scale"] + p["shift"]
        z = jnp.concatenate([jnp.broadcast_to(p["cls"], (x.shape[0], 1, 12)), z], 1)
        z = z + jax.nn.softmax(z @ p["q"] @ (z @ p["k"]).mT) @ (z @ p["v"])
        return jax.nn.relu(z[:, 0]) @ p["head"]

    params = shapes(scale=(2, 12), shift=(2, 12), cls=(1, 12), q=(12, 5), k=(12, 5), v=(12, 12), head=(12, 2))
    return apply, params, (array(3, 2),)


@zoo_model(truth={"w0": "gain > 1", "w1": "linear 1 > 2", "w2": "linear 1 >", "b.": "bias > 1", "b": "bias >"})
def additive_model():
    """A network for each column of a table of numbers."""

    def apply(p, x):
        h = jax.nn.relu(x[..., None] * p["w0"] + p["b0"])
        h = jax.nn.relu(jnp.einsum("bfh,fhk->bfk", h, p["w1"]) + p["b1"])
        return jnp.einsum("bfk,fk->bf", h, p["w2"]).sum(-1) + p["b"]

    return apply, shapes(w0=(5, 8), b0=(5, 8), w1=(5, 8, 4), b1=(5, 4), w2=(5, 4), b=()), (array(6, 5),)


@zoo_model(truth={"trans": "unknown", "start|end|b": "bias > 0", "emb": "embedding 0 > 1"} | LINEAR)
def conditional_random_field():
    """Entries of what is added to all scores are looked up, for the score of the right tags."""

    def apply(p, x, tags):
        e = jnp.tanh(p["emb"][x]) @ p["w"] + p["b"]
        score = (
            jnp.take_along_axis(e, tags[..., None], 2)[..., 0].sum(1) + p["start"][tags[:, 0]] + p["end"][tags[:, -1]]
        )
        score = score + p["trans"][tags[:, :-1], tags[:, 1:]].sum(1)

        def step(alpha, e):
            return jax.nn.logsumexp(alpha[:, :, None] + p["trans"], axis=1) + e, None

        alpha, _ = lax.scan(step, p["start"] + e[:, 0], e[:, 1:].swapaxes(0, 1))
        return jax.nn.logsumexp(alpha + p["end"], -1) - score

    return apply, shapes(emb=(20, 6), w=(6, 4), b=4, trans=(4, 4), start=4, end=4), (tokens(2, 7), tokens(2, 7))


@zoo_model(truth={"emb|r.": "embedding 0 > 1"} | LINEAR)
def relative_keys_and_values():
    """Tables looked up by clipped distances, contracted with queries and averaged with the attention's weights."""

    def apply(p, x):
        x = p["emb"][x]
        q, k, v = ((x @ p[name]).reshape(*x.shape[:2], 2, 3) for name in ("wq", "wk", "wv"))
        at = jnp.arange(x.shape[1])
        distance = jnp.clip(at - at[:, None], -2, 2) + 2
        scores = jnp.einsum("bihd,bjhd->bhij", q, k) + jnp.einsum("bihd,ijd->bhij", q, p["rk"][distance])
        weights = jax.nn.softmax(scores)
        y = jnp.einsum("bhij,bjhd->bihd", weights, v) + jnp.einsum("bhij,ijd->bihd", weights, p["rv"][distance])
        return y.reshape(x.shape) @ p["wo"]

    params = shapes(emb=(11, 6), rk=(5, 3), rv=(5, 3), wq=(6, 6), wk=(6, 6), wv=(6, 6), wo=(6, 6))
    return apply, params, (tokens(2, 7),)


@zoo_model(truth={"cls|far": "bias > 0", "emb": "embedding 0 > 1"} | LINEAR)
def written_into_places():
    """A class token set at the first place, and what is added to all scores with it (Graphormer)."""

    def apply(p, x):
        x = jnp.pad(p["emb"][x], ((0, 0), (1, 0), (0, 0))).at[:, 0].set(p["cls"])
        q, k, v = ((x @ p[name]).reshape(*x.shape[:2], 2, 3) for name in ("q", "k", "v"))
        scores = jnp.einsum("bihd,bjhd->bijh", q, k).at[:, 0].add(p["far"]).at[:, 1:, 0].add(p["far"])
        return jnp.einsum("bijh,bjhd->bihd", jax.nn.softmax(scores, 2), v).reshape(x.shape)[:, 0] @ p["o"]

    return apply, shapes(emb=(11, 6), cls=6, far=2, q=(6, 6), k=(6, 6), v=(6, 6), o=(6, 3)), (tokens(2, 5),)


@zoo_model(truth={"tables": "embedding 1 > 2", "b": "bias > 0"} | LINEAR)
def stack_of_tables():
    """A table for each column, all in one array; what is looked up stands beside numbers."""

    def apply(p, idx, x):
        looked_up = jax.vmap(lambda table, i: table[i], in_axes=(0, 1), out_axes=1)(p["tables"], idx)
        h = jnp.concatenate([looked_up.reshape(idx.shape[0], -1), x], -1)
        return jax.nn.relu(h @ p["w"] + p["b"]) @ p["o"]

    return apply, shapes(tables=(3, 10, 4), w=(17, 6), b=6, o=(6, 2)), (tokens(7, 3), array(7, 5))


@zoo_model(truth={"folded": "unknown", "w": "linear 0 > 1"})
def slices_joined_along_the_other_axis():
    """The matrix that data meet has axes that the parameter does not have."""

    def apply(p, x):
        left, right = jnp.split(p["folded"], 2, axis=1)
        return jax.nn.relu(x @ jnp.concatenate([left, right], 0)) @ p["w"]

    return apply, shapes(folded=(4, 6), w=(3, 2)), (array(5, 8),)


@zoo_model(truth=LINEAR)
def blocks_put_back():
    """A matrix that is cut into four blocks, one of them scaled, and put together again."""

    def apply(p, x):
        (a, b), (c, d) = (jnp.split(half, 2, axis=1) for half in jnp.split(p["w0"], 2, axis=0))
        return jax.nn.relu(x @ jnp.block([[a, 0.5 * b], [c, d]])) @ p["w1"]

    return apply, shapes(w0=(4, 6), w1=(6, 2)), (array(5, 4),)
