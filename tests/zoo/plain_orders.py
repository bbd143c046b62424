"""Plain JAX: parameters whose entries are taken by numbers, of which the whole is still a layer, a bias, a table."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from tests.zoo._model import array, zoo_model
from tests.zoo.plain import shapes

LINEAR = {r"\w*": "linear 0 > 1"}


@zoo_model(truth={"b.": "bias > 0"} | LINEAR)
def field_of_one_coordinate_as_a_vector():
    """As solvers of differential equations hand it to an optimizer of vectors."""

    def apply(params, t):
        vector, cut = ravel_pytree(params)
        p = cut(vector)
        return jnp.tanh(jnp.tanh(t @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]

    return apply, shapes(w0=(1, 8), b0=8, w1=(8, 6), b1=6, w2=(6, 1), b2=1), (array(5, 1),)


@zoo_model(
    truth={"first": "bias > 0", "heads": "bias > 0 1", "pos": "positional 0 > 1", "w": "linear 0 > 1 2"} | LINEAR
)
def vectors_in_another_order():
    def apply(p, x):
        x = x + p["first"][np.array([2, 0, 3, 1])]
        h = jnp.einsum("btd,dhc->bthc", x, p["w"]) + p["heads"][np.array([1, 2, 0])]
        h = jnp.tanh(h).reshape(*x.shape[:2], -1) @ p["mix"] + p["pos"][:, ::-1]
        return jax.nn.relu(h) @ p["out"]

    params = shapes(first=4, w=(4, 3, 5), heads=(3, 5), mix=(15, 6), pos=(7, 6), out=(6, 2))
    return apply, params, (array(2, 7, 4),)


@zoo_model(truth={"shared": "bias > 0"} | LINEAR)
def bias_shared_by_several_outputs():
    """As the scalars among features of several kinds have one, each copied to where it belongs."""

    def apply(p, x):
        return jnp.tanh(x @ p["w"] + p["shared"][np.array([0, 0, 1, 1, 1, 2])]) @ p["out"]

    return apply, shapes(w=(4, 6), shared=3, out=(6, 2)), (array(7, 4),)


@zoo_model(truth={"taken": "embedding 0 > 1", "cut": "positional 0 > 1"} | LINEAR)
def positions_of_the_only_token():
    def apply(p, x):
        steps = x.shape[1]
        h = x @ p["embed"] + p["taken"][jnp.arange(steps)] + p["cut"][:steps]
        return jnp.tanh(h) @ p["out"]

    return apply, shapes(embed=(4, 6), taken=(9, 6), cut=(9, 6), out=(6, 2)), (array(2, 1, 4),)


@zoo_model(truth={"kernel": "conv 3 > 4 @ 1 2", "gain": "gain > 1", "bias|last": "bias > 1", "matrix": "linear 1 > 2"})
def layers_of_one_of_several_tasks():
    def apply(p, task, x):
        p = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, task, keepdims=False), p)
        h = jax.lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        h = jnp.tanh(h * p["gain"] + p["bias"]).mean((1, 2))
        return h @ p["matrix"] + p["last"]

    params = shapes(kernel=(3, 3, 3, 4, 6), gain=(3, 6), bias=(3, 6), matrix=(3, 6, 5), last=(3, 5))
    return apply, params, (array(dtype=jnp.int32), array(2, 8, 8, 4))
