"""Plain JAX: language, as the published code writes them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import norm, rms, shapes

LINEAR = {r"[\w/]*": "linear 0 > 1"}


@zoo_model(
    truth={
        "words": "tied 0 > 1",
        "types|places": "embedding 0 > 1",
        r"g\d?": "gain > 0",
        r".*b\d?": "bias > 0",
        "outb": "bias > 0",
    }
    | LINEAR
)
def albert():
    """A table in two factors, one layer that is used again and again, and a head that shares the table."""

    def block(p, x):
        n, t = x.shape[:2]
        q, k, v = ((x @ p[w] + p[w + "b"]).reshape(n, t, 2, -1) for w in "qkv")
        w = jax.nn.softmax(jnp.einsum("nthc,nshc->nhts", q, k))
        x = norm(x + jnp.einsum("nhts,nshc->nthc", w, v).reshape(x.shape) @ p["o"] + p["ob"], p["g1"], p["b1"])
        return norm(x + jax.nn.gelu(x @ p["up"] + p["upb"]) @ p["down"] + p["downb"], p["g2"], p["b2"])

    def apply(p, ids, kinds):
        e = p["words"][ids] + p["types"][kinds] + p["places"][jnp.arange(ids.shape[1])]
        x = norm(e, p["g0"], p["b0"]) @ p["project"] + p["projectb"]
        x = lax.fori_loop(0, 3, lambda i, x: block(p, x), x)
        y = norm(jax.nn.gelu(x @ p["head"] + p["headb"]), p["g3"], p["b3"])
        return y @ p["words"].T + p["outb"]

    params = shapes(
        words=(17, 5), types=(2, 5), places=(9, 5), g0=5, b0=5, project=(5, 8), projectb=8, head=(8, 5), headb=5
    )
    params |= shapes(
        q=(8, 8), qb=8, k=(8, 8), kb=8, v=(8, 8), vb=8, o=(8, 8), ob=8, up=(8, 12), upb=12, down=(12, 8), downb=8
    )
    params |= shapes(g1=8, b1=8, g2=8, b2=8, g3=5, b3=5, outb=17)
    return apply, params, (tokens(2, 6), tokens(2, 6))


@zoo_model(
    truth={
        "words": "embedding 0 > 1",
        "rel": "positional 0 > 1",
        "[qkv]b": "bias > 0",
        "g": "gain > 0",
        "b": "bias > 0",
    }
    | LINEAR
)
def deberta():
    """Content and relative places are disentangled: places share the kernels of queries and keys."""

    def apply(p, ids):
        x = p["words"][ids]
        n, t = x.shape[:2]

        def heads(z):
            return z.reshape(*z.shape[:-1], 2, -1)

        q, k, v = (heads(x @ p[w] + p[w + "b"]) for w in "qkv")
        rel = norm(p["rel"], p["g"], p["b"])
        qr, kr = (heads(rel @ p[w] + p[w + "b"]) for w in "qk")
        apart = jnp.clip(jnp.arange(t)[:, None] - jnp.arange(t) + 4, 0, 7)
        cc = jnp.einsum("nthc,nshc->nhts", q, k)
        cp = jnp.einsum("nthc,rhc->nhtr", q, kr)
        cp = jnp.take_along_axis(cp, jnp.broadcast_to(apart, (n, 2, t, t)), -1)
        pc = jnp.einsum("nshc,rhc->nhsr", k, qr)
        pc = jnp.take_along_axis(pc, jnp.broadcast_to(apart, (n, 2, t, t)), -1).swapaxes(-1, -2)
        w = jax.nn.softmax((cc + cp + pc) / 6**0.5)
        return jnp.einsum("nhts,nshc->nthc", w, v).reshape(n, t, -1) @ p["o"]

    params = shapes(words=(17, 8), rel=(8, 8), g=8, b=8, q=(8, 6), qb=6, k=(8, 6), kb=6, v=(8, 6), vb=6, o=(6, 5))
    return apply, params, (tokens(2, 6),)


@zoo_model(
    truth={
        "words": "tied 0 > 1",
        "per_layer": "embedding 0 > 1 2",
        "scale|g.": "gain > 0",
        "pg": "gain > 1",
        "L/.*": "linear 1 > 2",
        "model": "linear 0 > 1 2",
        "coef": "gain > 1",
    }
    | LINEAR
)
def gemma_3n():
    """A small embedding of each token for every layer, gated and projected into the stream; the table is the head."""

    def apply(p, ids):
        x = p["words"][ids] * 8**0.5
        per = p["per_layer"][ids] * 3**0.5
        model = rms(jnp.einsum("btd,dlc->btlc", x, p["model"]) * 8**-0.5) * (1 + p["gp"])
        per = (model + per) * 2**-0.5

        def layer(x, now):
            w, per = now
            y = rms(x) * (1 + w["g"])
            x = x + (jax.nn.gelu(y @ w["gate"]) * (y @ w["up"])) @ w["down"]
            z = jax.nn.gelu(x @ w["per_gate"]) * per
            return x + rms(z @ w["per_out"]), None

        w = p["L"] | {"g": p["pg"]}
        x, _ = lax.scan(layer, x, (w, jnp.moveaxis(per, 2, 0)))
        return jnp.tanh((rms(x) * (1 + p["scale"])) @ p["words"].T / 30) * 30

    layers = shapes(gate=(4, 8, 12), up=(4, 8, 12), down=(4, 12, 8), per_gate=(4, 8, 3), per_out=(4, 3, 8))
    params = {"L": layers} | shapes(words=(17, 8), per_layer=(17, 4, 3), model=(8, 4, 3), gp=3, pg=(4, 8), scale=8)
    return apply, params, (tokens(2, 6),)


@zoo_model(
    truth={
        "words": "tied 0 > 1",
        r"\w+/g\d?": "gain > 0",
        "[qk]n": "gain > 0",
        "mtp/g.": "gain > 0",
        "uq|uk|uv": "linear 0 > 1 2",
        "o": "linear 0 1 > 2",
        "g.": "gain > 0",
    }
    | LINEAR
)
def multi_token_prediction():
    """DeepSeek: latent attention with rotary parts apart, and a second head that reads the next token's embedding."""
    h, c, r = 2, 4, 2

    def rope(x):
        t = x.shape[1]
        a = jnp.arange(t)[:, None] / 100.0 ** (jnp.arange(r // 2) / r)
        a = a[:, None] if x.ndim == 4 else a
        one, two = jnp.split(x, 2, -1)
        return jnp.concatenate([one * jnp.cos(a) - two * jnp.sin(a), one * jnp.sin(a) + two * jnp.cos(a)], -1)

    def attend(p, x):
        q = jnp.einsum("btd,dhc->bthc", rms(x @ p["dq"]) * p["qn"], p["uq"])
        q, qr = q[..., :c], rope(q[..., c:])
        kv = x @ p["dkv"]
        latent, kr = rms(kv[..., :5]) * p["kn"], rope(kv[..., 5:])
        k = jnp.einsum("btl,lhc->bthc", latent, p["uk"])
        v = jnp.einsum("btl,lhc->bthc", latent, p["uv"])
        s = jnp.einsum("bthc,bshc->bhts", q, k) + jnp.einsum("bthc,bsc->bhts", qr, kr)
        s = jnp.where(np.tri(x.shape[1], dtype=bool), s, -1e9)
        return jnp.einsum("bhts,bshc,hcd->btd", jax.nn.softmax(s), v, p["o"])

    def apply(p, ids):
        e = p["words"][ids]
        x = e + attend(p, rms(e) * p["g0"])
        logits = (rms(x) * p["g1"]) @ p["words"].T
        m = jnp.concatenate([rms(x[:, :-1]) * p["mtp"]["gh"], rms(e[:, 1:]) * p["mtp"]["ge"]], -1) @ p["mtp"]["join"]
        m = m + jax.nn.silu(m @ p["mtp"]["up"]) @ p["mtp"]["down"]
        return logits, (rms(m) * p["g1"]) @ p["words"].T

    params = shapes(
        words=(17, 8),
        g0=8,
        g1=8,
        dq=(8, 6),
        qn=6,
        uq=(6, h, c + r),
        dkv=(8, 5 + r),
        kn=5,
        uk=(5, h, c),
        uv=(5, h, 3),
        o=(h, 3, 8),
    )
    params = params | {"mtp": shapes(gh=8, ge=8, join=(16, 8), up=(8, 12), down=(12, 8))}
    return apply, params, (tokens(2, 6),)


@zoo_model(
    truth={
        "words": "embedding 0 > 1",
        "router": "linear 0 > 1",
        "w[io]": "linear 1 > 2",
        "cluster": "linear 0 > 1",
        r"tail\d/\d": "linear 0 > 1",
    }
    | LINEAR
)
def experts_that_choose():
    """Experts choose tokens; a softmax in clusters, whose tails have factors."""

    def apply(p, ids, target):
        x = p["words"][ids].reshape(-1, 8)
        scores = jax.nn.softmax(x @ p["router"])
        gates, picked = lax.top_k(scores.T, 4)
        one = jax.nn.one_hot(picked, len(x))
        e = jnp.einsum("ecn,nd->ecd", one, x)
        e = jnp.einsum("ecf,efd->ecd", jax.nn.relu(jnp.einsum("ecd,edf->ecf", e, p["wi"])), p["wo"])
        x = x + jnp.einsum("ecn,ec,ecd->nd", one, gates, e)
        head = jax.nn.log_softmax(x @ p["cluster"])
        tails = [jax.nn.log_softmax(x @ p[f"tail{i}"]["0"] @ p[f"tail{i}"]["1"]) + head[:, 5 + i, None] for i in (0, 1)]
        log_p = jnp.concatenate([head[:, :5], *tails], -1)
        return -jnp.take_along_axis(log_p, target.reshape(-1, 1), -1).mean()

    params = shapes(words=(17, 8), router=(8, 3), wi=(3, 8, 10), wo=(3, 10, 8), cluster=(8, 7))
    return (
        apply,
        params | {"tail0": {"0": array(8, 4), "1": array(4, 6)}, "tail1": {"0": array(8, 2), "1": array(2, 6)}},
        (tokens(2, 6), tokens(2, 6)),
    )
