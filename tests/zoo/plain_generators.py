"""Plain JAX: models that generate and that see, of the last years, as their published code writes them."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import norm, rms, shapes
from tests.zoo.plain_published import LINEAR


def conv(x, w, stride=1, groups=1, padding="SAME"):
    return lax.conv_general_dilated(
        x, w, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def plain_norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def modulate(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


def attention(q, k, v, n):
    q, k, v = (y.reshape(*y.shape[:2], n, -1) for y in (q, k, v))
    w = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k))
    return jnp.einsum("bhqk,bkhc->bqhc", w, v).reshape(*q.shape[:2], -1)


def waves(t, n):
    angles = t[:, None] * jnp.exp(-jnp.arange(n // 2, dtype=t.dtype))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


@zoo_model(
    truth={
        "patch/w": "conv 2 > 3 @ 0 1",
        "classes": "embedding 0 > 1",
        "pos": "positional 1 > 2",
        r".*b\d?": "bias > 0",
        r".*": "linear 0 > 1",
    }
)
def diffusion_transformer():
    """Shifts, scales and gates of normalised tokens come from the time and the class."""

    def apply(p, x, t, y):
        h = conv(x, p["patch"]["w"], 2, padding="VALID") + p["patch"]["b"]
        h = h.reshape(len(x), -1, 8) + p["pos"]
        c = jax.nn.silu(waves(t, 6) @ p["t1"] + p["tb1"]) @ p["t2"] + p["tb2"] + p["classes"][y]
        for block in p["blocks"]:
            parts = jnp.split(jax.nn.silu(c) @ block["mod"] + block["modb"], 6, -1)
            s1, c1, g1, s2, c2, g2 = parts
            q, k, v = jnp.split(modulate(plain_norm(h), s1, c1) @ block["qkv"] + block["qkvb"], 3, -1)
            h = h + g1[:, None] * (attention(q, k, v, 2) @ block["o"] + block["ob"])
            m = jax.nn.gelu(modulate(plain_norm(h), s2, c2) @ block["up"] + block["upb"])
            h = h + g2[:, None] * (m @ block["down"] + block["downb"])
        shift, scale = jnp.split(jax.nn.silu(c) @ p["mod"] + p["modb"], 2, -1)
        h = modulate(plain_norm(h), shift, scale) @ p["out"] + p["outb"]
        return jnp.einsum("bhwpqc->bhpwqc", h.reshape(-1, 2, 2, 2, 2, 3)).reshape(-1, 4, 4, 3)

    block = shapes(
        mod=(8, 48), modb=48, qkv=(8, 24), qkvb=24, o=(8, 8), ob=8, up=(8, 12), upb=12, down=(12, 8), downb=8
    )
    params = shapes(pos=(1, 4, 8), t1=(6, 8), tb1=8, t2=(8, 8), tb2=8, classes=(5, 8), mod=(8, 16), modb=16, outb=12)
    params |= shapes(out=(8, 12)) | {"patch": shapes(w=(2, 2, 3, 8), b=8), "blocks": [block, block]}
    return apply, params, (array(2, 4, 4, 3), array(2), tokens(2))


@zoo_model(truth={r".*/g[qk]": "gain > 0", r".*b": "bias > 0", r".*": "linear 0 > 1"})
def two_streams_of_modalities():
    """Text and image have layers of their own, and attend together; then one stream has both, in one fused layer."""

    def apply(p, image, text, c):
        streams, qkv = {"i": image, "t": text}, {}
        mods = {s: jnp.split(jax.nn.silu(c) @ p[s]["mod"] + p[s]["modb"], 3, -1) for s in "it"}
        for s, x in streams.items():
            y = modulate(plain_norm(x), *mods[s][:2]) @ p[s]["qkv"] + p[s]["qkvb"]
            q, k, v = jnp.moveaxis(y.reshape(*x.shape[:2], 3, 2, 4), 2, 0)
            qkv[s] = rms(q) * p[s]["gq"], rms(k) * p[s]["gk"], v
        q, k, v = (jnp.concatenate(pair, 1) for pair in zip(qkv["t"], qkv["i"], strict=True))
        w = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k))
        y = jnp.einsum("bhqk,bkhc->bqhc", w, v).reshape(len(c), -1, 8)
        n = text.shape[1]
        for s, part in (("t", y[:, :n]), ("i", y[:, n:])):
            streams[s] = streams[s] + mods[s][2][:, None] * (part @ p[s]["o"] + p[s]["ob"])
        x = jnp.concatenate([streams["t"], streams["i"]], 1)
        shift, scale, gate = jnp.split(jax.nn.silu(c) @ p["one"]["mod"] + p["one"]["modb"], 3, -1)
        fused = modulate(plain_norm(x), shift, scale) @ p["one"]["in"] + p["one"]["inb"]
        q, k, v, h = jnp.split(fused, [8, 16, 24], -1)
        joined = jnp.concatenate([attention(q, k, v, 2), jax.nn.gelu(h)], -1)
        return (x + gate[:, None] * (joined @ p["one"]["out"] + p["one"]["outb"]))[:, n:]

    one = shapes(**{"in": (8, 36)}, inb=36, mod=(6, 24), modb=24, out=(20, 8), outb=8)
    stream = shapes(mod=(6, 24), modb=24, qkv=(8, 24), qkvb=24, gq=4, gk=4, o=(8, 8), ob=8)
    truth_of = {"i": stream, "t": stream, "one": one}
    return apply, truth_of, (array(2, 5, 8), array(2, 3, 8), array(2, 6))


@zoo_model(truth={"g": "gain > ", "e.*|w0|head": "conv 2 > 3 @ 0 1"} | LINEAR)
def magnitude_preserving():
    """Every weight is normalised before use, and nothing else is; a gain of one number at the end."""

    def normed(w):
        axes = tuple(range(w.ndim - 1))
        return w / (1e-4 + jnp.sqrt((w * w).sum(axes, keepdims=True)))

    def summed(a, b, t=0.3):
        return (a * (1 - t) + b * t) / jnp.sqrt((1 - t) ** 2 + t**2)

    def apply(p, x, sigma):
        c = jnp.log(sigma)[:, None] * jnp.arange(1.0, 5.0)
        c = jax.nn.silu(jnp.cos(c) * 1.4 @ normed(p["t"])) / 0.6
        x = conv(x, normed(p["w0"]))
        y = conv(jax.nn.silu(x) / 0.6, normed(p["e1"]))
        y = jax.nn.silu(y * (c @ normed(p["c"]) * p["g"] + 1)[:, None, None]) / 0.6
        x = summed(x, conv(y, normed(p["e2"])))
        return conv(x, normed(p["head"])) * p["g"]

    kernel = (3, 3, 6, 6)
    params = shapes(t=(4, 8), c=(8, 6), w0=(3, 3, 2, 6), e1=kernel, e2=kernel, head=(1, 1, 6, 2), g=())
    return apply, params, (array(2, 5, 5, 2), array(2))


@zoo_model(truth={"skip": "linear 0 > 1", "pos": "positional 1 > 2", "mask": "bias > 2", r".*b": "bias > 0"} | LINEAR)
def masked_autoregressive_with_long_skips():
    """Tokens that are masked are one vector; a decoder joins earlier tokens, and a small network denoises each."""

    def apply(p, x, mask, noisy, t):
        h = x @ p["in"] + p["inb"]
        h = jnp.where(mask[..., None], jnp.broadcast_to(p["mask"], h.shape), h) + p["pos"]
        early = h = h + attention(*jnp.split(rms(h) @ p["qkv"], 3, -1), 2) @ p["o"]
        h = jnp.concatenate([jnp.tanh(h), early], -1) @ p["skip"] + p["skipb"]
        z = h.reshape(-1, 8)
        c = jax.nn.silu(z @ p["z"] + waves(t, 6) @ p["t"])
        shift, scale, gate = jnp.split(c @ p["mod"] + p["modb"], 3, -1)
        y = noisy @ p["x"] + p["xb"]
        y = y + gate * (jax.nn.silu((plain_norm(y) * (1 + scale) + shift) @ p["r1"] + p["r1b"]) @ p["r2"])
        return y @ p["out"] + p["outb"]

    params = shapes(
        **{"in": (4, 8)}, inb=8, mask=(1, 1, 8), pos=(1, 5, 8), qkv=(8, 24), o=(8, 8), skip=(16, 8), skipb=8
    )
    params |= shapes(z=(8, 6), t=(6, 6), mod=(6, 18), modb=18, x=(4, 6), xb=6, r1=(6, 9), r1b=9, r2=(9, 6))
    inputs = array(2, 5, 4), array(2, 5, dtype=jnp.bool_), array(10, 4), array(10)
    return apply, params | shapes(out=(6, 4), outb=4), inputs


@zoo_model(
    truth={
        "codes": "embedding 0 > 1",
        "level": "embedding 0 > 1",
        "phi": "conv 2 > 3 @ 0 1",
        "start": "positional 0 > 1",
    }
    | LINEAR
)
def next_scale_prediction():
    """Maps of codes are resized between scales; each token knows its scale."""

    def apply(p, c2, c4):
        def at(codes, n):
            y = jax.image.resize(p["codes"][codes].reshape(-1, n, n, 4), (len(codes), 4, 4, 4), "linear")
            return 0.5 * y + 0.5 * conv(y, p["phi"])

        f2 = at(c2, 2)
        f4 = f2 + at(c4, 4)
        small = jax.image.resize(f2, (len(c2), 2, 2, 4), "linear").reshape(-1, 4, 4)
        x = jnp.concatenate([jnp.broadcast_to(p["start"], (len(c2), 1, 8)), small @ p["in"]], 1)
        x = x + p["level"][jnp.array([0, 1, 1, 1, 1])]
        x = x + attention(*jnp.split(rms(x) @ p["qkv"], 3, -1), 2) @ p["o"]
        return rms(x) @ p["head"], f4 @ p["decode"]

    params = shapes(codes=(11, 4), phi=(3, 3, 4, 4), start=(1, 8), level=(2, 8), qkv=(8, 24), o=(8, 8), head=(8, 11))
    return apply, params | shapes(**{"in": (4, 8)}, decode=(4, 3)), (tokens(2, 4), tokens(2, 16))


@zoo_model(truth={"in|project|out": "conv 2 > 3 @ 0 1", "g": "gain > 0", ".*b": "bias > 0"} | LINEAR)
def codes_of_rounded_numbers():
    """Finite scalar quantisation: bounded numbers are rounded, the gradient goes straight through."""

    def apply(p, x):
        h = jax.nn.silu(norm(conv(x, p["in"], 2), p["g"], p["gb"]))
        z = conv(h, p["project"]) + p["projectb"]
        half = jnp.array([3.5, 2.5, 2.0])
        z = jnp.tanh(z + jnp.arctanh(0.1 / half)) * half
        q = z + lax.stop_gradient(jnp.round(z) - z)
        y = q / half @ p["un"] + p["unb"]
        y = jax.image.resize(y, (len(x), 8, 8, 6), "nearest")
        return conv(jax.nn.silu(y), p["out"]) + p["outb"]

    params = shapes(**{"in": (3, 3, 3, 6)}, g=6, gb=6, project=(1, 1, 6, 3), projectb=3, un=(3, 6), unb=6)
    return apply, params | shapes(out=(3, 3, 6, 3), outb=3), (array(2, 8, 8, 3),)


@zoo_model(
    truth={
        "offset|weight|value|out": "linear 0 > 1",
        r".*b": "bias > 0",
        "queries": "positional 0 > 1",
        "level": "embedding 0 > 1",
    }
    | LINEAR
)
def deformable_attention():
    """Queries say where they look, and how much of what they find there they take."""

    def sampled(v, where):
        n = v.shape[0]
        place = where * (n - 1)
        low = jnp.floor(place).astype(int)
        a, b = (v[jnp.clip(low + i, 0, n - 1)] for i in (0, 1))
        return a + (b - a) * (place - low)[..., None]

    def apply(p, x):
        x = x + p["level"][jnp.zeros(x.shape[1], int)]
        q = jnp.broadcast_to(p["queries"], (len(x), 4, 8))
        q = q + attention(rms(q) @ p["sq"], rms(q) @ p["sk"], q @ p["sv"], 2) @ p["so"]
        v = (x @ p["value"] + p["valueb"]).reshape(*x.shape[:2], 2, 4)
        start = jax.nn.sigmoid(q @ p["ref"] + p["refb"])
        offset = (q @ p["offset"] + p["offsetb"]).reshape(*q.shape[:2], 2, 3)
        w = jax.nn.softmax((q @ p["weight"] + p["weightb"]).reshape(*q.shape[:2], 2, 3))
        where = jnp.clip(start[..., None] + 0.1 * offset, 0.0, 1.0)
        found = jax.vmap(jax.vmap(sampled, (1, 1), 1))(v, where)
        return q + jnp.einsum("bqhpc,bqhp->bqhc", found, w).reshape(*q.shape) @ p["out"] + p["outb"]

    params = shapes(queries=(4, 8), level=(3, 8), sq=(8, 8), sk=(8, 8), sv=(8, 8), so=(8, 8), value=(8, 8), valueb=8)
    params |= shapes(ref=(8, 1), refb=1, offset=(8, 6), offsetb=6, weight=(8, 6), weightb=6, out=(8, 8), outb=8)
    return apply, params, (array(2, 7, 8),)
