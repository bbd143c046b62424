"""Plain JAX: series, tables, tasks and flows, as the published code writes them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import norm, rms, shapes

LINEAR = {r"[\w/]*": "linear 0 > 1"}


@zoo_model(truth={"b.": "bias > 0", "theta.": "linear 0 > 1"} | LINEAR)
def n_beats():
    """Blocks that take what they explain off the series, with polynomials and waves as constant bases."""

    def apply(p, x):
        past, total = x, 0
        t_past, t_next = np.arange(8) / 8, np.arange(4) / 4
        bases = [
            tuple(np.stack([t**i for i in range(3)]).astype(np.float32) for t in (t_past, t_next)),
            tuple(
                np.stack([f(2 * np.pi * k * t) for k in (1, 2) for f in (np.cos, np.sin)]).astype(np.float32)
                for t in (t_past, t_next)
            ),
        ]
        for i, (back, ahead) in enumerate(bases):
            h = jax.nn.relu(past @ p[f"w{i}"] + p[f"b{i}"])
            past = past - (h @ p[f"theta_b{i}"]) @ back
            total = total + (h @ p[f"theta_f{i}"]) @ ahead
        return total + jax.nn.relu(past @ p["w2"] + p["b2"]) @ p["out"]

    params = shapes(w0=(8, 10), b0=10, w1=(8, 10), b1=10, w2=(8, 10), b2=10, out=(10, 4))
    params |= shapes(theta_b0=(10, 3), theta_f0=(10, 3), theta_b1=(10, 4), theta_f1=(10, 4))
    return apply, params, (array(5, 8),)


@zoo_model(
    truth={
        "pos": "positional 0 > 1",
        "g|affine/w": "gain > 0",
        "affine/b|b": "bias > 0",
        "qkv": "linear 0 > 1 2 3",
        "o": "linear 0 1 > 2",
    }
    | LINEAR
)
def patch_tst():
    """Each channel alone: reversible normalisation with a gain of each channel, patches that overlap, a flat head."""

    def apply(p, x):
        mean, std = x.mean(1, keepdims=True), jnp.sqrt(x.var(1, keepdims=True) + 1e-5)
        x = (x - mean) / std * p["affine"]["w"] + p["affine"]["b"]
        patches = jnp.stack([x[:, i : i + 4] for i in range(0, 9, 2)], 1)
        z = jnp.einsum("bntc->bcnt", patches) @ p["embed"] + p["pos"]
        q, k, v = jnp.einsum("bcnd,dshe->sbcnhe", z, p["qkv"])
        w = jax.nn.softmax(jnp.einsum("bcnhe,bcmhe->bchnm", q, k))
        z = z + jnp.einsum("bchnm,bcmhe,hed->bcnd", w, v, p["o"])
        z = norm(z, p["g"], p["b"]).reshape(*z.shape[:2], -1) @ p["head"]
        y = jnp.einsum("bct->btc", z)
        return (y - p["affine"]["b"]) / (p["affine"]["w"] + 1e-10) * std + mean

    params = {"affine": shapes(w=3, b=3)} | shapes(
        embed=(4, 8), pos=(5, 8), qkv=(8, 3, 2, 6), o=(2, 6, 8), g=8, b=8, head=(40, 7)
    )
    return apply, params, (array(2, 12, 3),)


@zoo_model(
    truth={
        "emb": "embedding 0 > 1",
        r".*b\d?": "bias > 0",
        ".*/g": "gain > 0",
        "var": "linear 0 1 > 2",
        "w0|w1": "linear 1 > 2",
        "v.": "bias > 1",
    }
    | LINEAR
)
def temporal_fusion():
    """Gated residual networks choose among variables, each of which has a network of its own."""

    def grn(p, x, context=None):
        h = x @ p["w1"] + p["b1"]
        h = h if context is None else h + context @ p["c"]
        a, gate = jnp.split(jax.nn.elu(h) @ p["w2"] + p["b2"], 2, -1)
        y = (x @ p["skip"] if "skip" in p else x) + a * jax.nn.sigmoid(gate)
        y = y - y.mean(-1, keepdims=True)
        return y * lax.rsqrt((y * y).mean(-1, keepdims=True) + 1e-5) * p["n"]["g"] + p["n"]["b"]

    def apply(p, x, kind):
        s = p["emb"][kind]
        each = [x[..., i, None] @ p[f"x{i}"] + p[f"x{i}b"] for i in range(3)]
        weights = jax.nn.softmax(grn(p["choose"], jnp.concatenate(each, -1), s[:, None]))
        z = jnp.stack([grn(p[f"n{i}"], e) for i, e in enumerate(each)], -2)
        z = (weights[..., None] * z).sum(-2)
        q, k, v = z @ p["q"], z @ p["k"], z @ p["v"]
        q, k = (a.reshape(*a.shape[:2], 2, -1) for a in (q, k))
        w = jax.nn.softmax(jnp.einsum("bthc,bshc->bhts", q, k)).mean(1)
        return (w @ v) @ p["o"] @ p["quantiles"] + p["qb"]

    def net(n_in, n_out, context=None):
        p = shapes(w1=(n_in, 9), b1=9, w2=(9, 2 * n_out), b2=2 * n_out) | {"n": shapes(g=n_out, b=n_out)}
        p |= {} if n_in == n_out else shapes(skip=(n_in, n_out))
        return p | ({} if context is None else shapes(c=(context, 9)))

    params = {"choose": net(18, 3, 5)} | {f"n{i}": net(6, 6) for i in range(3)} | shapes(emb=(7, 5))
    params |= {f"x{i}": array(1, 6) for i in range(3)} | {f"x{i}b": array(6) for i in range(3)}
    params |= shapes(q=(6, 8), k=(6, 8), v=(6, 4), o=(4, 6), quantiles=(6, 3), qb=3)
    return apply, params, (array(2, 5, 3), tokens(2))


@zoo_model(truth={r"tables/\d": "embedding 0 > 1", r".*b\d": "bias > 0"} | LINEAR)
def deep_learning_recommendation():
    """Tables that are summed over bags, and products of all pairs of vectors, by indices of a triangle."""

    def apply(p, x, *bags):
        d = jax.nn.relu(x @ p["w0"] + p["b0"])
        e = [jnp.take(p["tables"][str(i)], bag, axis=0).sum(1) for i, bag in enumerate(bags)]
        z = jnp.stack([d, *e], 1)
        pairs = jnp.einsum("nid,njd->nij", z, z)
        i, j = np.tril_indices(4, -1)
        h = jnp.concatenate([d, pairs[:, i, j]], -1)
        return jax.nn.relu(h @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]

    params = {"tables": {str(i): array(n, 6) for i, n in enumerate((11, 9, 13))}}
    params |= shapes(w0=(5, 6), b0=6, w1=(12, 8), b1=8, w2=(8, 1), b2=1)
    return apply, params, (array(4, 5), tokens(4, 2), tokens(4, 3), tokens(4, 2))


@zoo_model(truth={"bn/g|g\\d": "gain > 0", "bn/b|b\\d": "bias > 0"} | LINEAR)
def tab_net():
    """Steps that attend to features by masks, which a prior scales down, with layers that all steps share."""

    def glu(w, g, b, x):
        h = x @ w
        h = (h - h.mean(0)) * lax.rsqrt(h.var(0) + 1e-5) * g + b
        a, c = jnp.split(h, 2, -1)
        return a * jax.nn.sigmoid(c)

    def sparsemax(z):
        s = -jnp.sort(-z, -1)
        k = jnp.arange(1, z.shape[-1] + 1)
        total = jnp.cumsum(s, -1)
        n = ((1 + k * s) > total).sum(-1, keepdims=True)
        tau = (jnp.take_along_axis(total, n - 1, -1) - 1) / n
        return jnp.maximum(z - tau, 0)

    def apply(p, x):
        x = (x - x.mean(0)) * lax.rsqrt(x.var(0) + 1e-5) * p["bn"]["g"] + p["bn"]["b"]
        prior, total = jnp.ones_like(x), 0
        h = glu(p["shared"], p["g0"], p["b0"], x)
        for i in (1, 2):
            z = h[:, 4:] @ p[f"att{i}"]
            z = (z - z.mean(0)) * lax.rsqrt(z.var(0) + 1e-5) * p[f"g{2 + i}"] + p[f"b{2 + i}"]
            mask = sparsemax(z * prior)
            prior = prior * (1.5 - mask)
            h = glu(p["shared"], p["g0"], p["b0"], mask * x)
            h = (h + glu(p[f"step{i}"], p[f"g{4 + i}"], p[f"b{4 + i}"], h)) * 0.5**0.5
            total = total + jax.nn.relu(h[:, :4])
        return total @ p["out"]

    params = {"bn": shapes(g=6, b=6)} | shapes(
        shared=(6, 18), g0=18, b0=18, att1=(5, 6), att2=(5, 6), step1=(9, 18), step2=(9, 18), out=(4, 3)
    )
    params |= {f"{n}{i}": array(6 if i < 5 else 18) for n in "gb" for i in (3, 4, 5, 6)}
    return apply, params, (array(7, 6),)


@zoo_model(
    truth={"choose": "linear 0 > 1 2", "threshold": "bias > 0 1", "log_t": "gain > 0 1", "response": "linear 0 1 > 2"}
    | LINEAR
)
def oblivious_trees():
    """NODE: features chosen by a softmax of parameters, thresholds, and responses of all leaves of each tree."""

    def apply(p, x):
        chosen = jnp.einsum("nf,ftd->ntd", x, jax.nn.softmax(p["choose"], 0))
        t = (chosen - p["threshold"]) * jnp.exp(-p["log_t"])
        bins = jnp.clip(0.5 * jnp.stack([-t, t], -1) + 0.5, 0, 1)
        codes = (np.arange(8)[:, None] >> np.arange(3)) & 1
        leaves = jnp.stack([bins[..., i, :][..., codes[:, i]] for i in range(3)], -1).prod(-1)
        return jnp.einsum("ntl,tlo->no", leaves, p["response"])

    return apply, shapes(choose=(6, 4, 3), threshold=(4, 3), log_t=(4, 3), response=(4, 8, 2)), (array(7, 6),)


@zoo_model(truth={"b\\d|film/b\\d": "bias > 0"} | LINEAR)
def neural_process():
    """An encoding of a set, whose mean conditions a decoder by scales and shifts; attention from targets to context."""

    def apply(p, xc, yc, xt, yt):
        r = jax.nn.relu(jnp.concatenate([xc, yc], -1) @ p["e0"] + p["b0"]) @ p["e1"]
        s = r.mean(1)
        q, k = xt @ p["q"], xc @ p["k"]
        r = jax.nn.softmax(q @ k.mT) @ r
        scale, shift = jnp.split(jax.nn.relu(s @ p["film"]["w0"] + p["film"]["b0"]) @ p["film"]["w1"], 2, -1)
        h = jax.nn.relu(jnp.concatenate([xt, r], -1) @ p["d0"] + p["b1"])
        h = h * (1 + scale[:, None]) + shift[:, None]
        mean, raw = jnp.split(h @ p["d1"] + p["b2"], 2, -1)
        std = 0.1 + 0.9 * jax.nn.softplus(raw)
        return (0.5 * ((yt - mean) / std) ** 2 + jnp.log(std)).mean()

    params = {"film": shapes(w0=(6, 7), b0=7, w1=(7, 18))} | shapes(
        e0=(3, 8), b0=8, e1=(8, 6), q=(2, 5), k=(2, 5), d0=(8, 9), b1=9, d1=(9, 2), b2=2
    )
    return apply, params, (array(2, 5, 2), array(2, 5, 1), array(2, 4, 2), array(2, 4, 1))


@zoo_model(
    truth={
        r"an\d/log_s": "gain > 0",
        r"an\d/b": "bias > 0",
        r"c\d/[02]/w": "conv 2 > 3 @ 0 1",
        r"c\d/[02]/b": "bias > 0",
        r"c\d/log_s": "gain > 0",
    }
    | LINEAR
)
def glow():
    """Actnorm, an invertible 1x1 convolution whose determinant counts, couplings with a scale that starts at zero."""

    def conv(x, p):
        return lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + p["b"]

    def step(p, i, x):
        x = (x + p[f"an{i}"]["b"]) * jnp.exp(p[f"an{i}"]["log_s"])
        log_det = 16 * p[f"an{i}"]["log_s"].sum()
        w = p[f"w{i}"]
        x = x @ w
        log_det = log_det + 16 * jnp.linalg.slogdet(w)[1]
        a, b = jnp.split(x, 2, -1)
        c = p[f"c{i}"]
        h = conv(jax.nn.relu(conv(a, c["0"])), c["2"]) * jnp.exp(3 * c["log_s"])
        shift, scale = h[..., ::2], jax.nn.sigmoid(h[..., 1::2] + 2)
        return jnp.concatenate([a, (b + shift) * scale], -1), log_det + jnp.log(scale).sum((1, 2, 3))

    def apply(p, x):
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)
        x, one = step(p, 0, x)
        x, two = step(p, 1, x)
        return (-0.5 * x**2).sum((1, 2, 3)) + one + two

    def couple():
        return {"0": shapes(w=(3, 3, 2, 6), b=6), "2": shapes(w=(3, 3, 6, 4), b=4)} | shapes(log_s=4)

    params = {f"an{i}": shapes(b=4, log_s=4) for i in (0, 1)} | {f"w{i}": array(4, 4) for i in (0, 1)}
    return apply, params | {f"c{i}": couple() for i in (0, 1)}, (array(2, 8, 8, 1),)


@zoo_model(truth={"b\\d": "bias > 0", "c": "linear 0 > 1"} | LINEAR)
def masked_autoregressive_flow():
    """Masks of an autoencoder, and splines whose knots data say."""
    degrees = [np.arange(4), np.arange(9) % 3, np.repeat(np.arange(4), 11)]
    m0 = (degrees[0][:, None] <= degrees[1]).astype(np.float32)
    m1 = (degrees[1][:, None] < degrees[2]).astype(np.float32)

    def spline(x, w, h, d):
        w, h = (jnp.pad(jnp.cumsum(jax.nn.softmax(z), -1), ((0, 0), (0, 0), (1, 0))) * 6 - 3 for z in (w, h))
        d = jnp.pad(jax.nn.softplus(d), ((0, 0), (0, 0), (1, 1)), constant_values=1.0)
        k = jnp.clip((x[..., None] >= w).sum(-1, keepdims=True) - 1, 0, 3)

        def at(z, i):
            return jnp.take_along_axis(z, i, -1)[..., 0]

        x0, x1, y0, y1, d0, d1 = at(w, k), at(w, k + 1), at(h, k), at(h, k + 1), at(d, k), at(d, k + 1)
        s = (y1 - y0) / (x1 - x0)
        t = (x - x0) / (x1 - x0)
        u = s + (d0 + d1 - 2 * s) * t * (1 - t)
        y = y0 + (y1 - y0) * (s * t**2 + d0 * t * (1 - t)) / u
        return y, jnp.log(s**2 * (d1 * t**2 + 2 * s * t * (1 - t) + d0 * (1 - t) ** 2) / u**2)

    def apply(p, x, context):
        h = jnp.tanh(x @ (p["w0"] * m0) + p["b0"] + context @ p["c"])
        q = (h @ (p["w1"] * m1) + p["b1"]).reshape(-1, 4, 11)
        y, log_d = spline(x, q[..., :4], q[..., 4:8], q[..., 8:])
        return (-0.5 * y**2 + log_d).sum(-1)

    return apply, shapes(w0=(4, 9), b0=9, c=(3, 9), w1=(9, 44), b1=44), (array(5, 4), array(5, 3))


@zoo_model(
    truth={
        "words": "embedding 0 > 1",
        "table": "embedding 0 > 1",
        "g": "gain > 0",
        "halt": "linear 0 > 1",
        "hb": "bias > 0",
    }
    | LINEAR
)
def adaptive_time():
    """A universal transformer: one layer, as often as each token asks for, with T5's relative places."""

    def apply(p, ids):
        x = p["words"][ids]
        t = ids.shape[1]
        apart = jnp.arange(t)[None] - jnp.arange(t)[:, None]
        bucket = jnp.where(jnp.abs(apart) < 3, jnp.abs(apart), 3) + 4 * (apart > 0)
        bias = p["table"][bucket].transpose(2, 0, 1)

        def cond(carry):
            return jnp.any(carry[1] < 0.99)

        def body(carry):
            x, halted, y = carry
            z = rms(x) * p["g"]
            q, k, v = jnp.split((z @ p["qkv"]).reshape(*x.shape[:2], 2, 12), 3, -1)
            w = jax.nn.softmax(jnp.einsum("nthc,nshc->nhts", q, k) + bias)
            x = x + jnp.einsum("nhts,nshc->nthc", w, v).reshape(*x.shape[:2], 8) @ p["o"]
            h = jax.nn.sigmoid(x @ p["halt"] + p["hb"])[..., 0] * (1 - halted)
            return x, halted + h, y + h[..., None] * x

        start = (x, jnp.zeros(x.shape[:2]), jnp.zeros_like(x))
        return lax.while_loop(cond, body, start)[2] @ p["out"]

    params = shapes(words=(17, 8), table=(8, 2), g=8, qkv=(8, 24), o=(8, 8), halt=(8, 1), hb=1, out=(8, 17))
    return apply, params, (tokens(2, 6),)


@zoo_model(
    truth={
        "emb|bemb": "embedding 0 > 1",
        "num": "gain > 0 1",
        "bias": "positional 0 > 1",
        "cls": "bias > 0",
        "b": "bias > 0",
    }
    | LINEAR
)
def tab_transformer():
    """Numbers scale a vector of each column, categories are looked up in one table; a class token comes last."""

    def apply(p, x, kinds):
        z = x[..., None] * p["num"] + p["bias"][:3]
        e = p["emb"][kinds + np.array([0, 4])] + p["bias"][3:]
        cls = jnp.broadcast_to(p["cls"], (len(x), 1, 8))
        z = jnp.concatenate([z, e, cls], 1)
        w = jax.nn.softmax((z @ p["q"]) @ (z @ p["k"]).mT)
        z = z + (w @ (z @ p["v"])) @ p["o"]
        return jax.nn.relu(z[:, -1]) @ p["head"] + p["b"]

    params = shapes(
        num=(3, 8), bias=(5, 8), emb=(9, 8), cls=8, q=(8, 6), k=(8, 6), v=(8, 6), o=(6, 8), head=(8, 2), b=2
    )
    return apply, params, (array(5, 3), tokens(5, 2))
