"""Plain JAX: the patterns of published models that inference once read wrongly, or refused, in several forms each."""

import jax
import jax.numpy as jnp

from tests.zoo._model import array, zoo_model
from tests.zoo.plain import shapes

LINEAR = {r"\w*": "linear 0 > 1"}
FIELD = shapes(w0=(3, 8), b0=8, w1=(8, 6), w2=(6, 1))
FIELD_TRUTH = {"b0": "bias > 0"} | LINEAR


def density(p, x):
    return jax.nn.softplus(jnp.tanh(jnp.tanh(x @ p["w0"] + p["b0"]) @ p["w1"]) @ p["w2"])[0]


def of_points(function):
    return lambda p, x: jax.vmap(lambda x: function(lambda x: density(p, x), x))(x)


def field_with(function):
    """A model of a field and its derivatives, of which `function` says what is returned."""
    return of_points(function), FIELD, (array(5, 3),)


@zoo_model(truth=FIELD_TRUTH)
def gradient_thrown_away():
    return field_with(lambda f, x: jax.value_and_grad(f)(x)[0])


@zoo_model(truth=FIELD_TRUTH)
def jacobian_thrown_away():
    return field_with(lambda f, x: (jax.jacrev(f)(x), f(x))[1])


@zoo_model(truth=FIELD_TRUTH)
def gradient_of_a_compiled_field_thrown_away():
    return field_with(lambda f, x: jax.jit(jax.value_and_grad(jax.jit(f)))(x)[0])


@zoo_model(truth=FIELD_TRUTH)
def field_and_gradient():
    return field_with(lambda f, x: jax.value_and_grad(f)(x))


@zoo_model(truth=FIELD_TRUTH)
def gradient_alone():
    return field_with(lambda f, x: jax.grad(f)(x))


@zoo_model(truth=FIELD_TRUTH)
def gradient_in_a_penalty():
    return field_with(lambda f, x: f(x) + (jnp.sum(jax.grad(f)(x) ** 2) - 1) ** 2)


@zoo_model(truth=FIELD_TRUTH)
def gradient_stopped():
    return field_with(lambda f, x: f(x) * jax.lax.stop_gradient(jax.grad(f)(x)).sum())


@zoo_model(truth=FIELD_TRUTH)
def gradient_forwards():
    return field_with(lambda f, x: jax.jacfwd(f)(x))


@zoo_model(truth=FIELD_TRUTH)
def gradient_forwards_thrown_away():
    return field_with(lambda f, x: (f(x), jax.jacfwd(f)(x))[0])


@zoo_model(truth=FIELD_TRUTH)
def second_derivatives():
    return field_with(lambda f, x: jax.hessian(f)(x))


@zoo_model(truth=FIELD_TRUTH)
def laplacian_beside_the_field():
    return field_with(lambda f, x: (f(x), jnp.trace(jax.hessian(f)(x))))


@zoo_model(truth=FIELD_TRUTH)
def hamiltonian_step():
    """A step along the gradient of an energy, and back by half."""

    def step(f, x):
        momentum = x - 0.1 * jax.grad(f)(x)
        return momentum - 0.05 * jax.grad(f)(momentum)

    return field_with(step)


ENSEMBLE = shapes(s=(2, 10), o=(2, 10), w=(2, 10, 20), b=(2, 20), v=(2, 20, 3), c=(2, 3))
ENSEMBLE_TRUTH = {"s": "gain > 1", "[obc]": "bias > 1", "[wv]": "linear 1 > 2"}


def member(p, x):
    return jax.nn.relu((x * p["s"] + p["o"]) @ p["w"] + p["b"]) @ p["v"] + p["c"]


@zoo_model(truth=ENSEMBLE_TRUTH)
def ensemble_with_data_of_their_own():
    return lambda p, x: jax.vmap(member)(p, x), ENSEMBLE, (array(2, 5, 10),)


