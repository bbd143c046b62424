"""Plain JAX: kernels whose inputs data scale, and tables that data scale, in the forms that generators have them."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, zoo_model
from tests.zoo.plain import shapes
from tests.zoo.plain_published import LINEAR, convolved

IMAGES, STYLES = array(2, 5, 5, 6), array(2, 5)
TRUTH = {"k": "conv 2 > 3 @ 0 1", "c": "bias > 0", "noise": "gain >"} | LINEAR


def demodulated(kernel, axes):
    return kernel * lax.rsqrt((kernel**2).sum(axes, keepdims=True) + 1e-8)


@zoo_model(truth=TRUTH)
def a_kernel_for_each_sample():
    def apply(p, x, z, noise):
        def convolve(x, style):
            return convolved(x[None], demodulated(p["k"] * style[:, None], (0, 1, 2)))[0]

        y = jax.vmap(convolve)(x, z @ p["style"]) + noise * p["noise"] + p["c"]
        return jax.nn.relu(y) @ p["o"]

    params = shapes(k=(3, 3, 6, 8), style=(5, 6), noise=(), c=8, o=(8, 3))
    return apply, params, (IMAGES, STYLES, array(2, 5, 5, 1))


@zoo_model(truth=TRUTH | {"k": "conv 1 > 0 @ 2 3"})
def samples_as_groups():
    def apply(p, x, z):
        kernels = demodulated(p["k"] * (z @ p["style"])[:, None, :, None, None], (2, 3, 4)).reshape(-1, 6, 3, 3)
        images = x.transpose(0, 3, 1, 2).reshape(1, -1, 5, 5)
        numbers = ("NCHW", "OIHW", "NCHW")
        y = lax.conv_general_dilated(
            images, kernels, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=len(x)
        )
        return jnp.einsum("bchw,co->bo", jax.nn.relu(y.reshape(len(x), 8, 5, 5)), p["o"])

    return apply, shapes(k=(8, 6, 3, 3), style=(5, 6), o=(8, 3)), (IMAGES, STYLES)


@zoo_model(truth=LINEAR)
def a_matrix_for_each_sample():
    def apply(p, x, z):
        generate = lambda x, style: x @ demodulated(p["w"] * style[:, None], 0)  # noqa: E731
        return jax.nn.relu(jax.vmap(generate)(x, z @ p["style"])) @ p["o"]

    return apply, shapes(w=(6, 8), style=(5, 6), o=(8, 3)), (array(2, 9, 6), STYLES)


@zoo_model(truth={"k": "unknown", "t": "linear 1 > 0"} | LINEAR)
def table_style_and_kernel():
    """The style meets the kernel first: which one is the table cannot be told, and the other is a guess."""

    def apply(p, style):
        kernels = jnp.einsum("bd,de->bde", style, p["k"])
        return jnp.tanh(jnp.einsum("nd,bde->bne", p["t"], kernels)) @ p["o"]

    return apply, shapes(t=(5, 4), k=(4, 6), o=(6, 3)), (array(7, 4),)


@zoo_model(truth={"k": "unknown"})
def kernels_alone():
    return lambda p, style: style[:, :, None] * p["k"], shapes(k=(4, 6)), (array(7, 4),)


@zoo_model(truth={"w": "unknown"} | LINEAR)
def kernels_of_experts_scaled_by_gates():
    def apply(p, x):
        gates = jax.nn.softmax(x.mean(1) @ p["r"])
        return jnp.einsum("btd,bedf->bef", x, gates[:, :, None, None] * p["w"])

    return apply, shapes(r=(8, 4), w=(4, 8, 6)), (array(2, 7, 8),)


@zoo_model(truth={"g": "gain > 0", "b": "bias > 0"} | LINEAR)
def groups_normalised_by_a_scale_with_the_gain():
    """A gain is cut into groups, of which data have a number each."""

    def apply(p, x):
        y = (x @ p["w"]).reshape(2, 9, 4, 2)
        scale = lax.rsqrt(y.var((1, 3), keepdims=True) + 1e-5) * p["g"].reshape(4, 2)
        return (y * scale - y.mean((1, 3), keepdims=True) * scale).reshape(2, 9, 8) + p["b"]

    return apply, shapes(w=(6, 8), g=8, b=8), (array(2, 9, 6),)
