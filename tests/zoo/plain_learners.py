"""Plain JAX: agents, tables of numbers, series and sounds, of the last years, as their published code writes them."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import conv1d, norm, rms, shapes
from tests.zoo.plain_published import LINEAR

BIASES = {r".*b\d?": "bias > 0"}


def unit(x, axis=-1):
    return x * lax.rsqrt((x * x).sum(axis, keepdims=True) + 1e-6)


def mish(x):
    return x * jnp.tanh(jax.nn.softplus(x))


@zoo_model(
    truth={
        "q/g.*": "gain > 1",
        r"q/.*b\d?": "bias > 1",
        "q/.*": "linear 1 > 2",
        r".*/g\d?": "gain > 0",
        r".*b\d?": "bias > 0",
        ".*": "linear 0 > 1",
    }
)
def td_mpc_2():
    """Latents in groups that are each a softmax; an ensemble of critics by vmap."""

    def net(p, x):
        x = mish(norm(x @ p["1"] + p["1b"], p["g1"], p["n1b"]))
        return mish(norm(x @ p["2"] + p["2b"], p["g2"], p["n2b"])) @ p["3"] + p["3b"]

    def groups(z):
        return jax.nn.softmax(z.reshape(*z.shape[:-1], 3, 4)).reshape(z.shape)

    def apply(p, obs, action):
        z = groups(net(p["encoder"], obs))
        za = jnp.concatenate([z, action], -1)
        after = groups(net(p["dynamics"], za))
        q = jax.vmap(net, (0, None))(p["q"], za)
        return after, net(p["reward"], za), jax.nn.softmax(q) @ jnp.linspace(-2.0, 2.0, 5), net(p["pi"], z)

    def of(a, b, *lead):
        sizes = {"1": (a, 8), "1b": (8,), "g1": (8,), "n1b": (8,), "2": (8, 8), "2b": (8,), "g2": (8,), "n2b": (8,)}
        return shapes(**{k: (*lead, *s) for k, s in (sizes | {"3": (8, b), "3b": (b,)}).items()})

    params = {"encoder": of(6, 12), "dynamics": of(14, 12), "reward": of(14, 5), "pi": of(12, 4), "q": of(14, 5, 3)}
    return apply, params, (array(7, 6), array(7, 2))


@zoo_model(truth={r"\d/(s\d|alpha)|s|out/s": "gain > 0", r"out/b": "bias > 0", ".*": "linear 0 > 1"})
def hyperspherical_network():
    """SimbaV2: features on a sphere, gains after each layer, and steps towards what a block says, along gains."""

    def apply(p, x):
        shifted = jnp.concatenate([x, jnp.full((*x.shape[:-1], 1), 3.0)], -1)
        x = unit((unit(shifted) @ p["embed"]) * p["s"])
        for block in (p["0"], p["1"]):
            h = jax.nn.relu((x @ block["w1"]) * block["s1"])
            h = unit(h @ block["w2"])
            x = unit(x + block["alpha"] * (h - x))
        h = (x @ p["out"]["w1"]) * p["out"]["s"]
        return h @ p["out"]["w2"] + p["out"]["b"]

    block = shapes(w1=(8, 16), s1=16, w2=(16, 8), alpha=8)
    params = shapes(embed=(6, 8), s=8) | {"0": block, "1": block, "out": shapes(w1=(8, 8), s=8, w2=(8, 5), b=5)}
    return apply, params, (array(7, 5),)


@zoo_model(truth={"gru": "linear 1 > 2", "grub": "bias > 1", "start": "bias > 0", "g.*": "gain > 0"} | BIASES | LINEAR)
def block_recurrent_world_model():
    """A gated unit whose matrices are blocks along the diagonal."""

    def apply(p, stoch, action):
        def step(h, inputs):
            s, a = inputs
            x = jnp.concatenate([jax.nn.silu(rms(h @ p["h"]) * p["gh"]), jax.nn.silu(rms(s @ p["s"]) * p["gs"])], -1)
            x = jnp.concatenate([x, jax.nn.silu(rms(a @ p["a"]) * p["ga"])], -1)
            x = jnp.concatenate([h.reshape(-1, 2, 4), jnp.repeat(x[:, None], 2, 1)], -1)
            gates = jnp.einsum("bgi,gio->bgo", x, p["gru"]) + p["grub"]
            r, c, u = (y.reshape(h.shape) for y in jnp.split(gates, 3, -1))
            r, u = jax.nn.sigmoid(r), jax.nn.sigmoid(u - 1)
            h = u * jnp.tanh(r * c) + (1 - u) * h
            return h, jax.nn.softmax((h @ p["post"] + p["postb"]).reshape(-1, 3, 2))

        start = jnp.tanh(jnp.broadcast_to(p["start"], (2, 8)))
        return lax.scan(step, start, (stoch, action))

    params = shapes(start=8, h=(8, 5), gh=5, s=(6, 5), gs=5, a=(2, 5), ga=5, gru=(2, 19, 12), grub=(2, 12), post=(8, 6))
    return apply, params | shapes(postb=6), (array(4, 2, 6), array(4, 2, 2))


@zoo_model(truth={"time|type": "embedding 0 > 1", "mask": "bias > 0", "g.*": "gain > 0"} | BIASES | LINEAR)
def decision_transformer():
    """Returns, states and actions of each step share a row of positions, and become three tokens."""

    def apply(p, returns, states, actions, steps):
        t = p["time"][steps]
        parts = [x @ p[n] + p[n + "b"] + t for x, n in ((returns, "r"), (states, "s"), (actions, "a"))]
        x = jnp.stack(parts, 2).reshape(len(steps), -1, 8)
        x = norm(x, p["g0"], p["n0b"])
        q, k, v = jnp.split(x @ p["qkv"] + p["qkvb"], 3, -1)
        q, k, v = (y.reshape(*y.shape[:2], 2, 4).swapaxes(1, 2) for y in (q, k, v))
        s = jnp.where(jnp.tril(jnp.ones((12, 12), bool)), q @ k.swapaxes(-1, -2), -1e9)
        y = (jax.nn.softmax(s) @ v).swapaxes(1, 2).reshape(x.shape)
        x = x + y @ p["o"] + p["ob"]
        return jnp.tanh(x.reshape(len(steps), 4, 3, 8)[:, :, 1] @ p["act"] + p["actb"])

    params = shapes(time=(20, 8), r=(1, 8), rb=8, s=(5, 8), sb=8, a=(3, 8), ab=8, g0=8, n0b=8, qkv=(8, 24), qkvb=24)
    inputs = array(2, 4, 1), array(2, 4, 5), array(2, 4, 3), tokens(2, 4)
    return apply, params | shapes(o=(8, 8), ob=8, act=(8, 3), actb=3), inputs


@zoo_model(truth={"c\\d": "conv 1 > 2 @ 0", "g.*": "gain > 0"} | BIASES | LINEAR)
def diffusion_policy():
    """Convolutions along actions, in groups normalised, shifted and scaled by the time and what is seen."""

    def group_norm(x, g, b):
        y = x.reshape(*x.shape[:2], 2, -1)
        y = y - y.mean((1, 3), keepdims=True)
        y = y * lax.rsqrt((y * y).mean((1, 3), keepdims=True) + 1e-5)
        return y.reshape(x.shape) * g + b

    def apply(p, x, t, seen):
        c = t[:, None] * jnp.exp(-jnp.arange(3.0))
        c = jnp.concatenate([jnp.sin(c), jnp.cos(c)], -1)
        c = jnp.concatenate([mish(c @ p["t1"] + p["t1b"]) @ p["t2"] + p["t2b"], seen], -1)
        h = mish(group_norm(conv1d(x, p["c0"]) + p["c0b"], p["g0"], p["n0b"]))
        scale, shift = jnp.split((mish(c) @ p["film"] + p["filmb"])[:, None], 2, -1)
        h = scale * h + shift
        h = mish(group_norm(conv1d(h, p["c1"]) + p["c1b"], p["g1"], p["n1b"])) + conv1d(x, p["c2"])
        return conv1d(h, p["c3"]) + p["c3b"]

    params = shapes(t1=(6, 8), t1b=8, t2=(8, 6), t2b=6, c0=(3, 2, 8), c0b=8, g0=8, n0b=8, film=(10, 16), filmb=16)
    params |= shapes(c1=(3, 8, 8), c1b=8, g1=8, n1b=8, c2=(1, 2, 8), c3=(1, 8, 2), c3b=2)
    return apply, params, (array(2, 6, 2), array(2), array(2, 4))


@zoo_model(
    truth={
        "freq": "unknown",
        "e": "linear 1 > 2",
        "eb": "bias > 1",
        "[rs]\\d": "gain > 1",
        "b\\d": "bias > 1",
        "head": "linear 1 > 2",
        "headb": "bias > 1",
    }
    | LINEAR
)
def tab_m():
    """Members share matrices, and have gains before and after each, a bias and a head of their own."""

    def apply(p, x):
        angles = 2 * jnp.pi * x[..., None] * p["freq"]
        x = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
        x = jax.nn.relu(jnp.einsum("bfi,fio->bfo", x, p["e"]) + p["eb"]).reshape(len(x), 1, -1)
        x = jnp.repeat(x, 5, 1)
        for i in range(2):
            x = jax.nn.relu(((x * p[f"r{i}"]) @ p[f"w{i}"]) * p[f"s{i}"] + p[f"b{i}"])
        return jnp.einsum("bki,kio->bko", x, p["head"]) + p["headb"]

    params = shapes(freq=(4, 3), e=(4, 6, 2), eb=(4, 2), r0=(5, 8), w0=(8, 12), s0=(5, 12), b0=(5, 12), r1=(5, 12))
    return apply, params | shapes(w1=(12, 12), s1=(5, 12), b1=(5, 12), head=(5, 12, 3), headb=(5, 3)), (array(7, 4),)


@zoo_model(truth={"scale": "gain > 0", "a": "gain > 0"} | BIASES | LINEAR)
def real_mlp_and_nearest_neighbours():
    """Inputs are scaled one by one, activations mixed with the identity; neighbours vote by distance (ModernNCA)."""

    def embedded(p, x):
        h = x * p["scale"]
        h = h @ p["w0"] * 0.5 + p["w0b"]
        h = h + p["a"] * (jax.nn.selu(h) - h)
        return h @ p["w1"] + p["w1b"]

    def apply(p, x, others, labels):
        q, k = embedded(p, x), embedded(p, others)
        d = jnp.sqrt(((q[:, None] - k[None]) ** 2).sum(-1) + 1e-8)
        return jax.nn.softmax(-d) @ jax.nn.one_hot(labels, 3)

    params = shapes(scale=5, w0=(5, 8), w0b=8, a=8, w1=(8, 6), w1b=6)
    return apply, params, (array(4, 5), array(9, 5), tokens(9))


@zoo_model(truth={"freq": "embedding 0 > 1", "scale": "gain > 0"} | BIASES | LINEAR)
def patches_of_a_series():
    """TimesFM, Chronos-Bolt: patches and their masks in, residual blocks, quantiles of a long patch out."""

    def residual(p, n, x):
        return jax.nn.silu(x @ p[n + "h"] + p[n + "hb"]) @ p[n + "o"] + p[n + "ob"] + x @ p[n + "r"] + p[n + "rb"]

    def apply(p, x, mask, freq):
        m = (x * mask).sum(-1, keepdims=True) / mask.sum(-1, keepdims=True)
        s = jnp.sqrt((((x - m) * mask) ** 2).sum(-1, keepdims=True) + 1e-5)
        y = (
            jnp.concatenate([(x - m) / s * mask, mask], -1)
            .reshape(len(x), 4, 2, 3)
            .swapaxes(2, 3)
            .reshape(len(x), 4, 6)
        )
        y = residual(p, "i", y) + p["freq"][freq]
        q, k, v = jnp.split(rms(y) @ p["qkv"], 3, -1)
        q = q.reshape(len(x), 4, 2, 4) * jax.nn.softplus(p["scale"])
        w = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k.reshape(q.shape)))
        y = y + jnp.einsum("bhqk,bkhc->bqhc", w, v.reshape(q.shape)).reshape(y.shape) @ p["o"]
        out = residual(p, "l", y)[:, -1].reshape(len(x), 5, 3)
        return out * s[..., None] + m[..., None]

    params = shapes(freq=(3, 8), qkv=(8, 24), scale=4, o=(8, 8))
    for n, a, b in (("i", 6, 8), ("l", 8, 15)):
        params |= shapes(**{n + "h": (a, 9), n + "hb": 9, n + "o": (9, b), n + "ob": b, n + "r": (a, b), n + "rb": b})
    return apply, params, (array(2, 12), array(2, 12), tokens(2, 1))


@zoo_model(
    truth={
        "c\\d|up|down": "conv 1 > 2 @ 0",
        "alpha\\d": "gain > 0",
        "pos": "positional 0 > 1",
        "conv": "depthwise 1 > 2 @ 0 / 8",
    }
    | BIASES
    | LINEAR
)
def sounds():
    """Snake activations with a rate for each channel, weights that are normalised, strides down and up (DAC)."""

    def snake(x, a):
        return x + jnp.sin(a * x) ** 2 / (a + 1e-9)

    def apply(p, x):
        h = conv1d(x, p["c0"]) + p["c0b"]
        h = h + conv1d(snake(h, p["alpha0"]), p["c1"]) + p["c1b"]
        h = conv1d(snake(h, p["alpha1"]), p["down"], stride=2) + p["downb"]
        h = h + conv1d(h, p["conv"], groups=8) + p["pos"]
        y = lax.conv_transpose(snake(h, p["alpha2"]), p["up"], (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        return jnp.tanh(conv1d(y + p["upb"], p["c2"]) + p["c2b"])

    params = shapes(c0=(7, 1, 6), c0b=6, alpha0=6, c1=(3, 6, 6), c1b=6, alpha1=6, down=(4, 6, 8), downb=8, alpha2=8)
    params |= shapes(conv=(5, 1, 8), pos=(6, 8), up=(4, 8, 6), upb=6, c2=(7, 6, 1), c2b=1)
    return apply, params, (array(2, 12, 1),)