@zoo_model(truth=ENSEMBLE_TRUTH)
def ensemble_with_statistics_of_their_own():
    def apply(p, x, mean, variance):
        normalised = (x[None] - mean[:, None]) / jnp.sqrt(variance[:, None] + 1e-5)
        return jax.vmap(member)(p, normalised).mean(0)

    return apply, ENSEMBLE, (array(5, 10), array(2, 10), array(2, 10))


@zoo_model(truth=ENSEMBLE_TRUTH)
def ensemble_shifted_first():
    def net(p, x):
        return jax.nn.relu((x + p["o"]) @ p["w"] + p["b"]) @ p["v"] + p["c"]

    params = {name: leaf for name, leaf in ENSEMBLE.items() if name != "s"}
    return lambda p, x: jax.vmap(net)(p, x), params, (array(2, 5, 10),)


@zoo_model(truth={"pos": "positional 0 > 1"} | LINEAR)
def positions_of_mixed_tokens():
    def apply(p, x):
        t = jnp.einsum("bnd,nm->bmd", jnp.tanh(x @ p["in"]), p["mix"])
        return (t + p["pos"]) @ p["w"]

    return apply, shapes(**{"in": (9, 10)}, mix=(7, 4), pos=(4, 10), w=(10, 6)), (array(2, 7, 9),)


@zoo_model(truth={"pos": "positional 1 > 0"} | LINEAR)
def positions_of_mixed_tokens_channels_first():
    def apply(p, x):
        t = jnp.swapaxes(jnp.tanh(x @ p["in"]), 1, 2) @ p["mix"]
        return jnp.swapaxes(t + p["pos"], 1, 2) @ p["w"]

    return apply, shapes(**{"in": (9, 10)}, mix=(7, 4), pos=(10, 4), w=(10, 6)), (array(2, 7, 9),)


@zoo_model(truth={"pos": "positional 0 > 1"} | LINEAR)
def positions_of_learned_tokens():
    """Weights of a few tokens, made for each of many: those have positions, and go into attention."""

    def apply(p, x):
        weights = jax.nn.softmax(x @ p["select"], 1)
        t = jnp.einsum("bnm,bnd->bmd", weights, x) + p["pos"]
        scores = jax.nn.softmax((t @ p["q"]) @ jnp.swapaxes(t @ p["k"], 1, 2))
        return (scores @ (t @ p["v"])) @ p["o"]

    params = shapes(select=(10, 4), pos=(4, 10), q=(10, 6), k=(10, 6), v=(10, 6), o=(6, 3))
    return apply, params, (array(2, 7, 10),)


@zoo_model(truth={"b": "bias > 0 1", "w": "linear 0 1 > 2"} | LINEAR)
def bias_of_an_outer_product():
    """Both axes are features, and go into the next layer together."""

    def apply(p, x, y):
        both = (x @ p["a"])[:, :, None] * (y @ p["c"])[:, None, :] + p["b"]
        return jnp.einsum("bij,ijk->bk", jnp.tanh(both), p["w"])

    return apply, shapes(a=(5, 4), c=(7, 6), b=(4, 6), w=(4, 6, 3)), (array(2, 5), array(2, 7))


POOLING = shapes(q=(10, 3, 4), qb=(3, 4), k=(10, 3, 4), v=(10, 3, 4), o=(3, 4, 10))
POOLING_TRUTH = {"[qkv]": "linear 0 > 1 2", "qb": "bias > 0 1", "o": "linear 0 1 > 2"}


def pooled(p, probe, x):
    q = jnp.einsum("bqd,dhc->bqhc", probe, p["q"]) + p["qb"]
    k, v = (jnp.einsum("bkd,dhc->bkhc", x, p[name]) for name in "kv")
    weights = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k))
    return jnp.einsum("bhqk,bkhc,hcd->bqd", weights, v, p["o"])


def pooled_by(n):
    def apply(p, x):
        return pooled(p, jnp.tile(p["probe"], (len(x), 1, 1)), x)[:, 0]

    return apply, POOLING | shapes(probe=(1, n, 10)), (array(2, 7, 10),)


