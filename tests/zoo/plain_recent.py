"""Plain JAX: codebooks, latents and experts in the forms that models of the last years have them."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, zoo_model
from tests.zoo.plain import shapes
from tests.zoo.plain_published import LINEAR

X = array(2, 7, 6)
CODES = {"c": "embedding 0 > 1"} | LINEAR
CODEBOOK = shapes(e=(6, 4), c=(9, 4), d=(4, 6))


def normalised(x):
    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def distances(z, codes):
    return (z**2).sum(-1, keepdims=True) - 2 * z @ codes.T + (codes**2).sum(-1)


def straight_through(z, q):
    return z + lax.stop_gradient(q - z)


def reconstructed(p, x):
    """The loss of an autoencoder through a codebook: of its output, of the codes, and of what is committed to them."""
    z = x @ p["e"]
    q = p["c"][distances(z, p["c"]).argmin(-1)]
    codes = ((lax.stop_gradient(z) - q) ** 2).mean()
    commitment = ((z - lax.stop_gradient(q)) ** 2).mean()
    return ((straight_through(z, q) @ p["d"] - x) ** 2).mean() + codes + commitment


@zoo_model(truth=CODES)
def gradient_of_an_autoencoder_through_a_codebook():
    return jax.grad(reconstructed), CODEBOOK, (X,)


@zoo_model(truth=CODES)
def codebook_that_no_gradient_reaches():
    """The codes are averages, which another loop keeps."""

    def apply(p, x):
        z, codes = (y / jnp.linalg.norm(y, axis=-1, keepdims=True) for y in (x @ p["e"], p["c"]))
        q = codes[(z @ codes.T).argmax(-1)]
        return straight_through(z, q) @ p["d"], ((z - lax.stop_gradient(q)) ** 2).mean()

    return apply, CODEBOOK, (X,)


@zoo_model(truth={"c": "embedding 1 > 2"} | LINEAR)
def codebooks_of_what_is_left():
    def apply(p, x):
        z = left = x @ p["e"]
        for codes in p["c"]:
            left = left - lax.stop_gradient(codes[distances(left, codes).argmin(-1)])
        return straight_through(z, z - left) @ p["d"]

    return apply, CODEBOOK | shapes(c=(3, 9, 4)), (X,)


@zoo_model(truth=CODES)
def codes_as_one_hot_vectors_of_lengths():
    def apply(p, x):
        z = x @ p["e"]
        nearest = jnp.linalg.norm(z[..., None, :] - p["c"], axis=-1).argmin(-1)
        return straight_through(z, jax.nn.one_hot(nearest, 9) @ p["c"]) @ p["d"]

    return apply, CODEBOOK, (X,)


LATENTS = shapes(q=(6, 2, 3), down=(6, 4), uk=(4, 2, 3), uv=(4, 2, 3), o=(2, 3, 6))


@zoo_model(truth={"q|u.": "linear 0 > 1 2", "o": "linear 0 1 > 2"} | LINEAR)
def latent_attention_with_absorbed_kernels():
    """Queries meet the kernels of keys, and means of latents those of values: neither keys nor values are computed."""

    def apply(p, x, cache):
        latents = jnp.concatenate([cache, x @ p["down"]], 1)
        q = jnp.einsum("bthe,che->bthc", jnp.einsum("btd,dhe->bthe", x, p["q"]), p["uk"])
        weights = jax.nn.softmax(jnp.einsum("bthc,bkc->bhtk", q, latents))
        y = jnp.einsum("bhtk,bkc->bthc", weights, latents)
        return jnp.einsum("bthe,hed->btd", jnp.einsum("bthc,che->bthe", y, p["uv"]), p["o"])

    return apply, LATENTS, (X, array(2, 5, 4))


@zoo_model(truth={"ukv": "linear 0 > 1 2"} | LINEAR)
def latent_attention_with_an_absorbed_kernel_of_both():
    def apply(p, x):
        latents, q = x @ p["down"], (x @ p["q"]).reshape(2, 7, 2, 4)
        weights = jax.nn.softmax(jnp.einsum("bqhe,che,bkc->bhqk", q, p["ukv"][..., :4], latents))
        y = jnp.einsum("bhqk,bkc->bqhc", weights, latents)
        return jnp.einsum("bqhc,che->bqhe", y, p["ukv"][..., 4:]).reshape(2, 7, 6) @ p["o"]

    return apply, shapes(q=(6, 8), down=(6, 4), ukv=(4, 2, 7), o=(6, 6)), (X,)


@zoo_model(truth={"k.": "linear 1 > 0", "down|up": "embedding 0 > 1"} | LINEAR)
def a_million_experts():
    """Experts of one hidden unit, whose two vectors product keys look up."""

    def apply(p, x):
        q1, q2 = jnp.split(x @ p["q"], 2, -1)
        (s1, i1), (s2, i2) = lax.top_k(q1 @ p["k1"].T, 2), lax.top_k(q2 @ p["k2"].T, 2)
        scores = (s1[..., None] + s2[..., None, :]).reshape(*x.shape[:-1], 4)
        where = (i1[..., None] * 5 + i2[..., None, :]).reshape(*x.shape[:-1], 4)
        h = jax.nn.gelu(jnp.einsum("btd,btkd->btk", x, p["down"][where])) * jax.nn.softmax(scores)
        return jnp.einsum("btk,btkd->btd", h, p["up"][where])

    return apply, shapes(q=(6, 8), k1=(5, 4), k2=(5, 4), down=(25, 6), up=(25, 6)), (X,)


@zoo_model(truth={"b.": "bias > 0", "g": "gain > 0"} | LINEAR)
def memory_that_learns_as_it_reads():
    """A network is trained on each token: with a momentum, a rate and a decay that the data say, from what it is."""

    def remembered(w, k):
        return k + normalised(jax.nn.gelu(k @ w["w1"] + w["b1"]) @ w["w2"]) * w["g"] + w["b2"]

    def apply(p, x):
        memory = {name: p[name] for name in ("w1", "b1", "w2", "g", "b2")}

        def read(q, k, v, rates):
            def step(state, token):
                memory, momentum = state
                q, k, v, (decay, rate, kept) = token
                gradient = jax.grad(lambda memory: ((remembered(memory, k) - v) ** 2).sum())(memory)
                momentum = jax.tree.map(lambda m, g: kept * m - rate * g, momentum, gradient)
                memory = jax.tree.map(lambda w, m: (1 - decay) * w + m, memory, momentum)
                return (memory, momentum), remembered(memory, q)

            return lax.scan(step, (memory, jax.tree.map(jnp.zeros_like, memory)), (q, k, v, rates))[1]

        q, k, v = (x @ p[name] for name in "qkv")
        return jax.vmap(read)(q, k, v, jax.nn.sigmoid(x @ p["rates"])) @ p["o"]

    return (
        apply,
        shapes(**dict.fromkeys("qkv", (6, 4)), rates=(6, 3), w1=(4, 8), b1=8, w2=(8, 4), g=4, b2=4, o=(4, 6)),
        (X,),
    )
