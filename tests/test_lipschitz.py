"""Lipschitz bounds: never below what a search over inputs finds, exact where truth is known, refused without proof."""

import math
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from modula_optax._lipschitz._activations import ACTIVATIONS
from tests.cases import enable_x64
from tests.zoo._model import array, tokens

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))

from gpt.model import rotate as rotary

WIDTH, HEADS, TIME, LAYERS = 16, 4, 6, 2


@pytest.fixture(autouse=True)
def defaults():
    # networks as users write them
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def norm(x, axes):
    axes = tuple(axis % x.ndim for axis in axes)
    return jnp.max(jnp.sqrt(jnp.mean(x**2, axis=axes)))


def largest_ratio(f, shape, radius=math.inf, input_axes=(-1,), scale=1.0, steps=150):
    """Of the changes of output and input over pairs of inputs in a ball: gradient ascent from several starts."""

    def inside(x):
        rms = jnp.sqrt(jnp.mean(x**2, axis=input_axes, keepdims=True))
        return x * jnp.minimum(1.0, radius / rms)

    def log_ratio(pair):
        x, y = map(inside, pair)
        return jnp.log(norm(f(x) - f(y), (-1,))) - jnp.log(norm(x - y, input_axes))

    @jax.jit
    @jax.vmap
    def ascend(key):
        a, b = jax.random.split(key)
        x = scale * jax.random.normal(a, shape)
        tx = optax.adam(0.03 * scale)
        pair = (x, x + 0.3 * scale * jax.random.normal(b, shape))

        def step(carry, _):
            pair, state, best = carry
            value, grad = jax.value_and_grad(log_ratio)(pair)
            updates, state = tx.update(jax.tree.map(lambda g: -jnp.nan_to_num(g), grad), state)
            return (optax.apply_updates(pair, updates), state, jnp.fmax(best, value)), None

        return jnp.exp(jax.lax.scan(step, (pair, tx.init(pair), jnp.float32(-jnp.inf)), None, length=steps)[0][2])

    return float(jnp.max(ascend(jax.random.split(jax.random.key(1), 4))))


def positive(key, shape):
    """Weights that agree with each other, so that no layer makes up for another and bounds are nearly attained."""
    return jnp.abs(jax.random.normal(key, shape)) / shape[-2]


def mlp(p, x):
    return jax.nn.gelu(jax.nn.gelu(x @ p["a"] + p["b"]) @ p["c"]) @ p["d"]


def mlp_params(key):
    a, b, c, d = jax.random.split(key, 4)
    return {
        "a": positive(a, (8, 32)),
        "b": jax.random.normal(b, (32,)),
        "c": positive(c, (32, 32)),
        "d": positive(d, (32, 4)),
    }