@zoo_model(truth={"probe|qb?": "unknown"} | POOLING_TRUTH)
def attention_pooled_by_one_query():
    """Of an axis of one entry nothing is seen: a layer of one learned vector is a vector made of two parameters."""
    return pooled_by(1)


@zoo_model(truth={"probe": "positional 1 > 2"} | POOLING_TRUTH)
def attention_pooled_by_two_queries():
    return pooled_by(2)


@zoo_model(truth={"probe": "positional 1 > 2"} | POOLING_TRUTH)
def attention_pooled_by_queries():
    return pooled_by(5)


@zoo_model(truth={"content|where": "positional 0 > 1", "g": "gain > 0", "s": "bias > 0"} | LINEAR)
def queries_with_positions_of_their_own():
    """Two tables: contents, normalised and attended to among themselves, and positions that are added to them."""

    def attend(p, name, q, k, v):
        weights = jax.nn.softmax((q @ p[name + "q"]) @ jnp.swapaxes(k @ p[name + "k"], -1, -2))
        return weights @ (v @ p[name + "v"]) @ p[name + "o"]

    def normalised(p, t):
        t = t - t.mean(-1, keepdims=True)
        return t / jnp.sqrt((t**2).mean(-1, keepdims=True) + 1e-5) * p["g"] + p["s"]

    def apply(p, x):
        memory = x @ p["enc"]
        t, where = (jnp.broadcast_to(p[name], (2, 5, 6)) for name in ("content", "where"))
        t = normalised(p, t + attend(p, "s", t + where, t + where, t))
        t = normalised(p, t + attend(p, "c", t + where, memory, memory))
        return t @ p["head"]

    square = dict.fromkeys([a + b for a in "sc" for b in "qkvo"], (6, 6))
    params = shapes(content=(5, 6), where=(5, 6), enc=(4, 6), head=(6, 3), g=6, s=6, **square)
    return apply, params, (array(2, 7, 4),)


@zoo_model(truth={"latents": "positional 0 > 1"} | LINEAR)
def perceiver():
    """Latents read the data, and each other, in two rounds."""

    def attend(p, i, q, k):
        weights = jax.nn.softmax((q @ p[f"q{i}"]) @ jnp.swapaxes(k @ p[f"k{i}"], -1, -2))
        return q + weights @ (k @ p[f"v{i}"]) @ p[f"o{i}"]

    def apply(p, x):
        z = jnp.broadcast_to(p["latents"], (2, 5, 6))
        z = attend(p, 0, z, x)
        z = attend(p, 1, z, z)
        return z.mean(1) @ p["head"]

    names = {f"{name}{i}": (6, 6) for name in "qkvo" for i in range(2)}
    return apply, shapes(latents=(5, 6), head=(6, 3), **(names | {"k0": (4, 6), "v0": (4, 6)})), (array(2, 7, 4),)


@zoo_model(truth={"[ab]": "unknown"} | LINEAR)
def head_in_two_factors():
    """No data between them: which of the two is multiplied by data cannot be told."""
    return (
        lambda p, x: jax.nn.softmax(jnp.tanh(x @ p["w"]) @ (p["a"] @ p["b"])),
        shapes(w=(4, 6), a=(6, 3), b=(3, 8)),
        (array(5, 4),),
    )


@zoo_model(truth=LINEAR)
def block_without_entries():
    def apply(p, x):
        _, z, u = jnp.split(x @ p["in"], [0, 4], -1)
        return (jax.nn.silu(z) * u) @ p["out"]

    return apply, shapes(**{"in": (5, 8)}, out=(4, 3)), (array(2, 5),)


@zoo_model(truth={"q": "linear 0 > 1 2", "o": "linear 0 1 > 2"} | LINEAR)
def attention_of_the_mean():
    """One query for all, of several heads, whose keys and values have one."""

    def apply(p, x):
        q = jnp.einsum("ba,ahc->bhc", x.mean(1), p["q"])
        weights = jax.nn.softmax(jnp.einsum("bhc,bkc->bhk", q, x @ p["k"]))
        return jnp.einsum("bhc,hco->bo", jnp.einsum("bhk,bkc->bhc", weights, x @ p["v"]), p["o"])

    return apply, shapes(q=(10, 3, 4), k=(10, 4), v=(10, 4), o=(3, 4, 7)), (array(2, 5, 10),)


