"""Plain JAX: graphs, molecules and physics, as the published code writes them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import shapes

LINEAR = {r"[\w/]*": "linear 0 > 1"}
N = 7


def edges(n=12):
    return array(n, dtype=jnp.int32)


@zoo_model(
    truth={
        "emb": "embedding 0 > 1",
        "a": "linear 1 2 >",
        "w|src|dst": "linear 0 > 1 2",
        "att": "linear 1 >",
        "b": "bias > 0",
    }
    | LINEAR
)
def graph_attention_v2():
    """Scores of edges by a vector for each head, after a function of both ends; a softmax over each node's edges."""

    def apply(p, atoms, senders, receivers):
        x = p["emb"][atoms]
        h = jnp.einsum("nd,dhc->nhc", x, p["src"])
        g = jnp.einsum("nd,dhc->nhc", x, p["dst"])
        scores = (jax.nn.leaky_relu(h[senders] + g[receivers]) * p["att"]).sum(-1)
        scores = jnp.exp(scores - jax.ops.segment_max(scores, receivers, N)[receivers])
        weights = scores / jax.ops.segment_sum(scores, receivers, N)[receivers]
        y = jax.ops.segment_sum(h[senders] * weights[..., None], receivers, N)
        return jax.nn.elu(y.reshape(N, -1) + p["b"]) @ p["out"]

    params = shapes(emb=(9, 6), src=(6, 3, 4), dst=(6, 3, 4), att=(3, 4), b=12, out=(12, 2))
    return apply, params, (tokens(N), edges(), edges())


@zoo_model(truth={"emb": "embedding 0 > 1", r"\w+b": "bias > 0"} | LINEAR)
def schnet():
    """Filters made of distances multiply messages, entry by entry."""

    def softplus(x):
        return jax.nn.softplus(x) - np.log(2.0)

    def apply(p, atoms, positions, senders, receivers):
        x = p["emb"][atoms]
        d = jnp.linalg.norm(positions[senders] - positions[receivers] + 1e-3, axis=-1)
        rbf = jnp.exp(-10 * (d[:, None] - jnp.linspace(0, 5, 8)) ** 2)
        filters = softplus(rbf @ p["f1"] + p["f1b"]) @ p["f2"] + p["f2b"]
        filters = filters * (0.5 * (jnp.cos(d * np.pi / 5) + 1))[:, None]
        m = jax.ops.segment_sum((x @ p["in"])[senders] * filters, receivers, N)
        x = x + softplus(m @ p["out"] + p["outb"]) @ p["mix"] + p["mixb"]
        return (softplus(x @ p["e1"] + p["e1b"]) @ p["e2"]).sum()

    params = shapes(
        emb=(9, 6),
        f1=(8, 10),
        f1b=10,
        f2=(10, 10),
        f2b=10,
        out=(10, 6),
        outb=6,
        mix=(6, 6),
        mixb=6,
        e1=(6, 5),
        e1b=5,
        e2=(5, 1),
    )
    params["in"] = array(6, 10)

    def forces(p, atoms, x, s, r):
        return jax.value_and_grad(lambda x: apply(p, atoms, x, s, r))(x)

    return forces, params, (tokens(N), array(N, 3), edges(), edges())