class ConvNet(nn.Module):
    """Overlapping and other windows, strides, groups, padding."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        x = nn.silu(nn.Conv(8, (3, 3), strides=2, feature_group_count=2)(x))
        x = nn.avg_pool(x, (2, 2))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def attend(p, x, scale, causal=True):
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) for name in ("q", "k", "v"))
    return jnp.einsum(
        "bthe,hed->btd", jax.nn.dot_product_attention(rotary(q), rotary(k), v, is_causal=causal, scale=scale), p["o"]
    )


def gpt_block(p, x, scale):
    x = 0.75 * x + 0.25 * attend(p, x, scale)
    return 0.75 * x + 0.25 * (jax.nn.gelu(x @ p["up"]) / 1.129) @ p["down"]


def gpt_params(key, layers=LAYERS):
    q, k, v, o, up, down = jax.random.split(key, 6)
    heads = (layers, WIDTH, HEADS, WIDTH // HEADS)
    return {
        "q": jax.random.normal(q, heads) / 8,
        "k": jax.random.normal(k, heads) / 8,
        "v": jax.random.normal(v, heads) / 8,
        "o": jax.random.normal(o, (layers, HEADS, WIDTH // HEADS, WIDTH)) / 8,
        "up": positive(up, (layers, WIDTH, 32)),
        "down": positive(down, (layers, 32, WIDTH)),
    }


def gpt(scale, wrap=lambda f: f):
    """Blocks scanned over their stacked layers."""

    def apply(p, x):
        return jax.lax.scan(lambda x, p: (wrap(gpt_block)(p, x, scale), None), x, p)[0]

    return apply


# above the bound a search must not get; how near it gets shows that the test can fail
SEARCHED = {
    "mlp": (mlp, mlp_params, (1, 8), {}, 0.05),
    "convolutions": (
        lambda p, x: ConvNet().apply(p, x),
        lambda key: jax.tree.map(jnp.abs, ConvNet().init(key, jnp.ones((1, 8, 8, 3)))),
        (1, 8, 8, 3),
        {"input_axes": (1, 2, 3)},
        0.002,
    ),
    "convolutions by their largest pixel": (
        lambda p, x: ConvNet().apply(p, x),
        lambda key: jax.tree.map(jnp.abs, ConvNet().init(key, jnp.ones((1, 8, 8, 3)))),
        (1, 8, 8, 3),
        {},
        0.005,
    ),
    "plain residual": (
        lambda p, x: jax.lax.scan(lambda x, p: (x + jax.nn.relu(x @ p["up"]) @ p["down"], None), x, p)[0],
        lambda key: {name: gpt_params(key)[name] for name in ("up", "down")},
        (1, WIDTH),
        {},
        0.1,
    ),
    "gpt blocks": (gpt(HEADS / WIDTH), gpt_params, (1, TIME, WIDTH), {"input_bound": 1.0}, 0.001),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHED)
def test_no_search_over_inputs_exceeds_the_bound(name, key):
    apply, make, shape, options, near = SEARCHED[name]
    params = make(key)
    bound = mo.lipschitz_bound(apply, params, array(*shape), **options)
    axes = options.get("input_axes", (-1,))
    found = largest_ratio(lambda x: apply(params, x), shape, options.get("input_bound", math.inf), axes)
    assert near * bound <= found <= bound


# (network, weights, shape of the input, constant)
W = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
SPECTRAL = math.sqrt(6 / 10) * float(np.linalg.svd(W.astype(np.float64), compute_uv=False)[0])
KERNEL = np.abs(np.random.default_rng(1).standard_normal((3, 1, 1))).astype(np.float32)


def convolve(p, x):
    return jax.lax.conv_general_dilated(x, p, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))


def window(p, x):
    return nn.avg_pool(x * p, (2,), (2,))


EXACT = {
    "matrix": (lambda p, x: x @ p, W, (3, 6), SPECTRAL),
    "matrix on the left": (lambda p, x: (p.T @ x.T).T, W, (3, 6), SPECTRAL),
    "of a batch, the largest": (
        lambda p, x: jnp.einsum("bi,bio->bo", x, p),
        np.stack([W, 2 * W]),
        (2, 6),
        2 * SPECTRAL,
    ),
    "half": (lambda p, x: 0.5 * (x @ p), W, (3, 6), SPECTRAL / 2),
    "relu": (lambda p, x: jax.nn.relu(x @ p + 1.0), W, (3, 6), SPECTRAL),
    "average of positions": (lambda p, x: jnp.mean(x, 1) @ p, W, (2, 4, 6), SPECTRAL),
    "gain": (lambda p, x: x * p, np.array([1.0, -3.0]), (5, 2), 3.0),
    "positive convolution": (convolve, KERNEL, (2, 9, 1), float(KERNEL.sum())),
    "windows of two": (window, np.float32(1.0), (2, 8, 4), 1.0),
    "mixing positions": (
        lambda p, x: jnp.einsum("bti,ts->bsi", x, p),
        np.abs(W),
        (2, 6, 3),
        float(np.abs(W).sum(0).max()),
    ),
    "rotation": (lambda p, x: rotary(p * x), np.float32(1.0), (1, 5, 2, 4), 1.0),
    "side by side": (lambda p, x: jnp.concatenate([x, p * x], -1), np.float32(1.0), (3, 4), 1.0),
    "flattened": (lambda p, x: (p * x).reshape(2, -1), np.float32(1.0), (2, 4, 3), 1.0),
    "logits to one": (lambda p, x: (x @ p)[:, 0], W[:, :1], (1, 6), math.sqrt(6) * float(np.linalg.norm(W[:, 0]))),
    "rms norm near zero": (
        lambda p, x: nn.RMSNorm(epsilon=1e-2).apply({"params": p}, x),
        {"scale": np.full(8, 2.0, np.float32)},
        (3, 8),
        20.0,
    ),
    "layer norm near zero": (
        lambda p, x: nn.LayerNorm(epsilon=1e-2, use_bias=False).apply({"params": p}, x),
        {"scale": np.ones(8, np.float32)},
        (3, 8),
        10.0,
    ),
    "two-pass layer norm": (
        lambda p, x: nn.LayerNorm(epsilon=1e-2, use_bias=False, use_fast_variance=False).apply({"params": p}, x),
        {"scale": np.ones(8, np.float32)},
        (3, 8),
        10.0,
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_bound_is_the_constant_where_that_is_known(name):
    apply, params, shape, constant = EXACT[name]
    assert mo.lipschitz_bound(apply, params, array(*shape)) == pytest.approx(constant, rel=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scale", [1 / 4, 1 / 2])
def test_attention_of_one_head_is_bounded_by_its_formula(causal, scale, key):
    """Of orthogonal matrices and inputs of length r: values move, and scores do, on values of length r."""
    q, k, v, o = (jnp.linalg.qr(jax.random.normal(a, (4, 4)))[0] for a in jax.random.split(key, 4))
    params = {"q": q[:, None], "k": k[:, None], "v": v[:, None], "o": o[None]}
    bound = mo.lipschitz_bound(lambda p, x: attend(p, x, scale, causal), params, array(2, 5, 4), input_bound=3.0)
    r = 3.0 * math.sqrt(4)
    assert bound == pytest.approx(1.0 + scale * 2 * r * r, rel=1e-5)


def test_scan_jit_remat_and_a_python_loop_have_one_bound(key):
    params = gpt_params(key)

    def unrolled(p, x):
        for i in range(LAYERS):
            x = gpt_block(jax.tree.map(lambda w, i=i: w[i], p), x, 0.25)
        return x

    variants = [unrolled, jax.jit(gpt(0.25, lambda f: jax.checkpoint(f, static_argnums=2)))]
    bounds = [mo.lipschitz_bound(f, params, array(2, TIME, WIDTH), input_bound=1.0) for f in variants]
    assert bounds == pytest.approx(bounds[:1] * len(bounds), rel=1e-6)


def test_tokens_move_as_the_rows_that_they_look_up(key):
    params = gpt_params(key)
    table = jax.random.normal(key, (11, WIDTH))
    by_tokens = mo.lipschitz_bound(
        lambda p, t: gpt(0.25)(p["blocks"], p["table"][t]), {"blocks": params, "table": table}, tokens(2, TIME)
    )
    longest = float(jnp.max(jnp.sqrt(jnp.mean(table**2, axis=1))))
    by_rows = mo.lipschitz_bound(gpt(0.25), params, array(2, TIME, WIDTH), input_bound=longest)
    assert by_tokens == pytest.approx(by_rows, rel=1e-5)


def test_the_last_iteration_of_a_scan_sees_what_those_before_it_left():
    def apply(p, x):
        (a, _), seen = jax.lax.scan(lambda c, w: ((c[1], c[0] * w), c[0]), (x, x), p, reverse=True)
        return a + seen[0]

    # from the last weight on: (x, x), (x, 4x), (4x, 3x), (3x, 8x); the iteration of the first weight runs last, sees 4x
    assert mo.lipschitz_bound(apply, jnp.array([2.0, 3.0, 4.0]), array(3, 2)) == pytest.approx(7.0)


@pytest.mark.slow
def test_no_activation_is_steeper_than_its_slope_or_much_flatter():
    grid = np.concatenate([np.linspace(-30, 30, 60_001), np.geomspace(1e-9, 1e6, 1000), -np.geomspace(1e-9, 1e6, 1000)])
    with enable_x64(True):
        slopes = jax.jit(lambda x: [jnp.max(jnp.abs(jax.vmap(jax.grad(a.function))(x))) for a in ACTIVATIONS])(grid)
    for entry, slope in zip(ACTIVATIONS, slopes, strict=True):
        assert entry.slope.largest - 2e-3 <= float(slope) <= entry.slope.largest


def test_an_activation_that_is_named_like_another_gets_no_slope_of_it():
    @jax.jit
    def gelu(x):
        return x * (0.5 * (1.0 + jnp.tanh(10.0 * (x + 0.044715 * x**3))))

    with pytest.raises(ValueError, match=r"integer_pow at test_lipschitz.py:\d+ \(.*gelu\) multiplies two"):
        mo.lipschitz_bound(lambda p, x: gelu(x @ p), jnp.eye(4), array(3, 4))


REFUSED = {
    "attention of anything": (lambda p, x: attend(p, x, 0.25), "dot_general .*only where they are bounded"),
    "gate": (lambda p, x: x * (x + 1), "mul at .* multiplies two activations"),
    "jump": (lambda p, x: jnp.where(x > 0, x, 2 * x + 1), "gt at .* has no proven rule"),
    "no rule": (lambda p, x: jnp.fft.rfft(x).real, "fft at .* has no proven rule"),
    "no epsilon": (
        lambda p, x: x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True)),
        "normalises by a length that can be zero",
    ),
    "while": (lambda p, x: jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x), "while at .* as often as"),
    "root": (lambda p, x: jnp.sqrt(jnp.abs(x)), "sqrt at .* has no proven rule"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_without_a_proof_the_first_operation_is_named(name, key):
    apply, message = REFUSED[name]
    params = jax.tree.map(lambda w: w[0], gpt_params(key))
    with pytest.raises(ValueError, match=message):
        mo.lipschitz_bound(lambda p, x: jnp.tanh(apply(p, x)), params, array(2, TIME, WIDTH))


def test_what_does_not_reach_the_output_needs_no_proof():
    def apply(p, x):
        jnp.sort(x)
        return x @ p

    assert mo.lipschitz_bound(apply, np.eye(3, dtype=np.float32), array(2, 3)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("kind", [np.float32, np.int64, jnp.asarray])
def test_bounds_and_axes_are_taken_of_every_kind(kind):
    def bound(*numbers):
        size, axis = numbers
        return mo.lipschitz_bound(lambda p, x: x * (x @ p), jnp.eye(3), array(2, 3), input_bound=size, input_axes=axis)

    assert bound(kind(2), np.int64(-1)) == bound(2.0, -1) > 0


def test_specs_shapes_and_inputs_that_cannot_move_are_refused():
    weights, spec = {"w": jnp.eye(3)}, {"w": mo.NormSpec(mo.Spectral())}
    with pytest.raises(ValueError, match="specs say what the norm of each leaf is, not how leaves compose"):
        mo.lipschitz_bound(spec, weights)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"1 parameter has no values:\n  w  float32\[3, 3\]"):
        mo.lipschitz_bound(lambda p, x: x @ p["w"], {"w": array(3, 3)}, array(2, 3))
    with pytest.raises(ValueError, match="there is nothing to move"):
        mo.lipschitz_bound(lambda p, t: jax.nn.one_hot(t, 3) @ p["w"], weights, tokens(4))
    with pytest.raises(ValueError, match="input_axes must be axes of an array of 2 axes; got 2"):
        mo.lipschitz_bound(lambda p, x: x @ p["w"], weights, array(2, 3), input_axes=2)
    with pytest.raises(ValueError, match=r"output_axes must be an axis or a sequence of axes \(integers\); got 'last'"):
        mo.lipschitz_bound(lambda p, x: x @ p["w"], weights, array(2, 3), output_axes="last")  # pyright: ignore
    with pytest.raises(ValueError, match="input_bound must be a number above 0"):
        mo.lipschitz_bound(lambda p, x: x @ p["w"], weights, array(2, 3), input_bound=0.0)