def convolved(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@zoo_model(truth={"w": "conv 2 > 3 @ 0 1"})
def demodulated_convolution():
    """Outputs are divided by the length of the kernel under the styles of the inputs."""

    def apply(p, x, s):
        d = jax.lax.rsqrt(jnp.sum(jnp.square(p["w"][None] * s[:, None, None, :, None]), (1, 2, 3)))
        return convolved(x * s[:, None, None], p["w"]) * d[:, None, None]

    return apply, shapes(w=(3, 3, 6, 8)), (array(2, 5, 5, 6), array(2, 6))


@zoo_model(truth={"w": "linear 0 > 1"})
def demodulated_layer():
    def apply(p, x, s):
        d = jax.lax.rsqrt(jnp.sum(jnp.square(p["w"] * s[:, :, None]), 1))
        return ((x * s) @ p["w"]) * d

    return apply, shapes(w=(6, 8)), (array(2, 6), array(2, 6))


def scaled_and_shifted(w, gain, axes):
    scale = jax.lax.rsqrt(jnp.maximum(jnp.var(w, axes, keepdims=True) * 27, 1e-4)) * gain
    return w * scale - jnp.mean(w, axes, keepdims=True) * scale


@zoo_model(truth={"w.": "conv 2 > 3 @ 0 1", "gain.": "gain > 0", "b": "bias > 0"})
def standardised_convolutions():
    """The gain is in the scale of the kernel and in its shift."""

    def apply(p, x):
        x = jax.nn.relu(convolved(x, scaled_and_shifted(p["w0"], p["gain0"], (0, 1, 2))) + p["b"])
        return convolved(x, scaled_and_shifted(p["w1"], p["gain1"], (0, 1, 2)))

    params = shapes(w0=(3, 3, 3, 8), gain0=8, b=8, w1=(3, 3, 8, 5), gain1=5)
    return apply, params, (array(2, 6, 6, 3),)


@zoo_model(truth={"w": "linear 0 > 1", "gain": "gain > 0"})
def standardised_layer():
    def apply(p, x):
        return x @ scaled_and_shifted(p["w"], p["gain"], 0)

    return apply, shapes(w=(6, 8), gain=8), (array(5, 6),)


# an array of a key is made where it is used: nothing is computed on import
def drawn(shape):
    return jax.random.normal(jax.random.key(0), shape)


@zoo_model(truth={"mean": "bias > 0", "deviation": "gain > 0"} | LINEAR)
def slots_drawn_from_a_key_of_the_function():
    """Slots of slot attention: a mean and a deviation, shared, and noise of which the model holds the key."""

    def apply(p, x):
        slots = p["mean"] + jnp.exp(p["deviation"]) * drawn((len(x), 5, 6))
        weights = jax.nn.softmax((slots @ p["q"]) @ jnp.swapaxes(x @ p["k"], 1, 2), 1)
        return (slots + weights @ (x @ p["v"])) @ p["o"]

    params = shapes(mean=6, deviation=6, q=(6, 6), k=(4, 6), v=(4, 6), o=(6, 3))
    return apply, params, (array(2, 7, 4),)


@zoo_model(truth={"b": "bias > 0", "[vw]": "linear 1 > 0"})
def generator_of_columns():
    """Noise is data, whichever side of a product it stands on."""

    def apply(p, x):
        return x + p["v"] @ jax.nn.relu(p["w"] @ drawn((5, 7)) + p["b"][:, None])

    return apply, shapes(w=(8, 5), b=8, v=(3, 8)), (array(3, 7),)


@zoo_model(truth=LINEAR)
def noisy_weights():
    """A number for each weight is no sample: the weight stays one, and so does what scales the noise."""

    def apply(p, x):
        x = jax.nn.relu(x @ (p["w"] + p["deviation"] * drawn((5, 8))))
        return x @ (p["v"] * jax.random.bernoulli(jax.random.key(1), 0.5, (8, 3)))

    return apply, shapes(w=(5, 8), deviation=(5, 8), v=(8, 3)), (array(4, 5),)


POSITIONS = shapes(embed=(6, 8), pos=(7, 8), o=(8, 5))
POSITIONS_TRUTH = {"pos": "positional 0 > 1"} | LINEAR


@zoo_model(truth=POSITIONS_TRUTH)
def positions_of_the_first_token_and_later_ones():
    def apply(p, x):
        x = x @ p["embed"]
        first = x[:, 0] + p["pos"][0]
        return jnp.tanh(jnp.concatenate([first[:, None], x[:, 1:] + p["pos"][1:]], 1)) @ p["o"]

    return apply, POSITIONS, (array(2, 7, 6),)


@zoo_model(truth=POSITIONS_TRUTH)
def positions_of_a_prompt_and_of_one_step():
    def apply(p, x, y):
        prompt = jnp.tanh(x @ p["embed"] + p["pos"][:4]) @ p["o"]
        return prompt, jnp.tanh(y @ p["embed"] + p["pos"][4:5]) @ p["o"]

    return apply, POSITIONS, (array(2, 4, 6), array(2, 1, 6))


@zoo_model(truth=POSITIONS_TRUTH)
def positions_of_a_prompt_and_looked_up():
    def apply(p, x, y, step):
        prompt = jnp.tanh(x @ p["embed"] + p["pos"][:4]) @ p["o"]
        return prompt, jnp.tanh(y @ p["embed"] + p["pos"][step]) @ p["o"]

    return apply, POSITIONS, (array(2, 4, 6), array(2, 6), jax.ShapeDtypeStruct((), jnp.int32))


@zoo_model(truth={"first": "bias > 1"} | LINEAR)
def biases_of_the_first_token_and_later_ones():
    """Rows that are never added together are vectors of a stack."""

    def apply(p, x):
        x = x @ p["embed"]
        return jnp.tanh(x[:, 0] + p["first"][0]) @ p["o"], jnp.tanh(x[:, 1:] + p["first"][1]) @ p["o"]

    return apply, shapes(embed=(6, 8), first=(2, 8), o=(8, 5)), (array(2, 7, 6),)


@zoo_model(truth={"make": "unknown", "gain": "gain > 0"} | LINEAR)
def gain_of_generated_kernels():
    """What makes kernels makes no features, but a gain on their outputs is one on features."""

    def apply(p, x, style):
        kernels = (style @ p["make"]).reshape(len(style), 6, 8)
        kernels = kernels / jnp.sqrt(jnp.sum(kernels**2, 1, keepdims=True)) * p["gain"]
        return jnp.tanh(jnp.einsum("btd,bdf->btf", x, kernels)) @ p["o"]

    return apply, shapes(make=(4, 48), gain=8, o=(8, 5)), (array(2, 7, 6), array(2, 4))


@zoo_model(truth={"gain": "gain > 0"} | LINEAR)
def kernel_scaled_by_styles():
    """A kernel of its own for each sample, of which the styles scale the inputs."""

    def apply(p, x, style):
        kernels = p["w"] * (1 + style @ p["style"])[:, :, None] * p["gain"]
        return jnp.tanh(jnp.einsum("btd,bdf->btf", x, kernels)) @ p["o"]

    return apply, shapes(w=(6, 8), style=(4, 6), gain=8, o=(8, 5)), (array(2, 7, 6), array(2, 4))


def windows(x, n):
    """The last `n` steps at each time, as shifted copies."""
    padded = jnp.pad(x, ((0, 0), (n - 1, 0), (0, 0)))
    return [padded[:, i : i + x.shape[1]] for i in range(n)]


@zoo_model(truth={"w": "depthwise > 1 @ 0 / 8", "b": "bias > 0"} | LINEAR)
def depthwise_convolution_written_out():
    def apply(p, x):
        x = x @ p["embed"]
        return jax.nn.silu(sum(copy * p["w"][i] for i, copy in enumerate(windows(x, 4))) + p["b"]) @ p["o"]

    return apply, shapes(embed=(6, 8), w=(4, 8), b=8, o=(8, 5)), (array(2, 7, 6),)


@zoo_model(truth={"w": "depthwise > 0 @ 1 / 8", "b": "bias > 0"} | LINEAR)
def depthwise_convolution_of_rolled_copies():
    def apply(p, x):
        x = x @ p["embed"]
        return jax.nn.silu(sum(jnp.roll(x, i, 1) * p["w"][:, i] for i in range(4)) + p["b"]) @ p["o"]

    return apply, shapes(embed=(6, 8), w=(8, 4), b=8, o=(8, 5)), (array(2, 7, 6),)


@zoo_model(truth={"w": "depthwise > 2 @ 0 1 / 8"} | LINEAR)
def depthwise_convolution_of_images_written_out():
    def apply(p, x):
        x = jnp.pad(x @ p["embed"], ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(x[:, i : i + 5, j : j + 5] * p["w"][i, j] for i in range(3) for j in range(3)) @ p["o"]

    return apply, shapes(embed=(6, 8), w=(3, 3, 8), o=(8, 5)), (array(2, 5, 5, 6),)


@zoo_model(truth={"w": "depthwise > 2 @ 1 / 8"} | LINEAR)
def depthwise_convolutions_of_a_stack_of_layers():
    """An index that all products share is that of a layer, no tap."""

    def apply(p, x):
        x = x @ p["embed"]
        for layer in range(3):
            x = x + jax.nn.silu(sum(copy * p["w"][layer, i] for i, copy in enumerate(windows(x, 4))))
        return x @ p["o"]

    return apply, shapes(embed=(6, 8), w=(3, 4, 8), o=(8, 5)), (array(2, 7, 6),)


@zoo_model(truth={"w": "gain > 1"} | LINEAR)
def gains_that_are_summed():
    """Of halves of the features, and of two functions: no copies shifted in time."""

    def apply(p, x):
        x = x @ p["embed"]
        x = x[..., :8] * p["w"][0] + x[..., 8:] * p["w"][1]
        return jnp.tanh(x * p["w"][2] + jnp.tanh(x) * p["w"][3]) @ p["o"]

    return apply, shapes(embed=(6, 16), w=(4, 8), o=(8, 5)), (array(2, 7, 6),)


@zoo_model(truth={"[qkv]": "linear 0 > 1 2", "o": "linear 0 1 > 2"})
def attention_normalised_afterwards():
    """Performer: the sum of its weights has a number for each head, and is no gate."""

    def apply(p, x):
        q, k, v = (jnp.einsum("btd,dhc->bthc", x, p[name]) for name in "qkv")
        q, k = jnp.exp(q), jnp.exp(k)
        y = jnp.einsum("bthc,bhce->bthe", q, jnp.einsum("bthc,bthe->bhce", k, v))
        y = y * (1 / jnp.einsum("bthc,bhc->bth", q, k.sum(1)))[..., None]
        return jnp.einsum("bqhc,hcd->bqd", y, p["o"])

    return apply, shapes(q=(10, 3, 4), k=(10, 3, 4), v=(10, 3, 4), o=(3, 4, 10)), (array(2, 7, 10),)


@zoo_model(truth={"[ao]": "linear 1 > 2", "gate": "linear 0 > 1"})
def experts_gated_at_both_ends():
    """What gives a number for each expert made an axis of what goes in, too: it is a gate still."""

    def apply(p, x):
        gate = jax.nn.softmax(x @ p["gate"])
        y = jax.nn.relu(jnp.einsum("bed,edf->bef", x[:, None] * gate[:, :, None], p["a"]))
        return jnp.einsum("bef,efd->bd", y * gate[:, :, None], p["o"])

    return apply, shapes(gate=(6, 3), a=(3, 6, 8), o=(3, 8, 6)), (array(5, 6),)
