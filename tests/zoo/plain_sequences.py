"""Plain JAX: long sequences, as the published code writes them."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, zoo_model
from tests.zoo.plain import norm, rms, shapes

LINEAR = {r"[\w/]*": "linear 0 > 1"}


@zoo_model(
    truth={"[BC]/.*": "linear 1 > 0", "Lambda/.*|log_step|D": "gain > 0", "norm/g": "gain > 0", "norm/b": "bias > 0"}
    | LINEAR
)
def s5():
    """A state space with several inputs, run by an associative scan: complex matrices in real parts."""

    def apply(p, u):
        lam = -jnp.exp(p["Lambda"]["re"]) + 1j * p["Lambda"]["im"]
        step = jnp.exp(p["log_step"])
        b = p["B"]["re"] + 1j * p["B"]["im"]
        c = p["C"]["re"] + 1j * p["C"]["im"]
        lam_bar = jnp.exp(lam * step)
        b_bar = ((lam_bar - 1) / lam)[:, None] * b

        def ssm(u):
            drive = jax.vmap(lambda u: b_bar @ u)(u)
            decay = lam_bar * jnp.ones((u.shape[0], 1))

            def combine(one, other):
                return one[0] * other[0], other[0] * one[1] + other[1]

            _, xs = lax.associative_scan(combine, (decay, drive))
            return jax.vmap(lambda x: (c @ x).real)(xs)

        def one(u):
            y = norm(u, p["norm"]["g"], p["norm"]["b"])
            y = jax.nn.gelu(ssm(y) + p["D"] * y)
            return u + y * jax.nn.sigmoid(y @ p["gate"])

        return jax.vmap(one)(u @ p["in"]) @ p["out"]

    params = {"B": shapes(re=(6, 8), im=(6, 8)), "C": shapes(re=(8, 6), im=(8, 6)), "Lambda": shapes(re=6, im=6)}
    params |= shapes(log_step=6, D=8, gate=(8, 8), out=(8, 5)) | {"in": array(4, 8), "norm": shapes(g=8, b=8)}
    return apply, params, (array(2, 7, 4),)


@zoo_model(truth={"gn": "gain > 0", "[qkv]": "linear 0 > 1 2", "o": "linear 0 > 1"} | LINEAR)
def retnet():
    """Retention in parallel: decays that each head has for itself, a normalisation of each head, a gate."""
    h = 3

    def apply(p, x):
        q, k, v = (jnp.einsum("btd,dhc->bhtc", x, p[n]) for n in "qkv")
        t = x.shape[1]
        gamma = 1 - 2.0 ** (-5 - jnp.arange(h))
        distance = jnp.arange(t)[:, None] - jnp.arange(t)
        decay = jnp.where(distance >= 0, gamma[:, None, None] ** jnp.maximum(distance, 0), 0)
        y = jnp.einsum("bhts,bhsc->bhtc", jnp.einsum("bhtc,bhsc->bhts", q, k) * decay, v)
        y = y.transpose(0, 2, 1, 3)
        y = rms(y).reshape(*x.shape[:2], -1) * p["gn"]
        return (jax.nn.silu(x @ p["g"]) * y) @ p["o"]

    return apply, shapes(q=(10, h, 4), k=(10, h, 4), v=(10, h, 5), g=(10, 15), gn=15, o=(15, 10)), (array(2, 7, 10),)


@zoo_model(truth={"gk1": "linear 0 > 1", "gk2": "linear 0 > 1", "gkb": "bias > 0", "gn": "gain > 0"} | LINEAR)
def gated_linear_attention():
    """Gates of keys by a layer in two factors, a state that is carried, a normalisation of each head."""
    h, c = 2, 4

    def apply(p, x):
        b, t, _ = x.shape
        q, k, v = ((x @ p[n]).reshape(b, t, h, c) for n in "qkv")
        g = jax.nn.log_sigmoid((x @ p["gk1"]) @ p["gk2"] + p["gkb"]).reshape(b, t, h, c) / 16

        def step(s, now):
            q, k, v, g = now
            s = s * jnp.exp(g)[..., None] + k[..., :, None] * v[..., None, :]
            return s, jnp.einsum("bhc,bhce->bhe", q, s)

        parts = tuple(jnp.moveaxis(z, 1, 0) for z in (q, k, v, g))
        _, y = lax.scan(step, jnp.zeros((b, h, c, c)), parts)
        y = rms(jnp.moveaxis(y, 0, 1)) * p["gn"]
        return (y.reshape(b, t, -1) * jax.nn.silu(x @ p["gate"])) @ p["o"]

    params = shapes(q=(10, 8), k=(10, 8), v=(10, 8), gk1=(10, 3), gk2=(3, 8), gkb=8, gn=4, gate=(10, 8), o=(8, 10))
    return apply, params, (array(2, 7, 10),)


@zoo_model(
    truth={
        r"mu/\w": "gain > 0",
        r"[wav]0": "bias > 0",
        "r_k": "linear 1 >",
        "k_[ka]": "gain > 0",
        "ln/g": "gain > 0",
        "ln/b": "bias > 0",
    }
    | LINEAR
)
def rwkv_7():
    """Time mixing with a state that forgets along a learned direction; rates and gates by layers in two factors."""
    h, c = 2, 4

    def apply(p, x):
        b, t, d = x.shape
        before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        xr, xw, xk, xv, xa, xg = (x + (before - x) * p["mu"][n] for n in "rwkvag")
        r, k, v = xr @ p["R"], xk @ p["K"], xv @ p["V"]
        w = jnp.exp(-0.606531 * jax.nn.sigmoid(p["w0"] + jnp.tanh(xw @ p["w1"]) @ p["w2"]))
        a = jax.nn.sigmoid(p["a0"] + (xa @ p["a1"]) @ p["a2"])
        g = jax.nn.sigmoid(xg @ p["g1"]) @ p["g2"]
        kk = (k * p["k_k"]).reshape(b, t, h, c)
        kk = kk / jnp.maximum(jnp.linalg.norm(kk, axis=-1, keepdims=True), 1e-6)
        k = k * (1 + (a - 1) * p["k_a"])
        r, w, k, v, a = (z.reshape(b, t, h, c) for z in (r, w, k, v, a))

        def step(s, now):
            r, w, k, v, kk, a = now
            s = s * w[..., None, :] - jnp.einsum("bhij,bhj->bhi", s, kk)[..., None] * (kk * a)[..., None, :]
            s = s + v[..., :, None] * k[..., None, :]
            return s, jnp.einsum("bhij,bhj->bhi", s, r)

        parts = tuple(jnp.moveaxis(z, 1, 0) for z in (r, w, k, v, kk, a))
        _, y = lax.scan(step, jnp.zeros((b, h, c, c)), parts)
        y = jnp.moveaxis(y, 0, 1)
        y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 64e-5)
        y = y.reshape(b, t, d) * p["ln"]["g"] + p["ln"]["b"]
        y = y + ((r * k * p["r_k"]).sum(-1, keepdims=True) * v).reshape(b, t, d)
        return (y * g) @ p["O"]

    d = h * c
    params = shapes(R=(d, d), K=(d, d), V=(d, d), O=(d, d), w0=d, w1=(d, 3), w2=(3, d), a0=d, a1=(d, 3), a2=(3, d))
    params |= shapes(g1=(d, 5), g2=(5, d), k_k=d, k_a=d, r_k=(h, c)) | {"ln": shapes(g=d, b=d)}
    params["mu"] = {n: array(d) for n in "rwkvag"}
    return apply, params, (array(2, 7, d),)


@zoo_model(
    truth={
        "[rx]gate/w": "linear 1 > 2",
        "[rx]gate/b": "bias > 1",
        "a": "gain > 0",
        "conv/w": "depthwise > 1 @ 0 / 8",
        "conv/b|.*/bias": "bias > 0",
        "scale": "gain > 0",
    }
    | LINEAR
)
def griffin():
    """A gated recurrence with block-diagonal gates, after a convolution of four taps that is written out."""
    h, c = 2, 4

    def blocks(p, x):
        y = jnp.einsum("...hi,hij->...hj", x.reshape(*x.shape[:-1], h, c), p["w"]) + p["b"]
        return y.reshape(x.shape)

    def recur(p, x):
        r, i = jax.nn.sigmoid(blocks(p["rgate"], x)), jax.nn.sigmoid(blocks(p["xgate"], x))
        log_a = -8.0 * r * jax.nn.softplus(p["a"])
        a, m = jnp.exp(log_a), jnp.sqrt(1 - jnp.exp(2 * log_a))

        def step(s, now):
            s = now[0] * s + now[1]
            return s, s

        inputs = (jnp.moveaxis(a, 1, 0), jnp.moveaxis(m * i * x, 1, 0))
        return jnp.moveaxis(lax.scan(step, jnp.zeros(x[:, 0].shape), inputs)[1], 0, 1)

    def apply(p, x):
        y = rms(x) * (1 + p["scale"])
        gate = jax.nn.gelu(y @ p["gate"] + p["gateb"]["bias"])
        z = y @ p["in"] + p["inb"]["bias"]
        padded = jnp.pad(z, ((0, 0), (3, 0), (0, 0)))
        z = sum(padded[:, i : i + z.shape[1]] * p["conv"]["w"][i] for i in range(4)) + p["conv"]["b"]
        return x + (recur(p, z) * gate) @ p["out"]

    params = shapes(a=8, gate=(10, 8), out=(8, 10), scale=10) | {"in": array(10, 8)}
    params |= {n: shapes(w=(h, c, c), b=(h, c)) for n in ("rgate", "xgate")}
    params |= {"conv": shapes(w=(4, 8), b=8), "gateb": shapes(bias=8), "inb": shapes(bias=8)}
    return apply, params, (array(2, 7, 10),)


@zoo_model(
    truth={
        r"[ifzo]": "linear 0 > 1 2",
        r"r[ifzo]": "linear 1 > 2",
        r"b[ifzo]": "bias > 0 1",
        "gn": "gain > 0",
        "out": "linear 0 > 1",
        "[qkv]": "linear 1 > 2",
        "mb[if]": "bias > 0",
        "m[if]": "linear 0 > 1",
        "up|down": "linear 0 > 1",
        "skip": "gain > 0",
    }
)
def xlstm():
    """A scalar memory with recurrent weights of each head, then a matrix memory with exponential gates."""
    h, c = 2, 4

    def scalar(p, x):
        b = x.shape[0]

        def step(carry, now):
            y, cell, n, m = carry
            i, f, z, o = (now[g] + jnp.einsum("bhc,hce->bhe", y, p["r" + g]) + p["b" + g] for g in "ifzo")
            top = jnp.maximum(jax.nn.log_sigmoid(f) + m, i)
            i, f = jnp.exp(i - top), jnp.exp(jax.nn.log_sigmoid(f) + m - top)
            cell, n = f * cell + i * jnp.tanh(z), f * n + i
            y = jax.nn.sigmoid(o) * cell / jnp.maximum(n, 1)
            return (y, cell, n, top), y

        inputs = {g: jnp.einsum("btd,dhc->tbhc", x, p[g]) for g in "ifzo"}
        zero = jnp.zeros((b, h, c))
        y = jnp.moveaxis(lax.scan(step, (zero, zero, zero, zero), inputs)[1], 0, 1)
        return rms(y).reshape(b, x.shape[1], -1) * p["gn"]

    def matrix(p, x):
        b, t, _ = x.shape
        u, gate = jnp.split(x @ p["up"], 2, -1)
        heads = u.reshape(b, t, h, c)
        q, k, v = (jnp.einsum("bthc,hce->bthe", heads, p[n]) for n in "qkv")
        i, f = u @ p["mi"] + p["mbi"], jax.nn.log_sigmoid(u @ p["mf"] + p["mbf"])

        def step(carry, now):
            memory, n = carry
            q, k, v, i, f = now
            i, f = jnp.exp(i)[..., None], jnp.exp(f)[..., None]
            memory = f[..., None] * memory + i[..., None] * v[..., :, None] * k[..., None, :]
            n = f * n + i * k
            y = jnp.einsum("bhij,bhj->bhi", memory, q)
            return (memory, n), y / jnp.maximum(jnp.abs((n * q).sum(-1, keepdims=True)), 1)

        start = (jnp.zeros((b, h, c, c)), jnp.zeros((b, h, c)))
        y = lax.scan(step, start, tuple(jnp.moveaxis(z, 1, 0) for z in (q, k, v, i, f)))[1]
        y = jnp.moveaxis(y, 0, 1).reshape(b, t, -1)
        return ((y + p["skip"] * u) * jax.nn.silu(gate)) @ p["down"]

    def apply(p, x):
        x = x + scalar(p, x) @ p["out"]
        return x + matrix(p, rms(x))

    params = {g: array(10, h, c) for g in "ifzo"} | {"r" + g: array(h, c, c) for g in "ifzo"}
    params |= {"b" + g: array(h, c) for g in "ifzo"} | {n: array(h, c, c) for n in "qkv"}
    params |= shapes(gn=8, out=(8, 10), up=(10, 16), down=(8, 10), skip=8, mi=(8, h), mf=(8, h), mbi=h, mbf=h)
    return apply, params, (array(2, 7, 10),)


@zoo_model(
    truth={
        "w1": "linear 1 > 2",
        "b1": "bias > 1",
        "ln/g": "gain > 1",
        "ln/b": "bias > 1",
        "lr": "linear 0 > 1",
        "lrb": "bias > 0",
        "[qkv]": "linear 0 > 1 2",
        "o": "linear 0 > 1",
    }
)
def layers_trained_at_test_time():
    """TTT: a linear layer of each head that learns to make values of keys, with rates from data."""
    h, c = 2, 4

    def ln(p, x):
        x = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * p["g"] + p["b"]

    def apply(p, x):
        q, k, v = (jnp.einsum("btd,dhc->bhtc", x, p[n]) for n in "qkv")
        rate = jax.nn.sigmoid(x @ p["lr"] + p["lrb"]).transpose(0, 2, 1)

        def head(w, b, g, q, k, v, rate):
            def loss(wb, k, v):
                return 0.5 * ((ln(g, k @ wb[0] + wb[1]) - (v - k)) ** 2).sum()

            def step(wb, now):
                q, k, v, rate = now
                dw, db = jax.grad(loss)(wb, k, v)
                w, b = wb[0] - rate * dw, wb[1] - rate * db
                return (w, b), q + ln(g, q @ w + b)

            return lax.scan(step, (w, b), (q, k, v, rate))[1]

        over_heads = jax.vmap(head)
        y = jax.vmap(lambda *a: over_heads(p["w1"], p["b1"], p["ln"], *a))(q, k, v, rate)
        return y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1) @ p["o"]

    params = shapes(w1=(h, c, c), b1=(h, c), lr=(10, h), lrb=h, q=(10, h, c), k=(10, h, c), v=(10, h, c), o=(8, 10))
    return apply, params | {"ln": shapes(g=(h, c), b=(h, c))}, (array(2, 7, 10),)
