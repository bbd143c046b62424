"""Plain JAX: images, as the published code writes them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import norm, shapes

LINEAR = {r"[\w/]*": "linear 0 > 1"}


def conv(x, w, groups=1, stride=1, padding="SAME", numbers=("NHWC", "HWIO", "NHWC")):
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, feature_group_count=groups, dimension_numbers=numbers
    )


@zoo_model(
    truth={
        "dw": "depthwise 2 > 3 @ 0 1 / 6",
        "g": "gain > 0",
        "b": "bias > 0",
        "gamma": "gain > 3",
        "beta": "bias > 3",
        "stem": "conv 2 > 3 @ 0 1",
    }
    | LINEAR
)
def convnext_v2():
    """Responses of channels are normalised by their length over the image."""

    def apply(p, x):
        x = conv(x, p["stem"], stride=2)
        h = norm(conv(x, p["dw"], groups=6), p["g"], p["b"])
        h = jax.nn.gelu(h @ p["up"])
        length = jnp.sqrt((h**2).sum((1, 2), keepdims=True) + 1e-6)
        h = p["gamma"] * (h * (length / (length.mean(-1, keepdims=True) + 1e-6))) + p["beta"] + h
        return (x + h @ p["down"]).mean((1, 2)) @ p["head"]

    params = shapes(stem=(2, 2, 3, 6), dw=(5, 5, 1, 6), g=6, b=6, up=(6, 20), down=(20, 6), head=(6, 4))
    return apply, params | shapes(gamma=(1, 1, 1, 20), beta=(1, 1, 1, 20)), (array(2, 8, 8, 3),)


@zoo_model(
    truth={
        "table": "embedding 0 > 1",
        "[qv]b": "bias > 0 1",
        "qkv": "linear 0 > 1 2 3",
        "scale": "gain > 0",
        "cpb1": "linear 0 > 1",
        "cpb2": "linear 0 > 1",
        "o": "linear 0 > 1",
        "merge": "linear 0 > 1",
    }
)
def swin_v2():
    """Windows that are shifted, cosine attention with a learned scale, a bias made of distances, merging of patches."""
    heads, c, window = 3, 4, 4

    def windows(x):
        b, h, w, d = x.shape
        x = x.reshape(b, h // window, window, w // window, window, d)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, window * window, d)

    def back(x, b, h, w):
        x = x.reshape(b, h // window, w // window, window, window, -1)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)

    steps = np.stack(np.meshgrid(np.arange(-3, 4), np.arange(-3, 4), indexing="ij"), -1).astype(np.float32) / 3
    places = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1).reshape(-1, 2)
    apart = places[:, None] - places[None] + 3
    index = apart[..., 0] * 7 + apart[..., 1]

    def apply(p, x):
        b, h, w = x.shape[:3]
        y = windows(jnp.roll(x, (-2, -2), (1, 2)))
        qkv = jnp.einsum("ntd,dshc->snthc", y, p["qkv"])
        q, k, v = qkv[0] + p["qb"], qkv[1], qkv[2] + p["vb"]
        q, k = (z / jnp.linalg.norm(z, axis=-1, keepdims=True) for z in (q, k))
        scores = jnp.einsum("nthc,nshc->nhts", q, k) * jnp.exp(jnp.minimum(p["scale"], 4.6))
        table = (jax.nn.relu(steps.reshape(-1, 2) @ p["cpb1"]) @ p["cpb2"])[index.reshape(-1)]
        bias = 16 * jax.nn.sigmoid(table.reshape(16, 16, heads).transpose(2, 0, 1))
        y = jnp.einsum("nhts,nshc->nthc", jax.nn.softmax(scores + bias), v).reshape(-1, 16, heads * c) @ p["o"]
        x = x + jnp.roll(back(y, b, h, w), (2, 2), (1, 2))
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return jnp.concatenate(parts, -1) @ p["merge"]

    params = shapes(
        qkv=(10, 3, heads, c), qb=(heads, c), vb=(heads, c), scale=(heads, 1, 1), cpb1=(2, 9), cpb2=(9, heads)
    )
    return apply, params | shapes(o=(12, 10), merge=(40, 20)), (array(2, 8, 8, 10),)


@zoo_model(
    truth={
        r"\w+/scale": "gain > 0",
        r".*/bias": "bias > 0",
        "dw/w": "depthwise 2 > 3 @ 0 1 / 12",
        ".*/w": "conv 2 > 3 @ 0 1",
    }
    | LINEAR
)
def efficientnet():
    """An inverted bottleneck whose channels are gated by what they are on average."""

    def bn(p, x):
        return (x - x.mean((0, 1, 2))) * lax.rsqrt(x.var((0, 1, 2)) + 1e-3) * p["scale"] + p["bias"]

    def apply(p, x):
        x = jax.nn.silu(bn(p["bn0"], conv(x, p["stem"]["w"], stride=2)))
        h = jax.nn.silu(bn(p["bn1"], conv(x, p["expand"]["w"])))
        h = jax.nn.silu(bn(p["bn2"], conv(h, p["dw"]["w"], groups=12)))
        gate = h.mean((1, 2), keepdims=True)
        gate = conv(jax.nn.silu(conv(gate, p["reduce"]["w"]) + p["reduce"]["bias"]), p["grow"]["w"]) + p["grow"]["bias"]
        x = x + bn(p["bn3"], conv(h * jax.nn.sigmoid(gate), p["project"]["w"]))
        return x.mean((1, 2)) @ p["head"]["kernel"] + p["head"]["bias"]

    params = {n: shapes(scale=d, bias=d) for n, d in (("bn0", 4), ("bn1", 12), ("bn2", 12), ("bn3", 4))}
    params |= {"stem": shapes(w=(3, 3, 3, 4)), "expand": shapes(w=(1, 1, 4, 12)), "dw": shapes(w=(5, 5, 1, 12))}
    params |= {"reduce": shapes(w=(1, 1, 12, 3), bias=3), "grow": shapes(w=(1, 1, 3, 12), bias=12)}
    params |= {"project": shapes(w=(1, 1, 12, 4)), "head": shapes(kernel=(4, 5), bias=5)}
    return apply, params, (array(2, 8, 8, 3),)


@zoo_model(
    truth={
        r"\w+/g": "gain > 0",
        r"\w+/b": "bias > 0",
        "qkv": "conv 1 > 0 @ 2 3",
        "time1": "linear 0 > 1",
        "time2": "linear 0 > 1",
        "emb": "linear 0 > 1",
        "label": "embedding 0 > 1",
        r"\w*": "conv 1 > 0 @ 2 3",
    }
)
def unet_of_diffusion():
    """NCHW and kernels of PyTorch: times scale and shift what group norms leave, attention by 1x1 convolutions."""
    heads = 2
    numbers = ("NCHW", "OIHW", "NCHW")

    def gn(p, x):
        b, c, h, w = x.shape
        y = x.reshape(b, 2, c // 2, h, w)
        y = (y - y.mean((2, 3, 4), keepdims=True)) * lax.rsqrt(y.var((2, 3, 4), keepdims=True) + 1e-5)
        return y.reshape(x.shape) * p["g"][:, None, None] + p["b"][:, None, None]

    def times(t):
        f = jnp.exp(-np.log(1e4) * jnp.arange(4) / 4)
        return jnp.concatenate([jnp.cos(t[:, None] * f), jnp.sin(t[:, None] * f)], -1)

    def attend(p, x):
        b, c, h, w = x.shape
        q, k, v = jnp.split(conv(gn(p["n3"], x), p["qkv"], numbers=numbers), 3, 1)
        q, k, v = (z.reshape(b * heads, c // heads, h * w) for z in (q, k, v))
        weights = jax.nn.softmax(jnp.einsum("bct,bcs->bts", q, k) * (c / heads) ** -0.5)
        y = jnp.einsum("bts,bcs->bct", weights, v).reshape(b, c, h, w)
        return x + conv(y, p["out"], numbers=numbers)

    def apply(p, x, t, y):
        e = jax.nn.silu(times(t) @ p["time1"]) @ p["time2"] + p["label"][y]
        x = conv(x, p["in"], numbers=numbers)
        h = conv(jax.nn.silu(gn(p["n1"], x)), p["c1"], numbers=numbers)
        scale, shift = jnp.split((jax.nn.silu(e) @ p["emb"])[:, :, None, None], 2, 1)
        h = gn(p["n2"], h) * (1 + scale) + shift
        x = attend(p, x + conv(jax.nn.silu(h), p["c2"], numbers=numbers))
        d = conv(x, p["down"], stride=2, numbers=numbers)
        u = jax.image.resize(d, x.shape, "nearest")
        return conv(jnp.concatenate([x, conv(u, p["up"], numbers=numbers)], 1), p["last"], numbers=numbers)

    params = {"in": array(8, 3, 3, 3)} | {n: shapes(g=8, b=8) for n in ("n1", "n2", "n3")}
    params |= shapes(
        c1=(8, 8, 3, 3), c2=(8, 8, 3, 3), down=(8, 8, 3, 3), up=(8, 8, 3, 3), qkv=(24, 8, 1, 1), out=(8, 8, 1, 1)
    )
    params |= shapes(last=(3, 16, 3, 3), time1=(8, 12), time2=(12, 12), emb=(12, 16), label=(10, 12))
    return apply, params, (array(2, 3, 8, 8), array(2), tokens(2))


@zoo_model(
    truth={
        "v": "linear 0 > 1",
        "g": "gain > 0",
        "cls|register|pos": "positional 1 > 2",
        "ls": "gain > 0",
        "patch": "conv 2 > 3 @ 0 1",
        "qkv": "linear 0 > 1",
        "b.": "bias > 0",
    }
    | LINEAR
)
def dino_v2():
    """Registers and a class token before patches, scales of layers, and a head whose last layer is normalised."""

    def apply(p, x):
        b = len(x)
        x = conv(x, p["patch"], stride=4, padding="VALID").reshape(b, -1, 12) + p["b0"]
        x = jnp.concatenate([jnp.broadcast_to(p["cls"], (b, 1, 12)), x], 1) + p["pos"]
        x = jnp.concatenate([x[:, :1], jnp.broadcast_to(p["register"], (b, 3, 12)), x[:, 1:]], 1)
        q, k, v = (x @ p["qkv"] + p["b1"]).reshape(b, -1, 3, 2, 6).transpose(2, 0, 3, 1, 4)
        w = jax.nn.softmax((q * 6**-0.5) @ k.swapaxes(-1, -2))
        x = x + p["ls"] * ((w @ v).swapaxes(1, 2).reshape(b, -1, 12) @ p["o"])
        z = jax.nn.gelu(x[:, 0] @ p["h0"]) @ p["h1"]
        z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
        return z @ (p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True))

    params = shapes(
        patch=(4, 4, 3, 12), b0=12, cls=(1, 1, 12), register=(1, 3, 12), pos=(1, 5, 12), qkv=(12, 36), b1=36
    )
    params |= shapes(o=(12, 12), ls=12, h0=(12, 20), h1=(20, 7), v=(7, 15), g=15)
    return apply, params, (array(2, 8, 8, 3),)


@zoo_model(
    truth={
        "tokens": "embedding 0 > 1",
        "pos": "positional 0 > 1",
        "t": "gain >",
        "b": "bias >",
        "patch": "linear 0 > 1",
    }
    | LINEAR
)
def siglip():
    """Two towers, whose normalised outputs are compared with a learned scale and a learned bias."""

    def apply(p, image, text):
        x = image.reshape(4, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(4, 4, 48) @ p["patch"]
        x = jax.nn.gelu(x @ p["up"]).mean(1) @ p["image"]
        y = p["tokens"][text] + p["pos"]
        y = jax.nn.gelu(y @ p["text_up"])[:, -1] @ p["text"]
        x, y = (z / jnp.linalg.norm(z, axis=-1, keepdims=True) for z in (x, y))
        logits = x @ y.T * jnp.exp(p["t"]) + p["b"]
        return -jax.nn.log_sigmoid((2 * jnp.eye(4) - 1) * logits).sum(-1).mean()

    params = shapes(
        patch=(48, 10), up=(10, 20), image=(20, 8), tokens=(17, 9), pos=(5, 9), text_up=(9, 12), text=(12, 8)
    )
    return apply, params | shapes(t=(), b=()), (array(4, 8, 8, 3), tokens(4, 5))


@zoo_model(
    truth={
        "not_a_point|no_mask": "bias > 0",
        "points": "bias > 1",
        "iou|masks": "positional 0 > 1",
        r"hyper/\d/0": "linear 0 > 1",
        r"up\d": "conv 2 > 3 @ 0 1",
    }
    | LINEAR
)
def segment_anything():
    """Tokens for masks and their quality attend to an image and back; each mask token makes a filter of the image."""

    def attend(p, q, k, v):
        q, k, v = q @ p["q"], k @ p["k"], v @ p["v"]
        q, k, v = (z.reshape(*z.shape[:2], 2, -1).swapaxes(1, 2) for z in (q, k, v))
        y = jax.nn.softmax(q @ k.mT / 2) @ v
        return y.swapaxes(1, 2).reshape(y.shape[0], -1, 8) @ p["o"]

    def apply(p, image, positions, points, labels):
        angles = 2 * np.pi * points @ p["gaussian"]
        sparse = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        sparse = jnp.where((labels == -1)[..., None], p["not_a_point"], sparse)
        sparse = (
            sparse
            + jnp.where((labels == 0)[..., None], p["points"][0], 0)
            + jnp.where((labels == 1)[..., None], p["points"][1], 0)
        )
        output = jnp.concatenate([p["iou"], p["masks"]], 0)
        tokens = jnp.concatenate([jnp.broadcast_to(output, (len(points), *output.shape)), sparse], 1)
        src = image.reshape(len(image), -1, 8) + p["no_mask"]
        place = positions.reshape(1, -1, 8)
        q = tokens + attend(p["self"], tokens, tokens, tokens)
        q = q + attend(p["cross"], q + tokens, src + place, src)
        src = src + attend(p["back"], src + place, q + tokens, q)
        image = src.reshape(len(points), 4, 4, 8)
        up = lax.conv_transpose(image, p["up0"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        up = lax.conv_transpose(jax.nn.gelu(up), p["up1"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        hyper = jnp.stack(
            [jax.nn.relu(q[:, 1 + i] @ p["hyper"][str(i)]["0"]) @ p["hyper"][str(i)]["1"] for i in range(3)], 1
        )
        masks = jnp.einsum("bmc,bhwc->bmhw", hyper, up)
        return masks, jax.nn.relu(q[:, 0] @ p["iou0"]) @ p["iou1"]

    attention = {n: array(8, 8) for n in "qkvo"}
    params = {n: dict(attention) for n in ("self", "cross", "back")} | {
        "hyper": {str(i): {"0": array(8, 8), "1": array(8, 3)} for i in range(3)}
    }
    params |= shapes(
        gaussian=(2, 4),
        not_a_point=8,
        points=(2, 8),
        iou=(1, 8),
        masks=(3, 8),
        no_mask=8,
        up0=(2, 2, 8, 5),
        up1=(2, 2, 5, 3),
    )
    params |= shapes(iou0=(8, 9), iou1=(9, 3))
    return apply, params, (array(2, 4, 4, 8), array(4, 4, 8), array(2, 3, 2), tokens(2, 3))


@zoo_model(
    truth={
        r".*/b|mask_b": "bias > 0",
        "fpn/.*": "conv 2 > 3 @ 0 1",
        "mask1": "conv 2 > 3 @ 0 1",
        "rpn": "conv 2 > 3 @ 0 1",
        "up": "conv 2 > 3 @ 0 1",
        "out": "conv 2 > 3 @ 0 1",
    }
    | LINEAR
)
def mask_rcnn():
    """Heads over a pyramid that all levels share, and regions that are cropped by bilinear weights."""

    def crop(image, box):
        y = box[0] + (box[2] - box[0]) * (jnp.arange(3) + 0.5) / 3
        x = box[1] + (box[3] - box[1]) * (jnp.arange(3) + 0.5) / 3
        wy = jax.nn.relu(1 - jnp.abs(y[:, None] - jnp.arange(image.shape[0])))
        wx = jax.nn.relu(1 - jnp.abs(x[:, None] - jnp.arange(image.shape[1])))
        return jnp.einsum("yh,xw,hwc->yxc", wy, wx, image)

    def apply(p, c3, c4, boxes):
        p4 = conv(c4, p["fpn"]["l4"])
        p3 = conv(c3, p["fpn"]["l3"]) + jnp.repeat(jnp.repeat(p4, 2, 1), 2, 2)
        objectness = [conv(jax.nn.relu(conv(level, p["rpn"])), p["fpn"]["obj"]) for level in (p3, p4)]
        regions = jax.vmap(lambda image, boxes: jax.vmap(lambda box: crop(image, box))(boxes))(p3, boxes)
        flat = jax.nn.relu(regions.reshape(*regions.shape[:2], -1) @ p["fc"])
        m = regions.reshape(-1, 3, 3, 6)
        m = jax.nn.relu(conv(m, p["mask1"]) + p["mask_b"])
        m = jax.nn.relu(lax.conv_transpose(m, p["up"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        return objectness, flat @ p["cls"], flat @ p["box"], conv(m, p["out"])

    params = {"fpn": shapes(l3=(1, 1, 5, 6), l4=(1, 1, 7, 6), obj=(1, 1, 6, 3))} | shapes(rpn=(3, 3, 6, 6), fc=(54, 12))
    params |= shapes(mask1=(3, 3, 6, 8), mask_b=8, up=(2, 2, 8, 6), out=(1, 1, 6, 4), cls=(12, 4), box=(12, 16))
    return apply, params, (array(2, 8, 8, 5), array(2, 4, 4, 7), array(2, 5, 4))


@zoo_model(
    truth={
        "up": "linear 0 > 1",
        "dw": "depthwise 2 > 3 @ 0 1 / 16",
        "table": "embedding 0 1 > 2",
        "qkv": "linear 0 > 1",
        "o": "linear 0 1 > 2",
        "down": "linear 0 > 1",
    }
)
def max_vit():
    """Attention within blocks and across a grid, by transposes of one reshape, with a table of relative places."""

    def attend(p, x):
        n, t = x.shape[:2]
        q, k, v = jnp.split((x @ p["qkv"]).reshape(n, t, 2, 18), 3, -1)
        place = np.stack(np.meshgrid(np.arange(2), np.arange(2), indexing="ij"), -1).reshape(-1, 2)
        apart = place[:, None] - place[None] + 1
        bias = p["table"][apart[..., 0], apart[..., 1]]
        scores = jnp.einsum("nthc,nshc->nhts", q, k) + jnp.moveaxis(bias, -1, 0)
        return jnp.einsum("nhts,nshc,hcd->ntd", jax.nn.softmax(scores), v, p["o"])

    def apply(p, x):
        b, h, w, d = x.shape
        y = jax.nn.gelu(conv(jax.nn.gelu(x @ p["up"]), p["dw"], groups=16)) @ p["down"]
        x = x + y
        blocks = x.reshape(b, h // 2, 2, w // 2, 2, d).transpose(0, 1, 3, 2, 4, 5)
        x = x + attend(p, blocks.reshape(-1, 4, d)).reshape(blocks.shape).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
        grid = x.reshape(b, 2, h // 2, 2, w // 2, d).transpose(0, 2, 4, 1, 3, 5)
        y = attend(p, grid.reshape(-1, 4, d)).reshape(grid.shape).transpose(0, 3, 1, 4, 2, 5).reshape(x.shape)
        return x + y

    return (
        apply,
        shapes(up=(10, 16), dw=(3, 3, 1, 16), down=(16, 10), qkv=(10, 36), table=(3, 3, 2), o=(2, 6, 10)),
        (array(2, 4, 8, 10),),
    )
