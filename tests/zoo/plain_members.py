"""Plain JAX: members of ensembles, told by the matrices that each has, and kernels with axes for what is unpacked."""

import jax
import jax.numpy as jnp

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import shapes
from tests.zoo.plain_published import LINEAR

MEMBERS = shapes(s=(3, 8), o=(3, 8), w=(3, 8, 6), b=(3, 6), v=(3, 6, 1), c=(3, 1))
TRUTH = {"s": "gain > 1", "[obc]": "bias > 1", "[wv]": "linear 1 > 2"}


def member(p, x):
    return jax.nn.relu((x * p["s"] + p["o"]) @ p["w"] + p["b"]) @ p["v"] + p["c"]


@zoo_model(truth=TRUTH)
def ensemble_of_critics():
    """All members see the same data, and each has one output."""
    return lambda p, x: jax.vmap(member, (0, None))(p, x).min(0), MEMBERS, (array(5, 8),)


@zoo_model(truth=TRUTH)
def ensemble_beside_the_batch():
    def apply(p, x):
        h = jax.nn.relu(jnp.einsum("bed,edh->beh", x[:, None] * p["s"] + p["o"], p["w"]) + p["b"])
        return jnp.einsum("beh,eho->beo", h, p["v"]) + p["c"]

    return apply, MEMBERS, (array(5, 8),)


@zoo_model(truth=TRUTH | {"emb": "embedding 1 > 2", "pos": "positional 1 > 2"})
def ensemble_of_readers():
    def apply(p, tokens):
        return jax.vmap(lambda p: member(p, p["emb"][tokens] + p["pos"]))(p)

    return apply, MEMBERS | shapes(emb=(3, 11, 8), pos=(3, 7, 8)), (tokens(5, 7),)


@zoo_model(truth=TRUTH | {"k": "conv 3 > 4 @ 1 2"})
def ensemble_of_convolutions():
    def apply(p, x):
        def one(p, x):
            y = jax.lax.conv_general_dilated(
                x * p["s"] + p["o"], p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return jax.nn.relu(y + p["b"]).mean((1, 2)) @ p["v"]

        return jax.vmap(one)(p, x)

    return apply, shapes(s=(3, 2), o=(3, 2), k=(3, 3, 3, 2, 6), b=(3, 6), v=(3, 6, 4)), (array(3, 5, 8, 8, 2),)


@zoo_model(truth=TRUTH | {"pos": "positional 1 > 2"})
def ensemble_with_positions_of_their_own():
    def apply(p, x):
        return jax.vmap(lambda p, x: jnp.tanh((x + p["pos"]) @ p["w"] + p["b"]) @ p["v"])(p, x)

    return apply, shapes(pos=(3, 7, 8), w=(3, 8, 6), b=(3, 6), v=(3, 6, 2)), (array(3, 5, 7, 8),)


GATED = {"g": "linear 1 > 0 2"} | LINEAR


@zoo_model(truth=GATED)
def gated_unit_of_two_kernels():
    """Both kernels of a gated unit along an axis of their own, which is one of outputs as that of a fused kernel is."""

    def apply(p, x):
        gate, up = jnp.einsum("btd,gdf->gbtf", x, p["g"])
        return (jax.nn.gelu(gate) * up) @ p["o"]

    return apply, shapes(g=(2, 8, 6), o=(6, 8)), (array(2, 7, 8),)


@zoo_model(truth={"qkv": "linear 2 > 1 3 4", "o": "linear 1 2 > 3"})
def queries_keys_and_values_of_a_stack_of_layers():
    def apply(p, x):
        def layer(x, p):
            q, k, v = jnp.einsum("btd,sdhc->sbthc", jnp.tanh(x), p["qkv"])
            weights = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k))
            return x + jnp.einsum("bhqk,bkhc,hcd->bqd", weights, v, p["o"]), None

        return jax.lax.scan(layer, x, p)[0]

    return apply, shapes(qkv=(5, 3, 8, 2, 4), o=(5, 2, 4, 8)), (array(2, 7, 8),)


@zoo_model(truth=GATED)
def gated_unit_of_picked_kernels():
    def apply(p, x):
        return (jax.nn.silu(x @ p["g"][0]) * (x @ p["g"][1])) @ p["o"]

    return apply, shapes(g=(2, 8, 6), o=(6, 8)), (array(2, 7, 8),)


@zoo_model(truth={"g": "linear 2 > 1 3", "o": "linear 1 > 2"})
def gated_units_of_a_stack_of_layers():
    def apply(p, x):
        for layer in range(3):
            gate, up = (x @ p["g"][layer, i] for i in range(2))
            x = x + (jax.nn.gelu(gate) * up) @ p["o"][layer]
        return x

    return apply, shapes(g=(3, 2, 8, 6), o=(3, 6, 8)), (array(2, 7, 8),)


@zoo_model(truth={"[go]": "linear 1 > 2"})
def members_of_picked_kernels():
    """No gate: kernels that are picked one by one are layers, or members of an ensemble."""
    return (
        lambda p, x: sum(jnp.tanh(x @ p["g"][i]) @ p["o"][i] for i in range(3)),
        shapes(g=(3, 8, 6), o=(3, 6, 2)),
        (array(2, 7, 8),),
    )


@zoo_model(truth={"w": "depthwise > 1 @ 0 / 8", "b": "bias > 0"} | LINEAR)
def depthwise_convolution_of_one_branch():
    """What is convolved is cut out along its channels, and follows a state that was kept of earlier tokens."""

    def apply(p, x, state):
        branch, gate = jnp.split(x @ p["i"], 2, -1)
        y = jnp.concatenate([state, branch], 1)
        y = sum(y[:, i : i + 7] * p["w"][i] for i in range(4)) + p["b"]
        return (jax.nn.silu(y) * gate) @ p["o"]

    return apply, shapes(i=(8, 16), w=(4, 8), b=8, o=(8, 4)), (array(2, 7, 8), array(2, 3, 8))
