"""Plain JAX: audio, as the published code writes them."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, zoo_model
from tests.zoo.plain import conv1d, norm, shapes

LINEAR = {r"[\w/]*": "linear 0 > 1"}


@zoo_model(
    truth={
        r"ln\d/g|bn/g": "gain > 0",
        r"ln\d/b|bn/b|.*/bias": "bias > 0",
        "[uv]": "bias > 0 1",
        "dw": "depthwise 1 > 2 @ 0 / 12",
        r"pw\d": "conv 1 > 2 @ 0",
        "qkv": "linear 1 > 0 2 3",
        "pos": "linear 0 > 1 2",
        "out": "linear 0 1 > 2",
    }
    | LINEAR
)
def conformer():
    """Half steps of two feed-forward layers, relative attention with two biases, a convolution with a gate."""
    d, h, c = 12, 3, 4

    def ff(p, x, i):
        y = norm(x, p[f"ln{i}"]["g"], p[f"ln{i}"]["b"])
        y = jax.nn.silu(y @ p[f"up{i}"] + p[f"up{i}b"]["bias"])
        return y @ p[f"down{i}"] + p[f"down{i}b"]["bias"]

    def shift(scores):
        b, n, t, r = scores.shape
        padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0))).reshape(b, n, r + 1, t)
        return padded[:, :, 1:].reshape(b, n, t, r)[..., :t]

    def attend(p, x, positions):
        y = norm(x, p["ln2"]["g"], p["ln2"]["b"])
        q, k, v = jnp.einsum("btd,sdhc->sbthc", y, p["qkv"].transpose(0, 1, 2, 3))
        r = jnp.einsum("rd,dhc->rhc", positions, p["pos"])
        content = jnp.einsum("bthc,bshc->bhts", q + p["u"], k)
        place = shift(jnp.einsum("bthc,rhc->bhtr", q + p["v"], r))
        w = jax.nn.softmax((content + place) / c**0.5)
        return jnp.einsum("bhts,bshc,hcd->btd", w, v, p["out"])

    def convolve(p, x):
        y = norm(x, p["ln3"]["g"], p["ln3"]["b"])
        a, b = jnp.split(conv1d(y, p["pw1"]), 2, -1)
        y = conv1d(a * jax.nn.sigmoid(b), p["dw"], groups=d)
        y = (y - y.mean((0, 1))) * lax.rsqrt(y.var((0, 1)) + 1e-5) * p["bn"]["g"] + p["bn"]["b"]
        return conv1d(jax.nn.silu(y), p["pw2"])

    def apply(p, x, positions):
        x = x @ p["in"]
        x = x + 0.5 * ff(p, x, 1)
        x = x + attend(p, x, positions)
        x = x + convolve(p, x)
        x = x + 0.5 * ff(p, x, 4)
        return norm(x, p["ln5"]["g"], p["ln5"]["b"]) @ p["head"]

    params = shapes(qkv=(3, d, h, c), pos=(10, h, c), u=(h, c), v=(h, c), out=(h, c, d), pw1=(1, d, 2 * d))
    params |= shapes(pw2=(1, d, d), dw=(5, 1, d), up1=(d, 20), down1=(20, d), up4=(d, 20), down4=(20, d))
    params |= {"in": array(9, d), "head": array(d, 6), "bn": shapes(g=d, b=d)}
    params |= {f"ln{i}": shapes(g=d, b=d) for i in (1, 2, 3, 4, 5)}
    params |= {f"{n}{i}b": {"bias": array(k)} for n, k in (("up", 20), ("down", d)) for i in (1, 4)}
    return apply, params, (array(2, 7, 9), array(13, 10))


@zoo_model(
    truth={
        r"feature/\d/w": "conv 1 > 2 @ 0",
        r".*/[gs]": "gain > 0",
        r".*/b": "bias > 0",
        "mask": "bias > 0",
        "pos/v": "conv 1 > 2 @ 0 / 2",
        "pos/gain": "gain > 0",
        "codes": "linear 1 > 2",
    }
    | LINEAR
)
def wav2vec():
    """Features of a waveform, masked by a learned vector, with a grouped convolution as positions; codes by Gumbel."""

    def feature(p, x):
        for i, stride in enumerate((3, 2)):
            layer = p["feature"][str(i)]
            x = conv1d(x, layer["w"], stride=stride, padding="VALID") + layer["b"]
            x = jax.nn.gelu(norm(x, layer["s"], layer["o"]["b"]))
        return x

    def apply(p, wave, mask, noise):
        z = feature(p, wave[..., None])
        h = z @ p["project"]
        h = jnp.where(mask[..., None], p["mask"], h)
        v = p["pos"]["v"]
        w = p["pos"]["gain"][:, None, None] * v / jnp.linalg.norm(v, axis=(1, 2), keepdims=True)
        h = h + jax.nn.gelu(conv1d(h, w, groups=2) + p["pos"]["bias"]["b"])
        scores = (z @ p["score"]).reshape(*z.shape[:2], 2, 5)
        hard = jax.nn.one_hot(jnp.argmax(scores + noise, -1), 5)
        soft = jax.nn.softmax(scores + noise)
        picked = hard + soft - lax.stop_gradient(soft)
        codes = jnp.einsum("btgv,gvc->btgc", picked, p["codes"]).reshape(*z.shape[:2], -1)
        return jax.nn.gelu(h @ p["ff"]) @ p["out"], codes @ p["target"]

    features = {"0": shapes(w=(5, 1, 8), b=8, s=8), "1": shapes(w=(3, 8, 10), b=10, s=10)}
    features = {i: feature | {"o": shapes(b=feature["b"].shape)} for i, feature in features.items()}
    params = {"feature": features, "pos": shapes(v=(4, 6, 12), gain=4) | {"bias": shapes(b=12)}}
    params |= shapes(
        project=(10, 12), mask=12, score=(10, 10), codes=(2, 5, 6), ff=(12, 20), out=(20, 9), target=(12, 9)
    )
    return apply, params, (array(2, 40), array(2, 5, dtype=jnp.bool_), array(2, 5, 2, 5))


@zoo_model(
    truth={
        r".*/v": "conv 1 > 2 @ 0",
        r".*/g": "gain > 0",
        r".*/b": "bias > 0",
        r".*/alpha": "gain > 0",
        "books": "embedding 1 > 2",
    }
)
def residual_vector_quantiser():
    """Encodec: convolutions with normalised weights, and codebooks of what those before left over."""

    def layer(p, x, **how):
        w = p["g"] * p["v"] / jnp.sqrt(jnp.sum(p["v"] ** 2, (0, 1), keepdims=True))
        return conv1d(x, w, **how) + p["b"]

    def snake(p, x):
        return x + jnp.sin(p["alpha"] * x) ** 2 / (p["alpha"] + 1e-9)

    def quantise(books, x):
        def step(left, book):
            distance = (left**2).sum(-1, keepdims=True) - 2 * left @ book.T + (book**2).sum(-1)
            found = book[jnp.argmin(distance, -1)]
            return left - found, (found, jnp.mean((left - lax.stop_gradient(found)) ** 2))

        _, (found, losses) = lax.scan(step, x, books)
        total = found.sum(0)
        return x + lax.stop_gradient(total - x), losses.sum() + jnp.mean((total - lax.stop_gradient(x)) ** 2)

    def apply(p, wave):
        x = layer(p["in"], wave[..., None])
        x = x + layer(p["res2"], snake(p["act"], layer(p["res1"], x, dilation=2)))
        z, loss = quantise(p["books"], layer(p["down"], jax.nn.elu(x), stride=2))
        up = jnp.repeat(z, 2, 1)
        return layer(p["out"], jax.nn.elu(layer(p["up"], up))), loss

    def of(width, n_in, n_out):
        return shapes(v=(width, n_in, n_out), g=n_out, b=n_out)

    params = {"in": of(7, 1, 6), "res1": of(3, 6, 5), "res2": of(1, 5, 6), "act": shapes(alpha=5)}
    params |= {"down": of(4, 6, 8), "up": of(3, 8, 6), "out": of(7, 6, 1)} | shapes(books=(3, 9, 8))
    return apply, params, (array(2, 12),)


@zoo_model(truth={"up/v": "conv 1 > 2 @ 0", r".*/v": "conv 2 > 1 @ 0", r".*/g": "gain > 0", r".*/b": "bias > 0"})
def hifi_gan():
    """A transposed convolution, and blocks of several widths that are averaged; kernels of PyTorch, normalised."""

    def normed(p):
        return p["g"][:, None] * p["v"] / jnp.sqrt((p["v"] ** 2).sum((0, 2), keepdims=True))

    def layer(p, x, d=1):
        return (
            lax.conv_general_dilated(
                x, normed(p), (1,), "SAME", rhs_dilation=(d,), dimension_numbers=("NCW", "WOI", "NCW")
            )
            + p["b"][:, None]
        )

    def apply(p, mel):
        x = layer(p["pre"], mel)
        w = p["up"]["g"][:, None] * p["up"]["v"] / jnp.sqrt((p["up"]["v"] ** 2).sum((0, 2), keepdims=True))
        x = (
            lax.conv_transpose(jax.nn.leaky_relu(x, 0.1), w, (2,), "SAME", dimension_numbers=("NCW", "WIO", "NCW"))
            + p["up"]["b"][:, None]
        )
        total = 0
        for k in ("k3", "k5"):
            y = x
            for i, d in enumerate((1, 3)):
                y = y + layer(
                    p[k][str(2 * i + 1)], jax.nn.leaky_relu(layer(p[k][str(2 * i)], jax.nn.leaky_relu(y, 0.1), d), 0.1)
                )
            total = total + y
        return jnp.tanh(layer(p["post"], jax.nn.leaky_relu(total / 2)))

    def of(width, n_in, n_out):
        return shapes(v=(width, n_out, n_in), g=n_out, b=n_out)

    params = {"pre": of(7, 10, 8), "post": of(7, 6, 1), "up": shapes(v=(4, 8, 6), g=8, b=6)}
    params |= {k: {str(i): of(int(k[1]), 6, 6) for i in range(4)} for k in ("k3", "k5")}
    return apply, params, (array(2, 10, 9),)
