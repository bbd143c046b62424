"""Plain JAX: models of nature, of the last years, as their published code writes them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import conv1d, norm, shapes
from tests.zoo.plain_published import LINEAR

BIASES = {r".*b\d?": "bias > 0"}


def perceptron(p, name, x):
    return jax.nn.silu(x @ p[name + "1"] + p[name + "1b"]) @ p[name + "2"] + p[name + "2b"]


def of_perceptron(name, *widths):
    a, b, c = widths
    return shapes(**{name + "1": (a, b), name + "1b": b, name + "2": (b, c), name + "2b": c})


@zoo_model(truth={r"g\d": "gain > 0", r"n\db|sqb": "bias > 0"} | LINEAR)
def pair_former():
    """Triangles of a pair representation, and attention of single tokens that it biases (AlphaFold 3)."""

    def apply(p, s, z):
        y = norm(z, p["g0"], p["n0b"])
        a, b = (jax.nn.sigmoid(y @ p["gate" + n]) * (y @ p["in" + n]) for n in "ab")
        y = norm(jnp.einsum("ikc,jkc->ijc", a, b), p["g1"], p["n1b"])
        z = z + jax.nn.sigmoid(z @ p["gate"]) * (y @ p["out"])
        y = norm(z, p["g2"], p["n2b"])
        q, k, v = ((y @ p["t" + n]).reshape(5, 5, 2, 3) for n in "qkv")
        w = jax.nn.softmax(jnp.einsum("iqhc,ikhc->ihqk", q, k) + jnp.moveaxis(y @ p["tb"], -1, 0)[None])
        y = jnp.einsum("ihqk,ikhc->iqhc", w, v).reshape(5, 5, 6)
        z = z + (jax.nn.sigmoid(y @ p["tg"]) * y) @ p["to"]
        y = norm(s, p["g3"], p["n3b"])
        q, k, v = ((y @ p["s" + n]).reshape(5, 2, 4) for n in "qkv")
        bias = norm(z, p["g4"], p["n4b"]) @ p["pair"]
        w = jax.nn.softmax(jnp.einsum("qhc,khc->hqk", q + p["sqb"].reshape(2, 4), k) + jnp.moveaxis(bias, -1, 0))
        y = jnp.einsum("hqk,khc->qhc", w, v).reshape(5, 8) * jax.nn.sigmoid(s @ p["sg"])
        return s + y @ p["so"], z

    params = shapes(gatea=(6, 6), gateb=(6, 6), ina=(6, 6), inb=(6, 6), gate=(6, 6), out=(6, 6), tb=(6, 2), tg=(6, 6))
    params |= shapes(to=(6, 6), pair=(6, 2), sqb=8, sg=(8, 8), so=(8, 8))
    params |= {"t" + n: array(6, 6) for n in "qkv"} | {"s" + n: array(8, 8) for n in "qkv"}
    params |= {f"g{i}": array(8 if i == 3 else 6) for i in range(5)}
    return apply, params | {f"n{i}b": array(8 if i == 3 else 6) for i in range(5)}, (array(5, 8), array(5, 5, 6))


@zoo_model(truth={".*b": "bias > 0", "g.*": "gain > 0", "conv": "conv 1 > 2 @ 0"} | LINEAR)
def attention_pooled_windows():
    """Convolutions whose windows are pooled by a softmax of the features themselves (Enformer)."""

    def apply(p, ids):
        x = conv1d(jax.nn.one_hot(ids, 4), p["conv"]) + p["convb"]
        for i in range(2):
            windows = x.reshape(len(x), -1, 2, 6)
            w = jax.nn.softmax(windows @ p[f"pool{i}"], -2)
            x = (windows * w).sum(-2)
            x = x + jax.nn.gelu(norm(x, p["g"], p["gb"])) @ p["point"]
        return jax.nn.softplus(x.mean(1) @ p["human"] + p["humanb"]), jax.nn.softplus(x @ p["mouse"] + p["mouseb"])

    params = shapes(
        conv=(5, 4, 6), convb=6, pool0=(6, 6), pool1=(6, 6), g=6, gb=6, point=(6, 6), human=(6, 3), humanb=3
    )
    return apply, params | shapes(mouse=(6, 2), mouseb=2), (tokens(2, 8),)


@zoo_model(truth={"species": "embedding 0 > 1", "coupling": "linear 1 >"} | LINEAR)
def equivariant_products():
    """Messages of scalars and vectors, products by species, energies of which forces are gradients (MACE)."""

    def energy(p, where, kinds):
        i, j = np.array([0, 1, 2, 3, 0, 2]), np.array([1, 2, 3, 0, 2, 0])
        h = p["species"][kinds]
        r = where[i] - where[j]
        length = jnp.sqrt((r * r).sum(-1, keepdims=True) + 1e-6)
        radial = jnp.sin(length * jnp.arange(1.0, 5.0)) / length
        weights = jax.nn.silu(radial @ p["r1"]) @ p["r2"]
        a, b = jnp.split(weights, 2, -1)
        sender = (h @ p["up0"])[j]
        scalars = jax.ops.segment_sum(a * sender, i, 4) @ p["mix0"]
        vectors = jax.ops.segment_sum((b * sender)[:, :, None] * (r / length)[:, None], i, 4)
        vectors = jnp.einsum("nui,uv->nvi", vectors, p["mix1"])
        products = jnp.stack([scalars, scalars**2, (vectors**2).sum(-1)])
        m = jnp.einsum("pnu,npu->nu", products, p["coupling"][kinds])
        return (jax.nn.silu(m @ p["e1"]) @ p["e2"]).sum()

    def apply(p, where, kinds):
        e, gradient = jax.value_and_grad(energy, 1)(p, where, kinds)
        return e, -gradient

    params = shapes(species=(3, 6), r1=(4, 5), r2=(5, 12), up0=(6, 6), mix0=(6, 6), mix1=(6, 6), e1=(6, 4), e2=(4, 1))
    return apply, params | shapes(coupling=(3, 3, 6)), (array(4, 3), tokens(4))


@zoo_model(truth={r"g2m[12]|noise": "linear 0 > 1", "g2m.*b": "bias > 0", "g.*": "gain > 0"} | BIASES | LINEAR)
def forecast_on_a_mesh():
    """Grid to mesh, messages on the mesh, and back; normalised perceptrons on edges and nodes (GraphCast, GenCast)."""

    def apply(p, grid, mesh, edges, noise):
        i, j = np.array([0, 1, 2, 3, 4, 5]), np.array([0, 0, 1, 1, 2, 2])
        c = jax.nn.silu(noise[:, None] * jnp.arange(1.0, 4.0)) @ p["noise"]
        scale, shift = jnp.split(c, 2, -1)

        def block(name, *parts):
            return norm(perceptron(p, name, jnp.concatenate(parts, -1)), p["g" + name], p[name + "nb"])

        v, m, e = block("v", grid), block("m", mesh), block("e", edges)
        e = e + block("g2m", e, v[i], m[j])
        m = (m + block("agg", m, jax.ops.segment_sum(e, j, 3))) * (1 + scale) + shift
        s, r = np.array([0, 1, 2]), np.array([1, 2, 0])
        m = m + block("mm", m, jax.ops.segment_sum(block("me", m[s], m[r]), r, 3))
        v = v + block("m2g", v, m[j])
        return grid + perceptron(p, "last", v)

    params = {}
    widths = {"v": 5, "m": 3, "e": 2, "g2m": 18, "agg": 12, "mm": 12, "me": 12, "m2g": 12}
    for name, n in widths.items():
        params |= of_perceptron(name, n, 7, 6) | {"g" + name: array(6), name + "nb": array(6)}
    params |= of_perceptron("last", 6, 7, 5) | shapes(noise=(3, 12))
    return apply, params, (array(6, 5), array(3, 3), array(6, 2), array(1))


@zoo_model(
    truth={"f0": "linear 0 > 1", "decay": "gain > 0", "short": "depthwise 1 > 2 @ 0 / 12", "skip": "gain > 0"}
    | BIASES
    | LINEAR
)
def striped_hyena():
    """Long convolutions whose filters a field makes of time, between gates (Hyena, Evo)."""

    def apply(p, x):
        t = x.shape[1]
        q, k, v = jnp.split(conv1d(x @ p["in"], p["short"], groups=12), 3, -1)
        where = jnp.linspace(0, 1, t)[:, None]
        features = jnp.concatenate([where, jnp.cos(where), jnp.sin(where)], -1)
        h = jnp.sin(features @ p["f0"] + p["f0b"]) @ p["f1"] * jnp.exp(-where * jnp.abs(p["decay"]))
        u = k * v
        y = jnp.fft.irfft(jnp.fft.rfft(h, 2 * t, axis=0) * jnp.fft.rfft(u, 2 * t, axis=1), 2 * t, axis=1)[:, :t]
        return (q * (y + u * p["skip"])) @ p["out"]

    params = shapes(**{"in": (6, 12)}, short=(3, 1, 12), f0=(3, 5), f0b=5, f1=(5, 4), decay=4, skip=4, out=(4, 6))
    return apply, params, (array(2, 8, 6),)


@zoo_model(truth=BIASES | {"tables": "embedding 1 > 2"} | LINEAR)
def hash_grids():
    """Features of eight corners at several resolutions, looked up by hashes (Instant NGP)."""

    def corner(tables, x):
        def level(table, n):
            place = x * n
            low = jnp.floor(place).astype(jnp.uint32)
            w = place - low
            found = 0.0
            for a in (0, 1):
                for b in (0, 1):
                    at = low + jnp.array([a, b], jnp.uint32)
                    key = (at[0] ^ (at[1] * jnp.uint32(2654435761))) % jnp.uint32(16)
                    share = (w[0] if a else 1 - w[0]) * (w[1] if b else 1 - w[1])
                    found = found + share * table[key]
            return found

        return jax.vmap(level)(tables, 2.0 ** jnp.arange(3)).reshape(-1)

    def apply(p, x):
        h = jax.vmap(corner, (None, 0))(p["tables"], x)
        return jax.nn.relu(h @ p["w1"] + p["w1b"]) @ p["w2"]

    return apply, shapes(tables=(3, 16, 2), w1=(6, 8), w1b=8, w2=(8, 4)), (array(5, 2),)


@zoo_model(truth={r".*b\d?": "bias > 0", r".*": "linear 0 > 1"})
def separable_physics():
    """One network for each coordinate, whose outputs are multiplied; the residual has derivatives of each (SPINN)."""

    def body(p, x):
        return jnp.tanh(jnp.tanh(x @ p["0"] + p["0b"]) @ p["1"] + p["1b"]) @ p["2"]

    def field(p, x, t):
        return jnp.einsum("xr,tr->xt", body(p["x"], x), body(p["t"], t))

    def apply(p, x, t):
        ones = jnp.ones_like
        u_t = jax.jvp(lambda t: field(p, x, t), (t,), (ones(t),))[1]
        u_x = lambda x: jax.jvp(lambda x: field(p, x, t), (x,), (ones(x),))[1]  # noqa: E731
        u_xx = jax.jvp(u_x, (x,), (ones(x),))[1]
        return ((u_t - u_xx) ** 2).mean()

    net = shapes(**{"0": (1, 8), "0b": 8, "1": (8, 8), "1b": 8, "2": (8, 5)})
    return apply, {"x": net, "t": net}, (array(6, 1), array(7, 1))


@zoo_model(truth={"w0": "linear 0 > 1", "w1|w2": "linear 0 > 1", "latents": "embedding 0 > 1"} | BIASES | LINEAR)
def periodic_field_with_latents():
    """SIREN whose sines are shifted by a table of latents, one for each image (functa)."""

    def apply(p, x, image):
        shifts = (p["latents"][image] @ p["map"] + p["mapb"]).reshape(2, 1, 2, 8)
        h = x
        for i in range(2):
            h = jnp.sin(30.0 * (h @ p[f"w{i}"] + p[f"w{i}b"] + shifts[:, :, i]))
        return h @ p["w2"] + p["w2b"]

    params = shapes(latents=(9, 5), map=(5, 16), mapb=16, w0=(2, 8), w0b=8, w1=(8, 8), w1b=8, w2=(8, 3), w2b=3)
    return apply, params, (array(2, 7, 2), tokens(2))


@zoo_model(truth={".*spline": "linear 0 2 > 1", ".*base": "linear 0 > 1"})
def splines_on_edges():
    """A sum of splines for each edge, beside a layer of an activation (KAN)."""

    def bases(x):
        grid = jnp.linspace(-1.5, 1.5, 7)
        x = x[..., None]
        b = ((x >= grid[:-1]) & (x < grid[1:])).astype(x.dtype)
        for k in (1, 2):
            left = (x - grid[: -(k + 1)]) / (grid[k:-1] - grid[: -(k + 1)]) * b[..., :-1]
            b = left + (grid[k + 1 :] - x) / (grid[k + 1 :] - grid[1:-k]) * b[..., 1:]
        return b

    def apply(p, x):
        for layer in p:
            x = jax.nn.silu(x) @ layer["base"] + jnp.einsum("bik,iok->bo", bases(x), layer["spline"])
        return x

    layers = [shapes(base=(3, 5), spline=(3, 5, 4)), shapes(base=(5, 2), spline=(5, 2, 4))]
    return apply, layers, (array(6, 3),)


@zoo_model(truth={"f2|f2b": "unknown"} | BIASES | LINEAR)
def neural_controlled_differential_equation():
    """A matrix of the state times the slope of a path, integrated by steps of Heun (neural CDE)."""

    def apply(p, path):
        def field(h):
            return jnp.tanh(jax.nn.relu(h @ p["f1"] + p["f1b"]) @ p["f2"] + p["f2b"]).reshape(*h.shape, 3)

        def step(h, slope):
            k1 = jnp.einsum("bhc,bc->bh", field(h), slope)
            k2 = jnp.einsum("bhc,bc->bh", field(h + k1), slope)
            return h + 0.5 * (k1 + k2), None

        slopes = jnp.diff(path, axis=1).swapaxes(0, 1)
        h = lax.scan(step, path[:, 0] @ p["start"] + p["startb"], slopes)[0]
        return h @ p["head"] + p["headb"]

    params = shapes(f1=(6, 8), f1b=8, f2=(8, 18), f2b=18, start=(3, 6), startb=6, head=(6, 2), headb=2)
    return apply, params, (array(2, 7, 3),)