@zoo_model(truth={r".*/b\d": "bias > 0"} | LINEAR)
def egnn():
    """Messages of invariant distances, which move coordinates along differences; a gate for each edge."""

    def mlp(p, x, last=lambda x: x):
        return last(jax.nn.silu(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"])

    def apply(p, h, x, senders, receivers):
        h = h @ p["emb"]
        for layer in (p["l0"], p["l1"]):
            difference = x[receivers] - x[senders]
            square = (difference**2).sum(-1, keepdims=True)
            m = mlp(layer["edge"], jnp.concatenate([h[receivers], h[senders], square], -1), jax.nn.silu)
            m = m * jax.nn.sigmoid(m @ layer["gate"])
            move = difference / (jnp.sqrt(square + 1e-6) + 1) * jnp.tanh(jax.nn.silu(m @ layer["c0"]) @ layer["c1"])
            x = x + jax.ops.segment_sum(move, receivers, N) / N
            h = h + mlp(layer["node"], jnp.concatenate([h, jax.ops.segment_sum(m, receivers, N)], -1))
        return h @ p["head"], x

    def layer():
        return {
            "edge": shapes(w0=(13, 8), b0=8, w1=(8, 8), b1=8),
            "node": shapes(w0=(14, 8), b0=8, w1=(8, 6), b1=6),
        } | shapes(gate=(8, 1), c0=(8, 8), c1=(8, 1))

    params = {"l0": layer(), "l1": layer()} | shapes(emb=(4, 6), head=(6, 2))
    return apply, params, (array(N, 4), array(N, 3), edges(), edges())


@zoo_model(
    truth={
        "emb": "embedding 0 > 1",
        "radial/2": "linear 0 > 1",
        r"radial/\d": "linear 0 > 1",
        r"up/\d|mix/\d|self/\d": "linear 0 > 1",
        r"prod/\w": "embedding 0 > 1",
        "read": "linear 0 > 1",
    }
)
def mace():
    """Tensor products of features of several degrees with spherical harmonics, powers with weights of each element."""

    def apply(p, atoms, positions, senders, receivers):
        one = jax.nn.one_hot(atoms, 9)
        h = one @ p["emb"]
        r = positions[receivers] - positions[senders] + 1e-3
        d = jnp.linalg.norm(r, axis=-1, keepdims=True)
        y = [jnp.ones_like(d), r / d]
        bessel = jnp.sin(d * jnp.arange(1, 9) * np.pi / 5) / d
        radial = jax.nn.silu(jax.nn.silu(bessel @ p["radial"]["0"]) @ p["radial"]["1"]) @ p["radial"]["2"]
        radial = radial.reshape(-1, 2, 6)
        sent = (h @ p["up"]["0"])[senders]
        a = [jax.ops.segment_sum((sent * radial[:, i])[:, :, None] * y[i][:, None, :], receivers, N) for i in (0, 1)]
        a = [jnp.einsum("nci,cd->ndi", part, p["mix"][str(i)]) for i, part in enumerate(a)]
        scalar, vector = a[0][..., 0], a[1]
        w1, w2, w3 = (one @ p["prod"][n] for n in ("a", "b", "c"))
        b = w1 * scalar + w2 * scalar**2 + w3 * (vector**2).sum(-1)
        h = b @ p["self"]["0"] + h @ p["self"]["1"]
        return (jax.nn.silu(h) @ p["read"]).sum()

    params = {"emb": array(9, 6), "radial": {"0": array(8, 10), "1": array(10, 10), "2": array(10, 12)}}
    params |= {
        "up": {"0": array(6, 6)},
        "mix": {"0": array(6, 6), "1": array(6, 6)},
        "self": {"0": array(6, 6), "1": array(6, 6)},
    }
    params |= {"prod": {n: array(9, 6) for n in "abc"}, "read": array(6, 1)}

    def energy(p, atoms, x, s, r):
        return jax.value_and_grad(lambda x: apply(p, atoms, x, s, r))(x)

    return energy, params, (tokens(N), array(N, 3), edges(), edges())


@zoo_model(
    truth={r".*ln\d/g": "gain > 0", ".*/ab": "linear 0 > 1", ".*b": "bias > 0", ".*/outer": "linear 0 1 > 2"} | LINEAR
)
def evoformer():
    """Triangles of pairs, edges that come in and go out, and the mean of outer products of an alignment."""

    def ln(p, x):
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p["g"] + p["b"]

    def triangle(p, z, equation):
        x = ln(p["ln1"], z)
        ab = jax.nn.sigmoid(x @ p["gate"] + p["gateb"]) * (x @ p["ab"])
        a, b = jnp.split(jnp.moveaxis(ab, -1, 0), 2, 0)
        y = jnp.moveaxis(jnp.einsum(equation, a, b), 0, -1)
        return jax.nn.sigmoid(x @ p["outg"]) * (ln(p["ln2"], y) @ p["out"])

    def outer(p, m):
        x = ln(p["ln3"], m)
        left, right = x @ p["left"], x @ p["right"]
        y = jnp.einsum("sic,sje->ijce", left, right)
        return jnp.einsum("ijce,cef->ijf", y, p["outer"]) / len(m) + p["outerb"]

    def apply(p, m, z):
        z = z + outer(p["o"], m)
        z = z + triangle(p["t"], z, "cik,cjk->cij")
        z = z + triangle(p["u"], z, "cki,ckj->cij")
        return z @ p["head"]

    def tri():
        return shapes(gate=(6, 8), gateb=8, ab=(6, 8), outg=(6, 6), out=(4, 6)) | {
            "ln1": shapes(g=6, b=6),
            "ln2": shapes(g=4, b=4),
        }

    params = {
        "t": tri(),
        "u": tri(),
        "o": shapes(left=(5, 3), right=(5, 4), outer=(3, 4, 6), outerb=6) | {"ln3": shapes(g=5, b=5)},
    }
    return apply, params | shapes(head=(6, 3)), (array(9, N, 5), array(N, N, 6))


@zoo_model(truth={r"b\d|t1?b": "bias > 0", "bias": "bias >"} | LINEAR)
def deep_operator_network():
    """A branch for functions, a trunk for places, and their products with one bias."""

    def apply(p, u, y):
        branch = jnp.tanh(jnp.tanh(u @ p["b0w"] + p["b0"]) @ p["b1w"] + p["b1"])
        trunk = jnp.tanh(jnp.sin(y @ p["t0w"] + p["tb"]) @ p["t1w"] + p["t1b"])
        return jnp.einsum("bk,nk->bn", branch, trunk) + p["bias"]

    params = shapes(b0w=(9, 8), b0=8, b1w=(8, 10), b1=10, t0w=(2, 7), tb=7, t1w=(7, 10), t1b=10, bias=())
    return apply, params, (array(3, 9), array(5, 2))


@zoo_model(truth={"b.": "bias > 0", "[uv]": "linear 0 > 1", "[uv]b": "bias > 0", "a": "gain >"} | LINEAR)
def physics_informed():
    """Fourier features, a gated network with learned slopes, the residual of an equation of second order."""
    frequencies = np.random.RandomState(0).normal(size=(2, 5)).astype(np.float32)

    def net(p, t, x):
        z = jnp.stack([t, x]) @ frequencies
        z = jnp.concatenate([jnp.sin(z), jnp.cos(z)])
        u, v = jnp.tanh(z @ p["u"] + p["ub"]), jnp.tanh(z @ p["v"] + p["vb"])
        for w, b in (("w0", "b0"), ("w1", "b1")):
            h = jnp.tanh(p["a"] * (z @ p[w] + p[b]))
            z = h * u + (1 - h) * v
        return (z @ p["out"] + p["b2"])[0]

    def residual(p, t, x):
        u = net(p, t, x)
        u_t = jax.grad(net, 1)(p, t, x)
        u_x = jax.grad(net, 2)(p, t, x)
        u_xx = jax.grad(jax.grad(net, 2), 2)(p, t, x)
        return u_t + u * u_x - 0.01 * u_xx

    def loss(p, t, x, x0, u0):
        r = jax.vmap(residual, (None, 0, 0))(p, t, x)
        start = jax.vmap(net, (None, None, 0))(p, 0.0, x0)
        return (r**2).mean() + ((start - u0) ** 2).mean()

    params = shapes(u=(10, 8), ub=8, v=(10, 8), vb=8, w0=(10, 8), b0=8, w1=(8, 8), b1=8, out=(8, 1), b2=1, a=())
    return loss, params, (array(5), array(5), array(4), array(4))


@zoo_model(truth={"skip": "linear 0 > 1", "b": "bias > 0"} | LINEAR)
def factorised_fourier_operator():
    """Complex weights for the lowest frequencies of each axis, in real and imaginary parts."""

    def along(w, x, axis):
        f = jnp.fft.rfft(x, axis=axis)
        kept = lax.slice_in_dim(f, 0, 3, axis=axis)
        w = w["re"] + 1j * w["im"]
        y = jnp.einsum("bxyi,iox->bxyo" if axis == 1 else "bxyi,ioy->bxyo", kept, w)
        pad = [(0, 0)] * 4
        pad[axis] = (0, f.shape[axis] - 3)
        return jnp.fft.irfft(jnp.pad(y, pad), x.shape[axis], axis=axis)

    def apply(p, x):
        x = x @ p["lift"]
        x = x + jax.nn.gelu(along(p["spec"]["x"], x, 1) + along(p["spec"]["y"], x, 2) + x @ p["skip"] + p["b"])
        return x @ p["out"]

    spec = {n: shapes(re=(5, 5, 3), im=(5, 5, 3)) for n in "xy"}
    return apply, {"spec": spec} | shapes(lift=(2, 5), skip=(5, 5), b=5, out=(5, 1)), (array(2, 8, 8, 2),)


@zoo_model(
    truth={"ipa/[qkv]b": "bias > 0", "ipa/point": "gain > 0", "ipa/vp": "unknown", "emb": "embedding 0 > 1"} | LINEAR
)
def frames_of_a_protein():
    """Invariant point attention: queries and keys as points in frames, with a learned weight for each head."""
    h, c, m = 3, 4, 2

    def apply(p, kind, pairs, rotations, shifts):
        s = p["emb"][kind]
        w = p["ipa"]
        q, k, v = (((s @ w[n]) + w[n + "b"]).reshape(N, h, c) for n in "qkv")

        def points(name, n):
            local = (s @ w[name]).reshape(N, h, n, 3)
            return jnp.einsum("nij,nhmj->nhmi", rotations, local) + shifts[:, None, None]

        qp, kp, vp = points("qp", m), points("kp", m), points("vp", m)
        apart = ((qp[:, None] - kp[None]) ** 2).sum((-1, -2))
        scores = jnp.einsum("ihc,jhc->ijh", q, k) / c**0.5 + pairs @ w["bias"]
        scores = scores - 0.5 * jax.nn.softplus(w["point"]) * apart
        a = jax.nn.softmax(scores, 1)
        plain = jnp.einsum("ijh,jhc->ihc", a, v).reshape(N, -1)
        moved = jnp.einsum("ijh,jhmx->ihmx", a, vp) - shifts[:, None, None]
        back = jnp.einsum("nji,nhmj->nhmi", rotations, moved)
        over = jnp.einsum("ijh,ijd->ihd", a, pairs).reshape(N, -1)
        lengths = jnp.sqrt((back**2).sum(-1) + 1e-8).reshape(N, -1)
        return s + jnp.concatenate([plain, back.reshape(N, -1), lengths, over], -1) @ w["out"]

    w = shapes(
        q=(6, 12), qb=12, k=(6, 12), kb=12, v=(6, 12), vb=12, qp=(6, 18), kp=(6, 18), vp=(6, 18), bias=(5, 3), point=3
    )
    params = {"ipa": w | shapes(out=(12 + 18 + 6 + 15, 6)), "emb": array(9, 6)}
    return apply, params, (tokens(N), array(N, N, 5), array(N, 3, 3), array(N, 3))
