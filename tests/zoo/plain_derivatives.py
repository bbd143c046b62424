"""Plain JAX: derivatives inside a model, of which only a part of the way forward is left."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo._model import array, tokens, zoo_model
from tests.zoo.plain import shapes
from tests.zoo.plain_published import LINEAR

NETWORK = shapes(w0=(3, 8), b0=8, w1=(8, 3), b1=3)
# of the derivatives alone, the last bias is no part
NETWORK_TRUTH = {"b0": "bias > 0", "b1": "unused"} | LINEAR


def network(p, x):
    return jnp.tanh(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]


def at_each(derivative):
    """What is computed of the derivatives of a network at each point."""
    return lambda p, x: jax.vmap(lambda x: derivative(lambda x: network(p, x), x))(x), NETWORK, (array(5, 3),)


@zoo_model(truth=NETWORK_TRUTH)
def jacobian_backwards():
    """The last layer meets unit vectors, and only backwards: rows of it are multiplied into data."""
    return at_each(lambda f, x: jax.jacrev(f)(x))


@zoo_model(truth=NETWORK_TRUTH)
def volume_of_a_flow():
    return at_each(lambda f, x: jnp.linalg.slogdet(jax.jacrev(f)(x))[1])


@zoo_model(truth=NETWORK_TRUTH)
def divergence():
    return at_each(lambda f, x: jnp.trace(jax.jacrev(f)(x)))


@zoo_model(truth={"b.": "bias > 0"} | LINEAR)
def gradient_of_rectified_layers():
    """Of the way forward, signs are left, through which no gradient comes."""

    def apply(p, x):
        return jax.grad(lambda x: jax.nn.relu(jax.nn.relu(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]).sum())(x)

    return apply, NETWORK, (array(5, 3),)


@zoo_model(truth={"kernel.": "conv 2 > 3 @ 0 1", "b": "bias > 0"} | LINEAR)
def gradient_of_convolutions():
    def apply(p, x):
        def score(x):
            x = jnp.tanh(convolved(x, p["kernel0"], 1) + p["b"])
            return (jax.nn.relu(convolved(x, p["kernel1"], 2)).mean((1, 2)) @ p["head"]).sum()

        return jax.grad(score)(x)

    def convolved(x, kernel, stride):
        return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return apply, shapes(kernel0=(3, 3, 2, 8), b=8, kernel1=(3, 3, 8, 6), head=(6, 1)), (array(2, 8, 8, 2),)


@zoo_model(truth={"g": "gain > 0", "b": "bias > 0"} | LINEAR)
def forces_of_normalised_features():
    """On the way back, a gain is multiplied into what is summed, as in a layer written out."""

    def apply(p, x):
        def energy(x):
            h = jnp.tanh(x @ p["w0"])
            h = (h - h.mean(-1, keepdims=True)) * lax.rsqrt(h.var(-1, keepdims=True) + 1e-5)
            return (jnp.tanh(h * p["g"] + p["b"]) @ p["w1"]).sum()

        return jax.value_and_grad(energy)(x)

    return apply, shapes(w0=(3, 8), g=8, b=8, w1=(8, 1)), (array(5, 3),)


@zoo_model(truth={"b.": "bias > 0"} | LINEAR)
def lagrangian():
    """Accelerations of a learned Lagrangian: derivatives along some of the inputs, of derivatives along others."""

    def apply(p, x):
        def energy(q, v):
            h = jnp.tanh(jnp.concatenate([q, v]) @ p["w0"] + p["b0"])
            return (jax.nn.softplus(h @ p["w1"] + p["b1"]) @ p["w2"])[0]

        def acceleration(x):
            q, v = x[:2], x[2:]
            inertia = jax.hessian(energy, 1)(q, v)
            return jnp.linalg.pinv(inertia) @ (
                jax.grad(energy)(q, v) - jax.jacobian(jax.jacobian(energy, 1), 0)(q, v) @ v
            )

        return jax.vmap(acceleration)(x)

    return apply, shapes(w0=(4, 8), b0=8, w1=(8, 6), b1=6, w2=(6, 1)), (array(5, 4),)


@zoo_model(truth={"a.": "linear 0 >"} | LINEAR)
def gradient_of_graph_attention():
    def apply(p, x):
        def score(x):
            h = x @ p["w"]
            return (jax.nn.softmax(jax.nn.leaky_relu((h @ p["a1"])[:, None] + (h @ p["a2"])[None]), 1) @ h).sum()

        return jax.grad(score)(x)

    return apply, shapes(w=(3, 8), a1=8, a2=8), (array(6, 3),)


@zoo_model(truth={"emb": "embedding 0 > 1"} | LINEAR)
def forces_of_continuous_filters():
    def apply(p, atoms, positions):
        def energy(positions):
            distances = jnp.sqrt(((positions[:, None] - positions) ** 2).sum(-1) + 1e-3)
            basis = jnp.exp(-((distances[..., None] - jnp.linspace(0, 5, 6)) ** 2))
            h = p["emb"][atoms]
            h = h + jnp.tanh(jnp.einsum("ijf,jf->if", jnp.tanh(basis @ p["filter"]), h @ p["in"]) @ p["out"])
            return (jnp.tanh(h @ p["w0"]) @ p["w1"]).sum()

        return jax.grad(energy)(positions)

    params = shapes(emb=(5, 8), filter=(6, 8), out=(8, 8), w0=(8, 4), w1=(4, 1)) | {"in": array(8, 8)}
    return apply, params, (tokens(4), array(4, 3))


TASKS = (array(4, 5, 3), array(4, 5, 3), array(4, 6, 3), array(4, 6, 3))


def loss(p, x, y):
    return ((network(p, x) - y) ** 2).mean()


def after_step(p, gradient):
    return jax.tree.map(lambda w, g: w - 0.1 * g, p, gradient)


@zoo_model(truth={"b.": "bias > 0"} | LINEAR)
def meta_learning():
    """What is used is the parameters after some steps on each task: matrices with gradients added to them."""

    def apply(p, *tasks):
        def task(x, y, x_new, y_new):
            p_new = lax.scan(lambda p, _: (after_step(p, jax.grad(loss)(p, x, y)), None), p, None, length=3)[0]
            return loss(p_new, x_new, y_new)

        return jax.vmap(task)(*tasks).mean()

    return apply, NETWORK, TASKS


@zoo_model(truth={"b.": "bias > 0"} | LINEAR)
def meta_learning_of_first_order():
    def apply(p, *tasks):
        def task(x, y, x_new, y_new):
            return loss(after_step(p, lax.stop_gradient(jax.grad(loss)(p, x, y))), x_new, y_new)

        return jax.vmap(task)(*tasks).mean()

    return apply, NETWORK, TASKS


@zoo_model(truth={"v": "linear 1 > 2", "b": "bias > 1", "[we]": "linear 1 > 2"})
def gradients_of_an_ensemble():
    """On the way back, what goes into all members is summed over these, too."""

    def apply(p, x):
        def scores(x):
            return jax.vmap(lambda p: jnp.tanh(jnp.tanh(x @ p["e"] + p["b"]) @ p["w"]) @ p["v"])(p).sum()

        return jax.grad(scores)(x)

    return apply, shapes(e=(4, 3, 8), b=(4, 8), w=(4, 8, 6), v=(4, 6, 1)), (array(5, 3),)


@zoo_model(truth={"b0": "bias > 0", "b1": "unused"} | LINEAR)
def penalty_of_a_compiled_gradient():
    """Of the last layer, only the way back is left, which the gradient of the penalty takes for a constant."""

    def apply(p, x):
        slopes = jax.jit(jax.grad(lambda x: network(p, x).sum()))
        return jax.grad(lambda x: (slopes(x) ** 2).sum())(x)

    return apply, NETWORK, (array(5, 3),)
