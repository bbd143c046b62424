"""Plain JAX: products with copies of one array, shifted or not, which are convolutions, gains or tables."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, zoo_model
from tests.zoo.plain import shapes
from tests.zoo.plain_published import LINEAR

X = array(2, 9, 6)
PARAMS = shapes(e=(6, 8), b=8, w=(4, 8), o=(8, 3))
TAPS = {"w": "depthwise > 1 @ 0 / 8", "b": "bias > 0"} | LINEAR


def embedded(p, x):
    return jnp.tanh(x @ p["e"] + p["b"])


@zoo_model(truth=TAPS)
def taps_of_inputs_computed_anew():
    def apply(p, x):
        taps = jnp.split(p["w"], 4)
        return sum(jnp.roll(embedded(p, x), i, 1) * tap[0] for i, tap in enumerate(taps)) @ p["o"]

    return apply, PARAMS, (X,)


@zoo_model(truth=TAPS)
def taps_in_turn():
    def apply(p, x):
        def turn(y, tap):
            i, w = tap
            return y + embedded(p, jnp.roll(x, i, 1)) * w, None

        return lax.scan(turn, jnp.zeros((2, 9, 8)), (jnp.arange(4), p["w"]))[0] @ p["o"]

    return apply, PARAMS, (X,)


@zoo_model(truth=TAPS)
def taps_of_a_shift_register():
    def apply(p, x):
        def turn(carry, w):
            y, h = carry
            return (y + h * w, jnp.roll(h, 1, 1)), None

        h = embedded(p, x)
        return lax.scan(turn, (jnp.zeros_like(h), h), p["w"])[0][0] @ p["o"]

    return apply, PARAMS, (X,)


@zoo_model(truth={"w": "gain > 1", "b": "bias > 0"} | LINEAR)
def gains_of_layers_that_look_back():
    """What is scaled depends on what was scaled before."""

    def apply(p, x):
        return lax.scan(lambda h, w: (h + jnp.tanh(jnp.roll(h, 1, 1)) * w, None), embedded(p, x), p["w"])[0] @ p["o"]

    return apply, PARAMS, (X,)


STYLED = {"b": "bias > 0", "k": "conv 2 > 3 @ 0 1", "[cq]": "unknown"} | LINEAR


@zoo_model(truth=STYLED)
def constant_image_times_style():
    def apply(p, z):
        image = jnp.tile(p["c"], (2, 1, 1, 1)) * (z @ p["e"] + p["b"])[:, None, None]
        return lax.conv_general_dilated(image, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return apply, shapes(c=(4, 4, 8), e=(6, 8), b=8, k=(3, 3, 8, 5)), (array(2, 6),)


@zoo_model(truth=STYLED)
def queries_times_style():
    def apply(p, z):
        return jax.nn.relu((p["q"] * (1 + z @ p["e"] + p["b"])[:, None]) @ p["o"]).mean(1)

    return apply, shapes(q=(7, 8), e=(6, 8), b=8, o=(8, 5)), (array(2, 6),)


@zoo_model(truth={"w": "linear 1 > 2", "g": "gain > 1"})
def layers_of_a_stack_each_divided_by_its_length():
    """Kernels that are picked one by one and made of two parameters: no way back leads to a common value."""

    def apply(p, x):
        for w, g in zip(p["w"], p["g"], strict=True):
            x = jnp.tanh(x @ (w * (g / jnp.linalg.norm(w, axis=0))))
        return x

    return apply, shapes(w=(3, 8, 8), g=(3, 8)), (array(2, 7, 8),)


@zoo_model(truth={"w": "depthwise > 2 @ 1 / 8", "k": "linear 1 > 2"} | LINEAR)
def written_out_convolutions_of_a_stack_of_layers():
    """Of members of an ensemble, the first one has taps without channels of theirs, and the second one has them."""

    def apply(p, x):
        x = jnp.tanh(x @ p["e"])
        for w, k in zip(p["w"], p["k"], strict=True):
            padded = jnp.pad(x, ((0, 0), (3, 0), (0, 0)))
            x = x + jnp.tanh(sum(padded[:, i : i + 9] * w[i] for i in range(4)) @ k)
        return x @ p["o"]

    return apply, shapes(e=(6, 8), w=(2, 4, 8), k=(2, 8, 8), o=(8, 3)), (X,)
