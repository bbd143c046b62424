"""Whitened momentum: its formula step by step, its invariances, and what it leaves alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import modula_optax as mo
from modula_optax._orthonormal import orthonormalized
from tests.cases import enable_x64, random_like, untyped

SPECTRAL = mo.NormSpec(mo.Spectral())


def gradients(shape, steps, seed=0, dtype: Any = np.float64):
    """Of two parts with a spectrum each, as those of layers are: what is learned of them is not isotropic."""
    rng = np.random.default_rng(seed)
    *batch, rows, columns = shape
    left, right = (rng.standard_normal((*batch, size, size)) * np.logspace(0, -1.5, size) for size in (rows, columns))
    return (left @ rng.standard_normal((steps, *shape)) @ np.swapaxes(right, -1, -2)).astype(dtype)


def updates_of(tx, grads):
    def step(state, g):
        u, state = tx.update(g, state)
        return state, u

    return np.asarray(jax.jit(lambda grads: jax.lax.scan(step, tx.init(grads[0]), grads)[1])(jnp.asarray(grads)))


def averages_by_the_formula(grads, b1, nesterov):
    mu = np.zeros_like(grads[0])
    for t, g in enumerate(grads, 1):
        mu = b1 * mu + (1 - b1) * g
        yield b1 * mu / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t) if nesterov else mu / (1 - b1**t)


def bases_by_the_formula(grads, b2, every, rotate):
    """Of every step, the moments of both sides and their bases, with the QR and the eigenvectors of LAPACK."""
    sizes = grads[0].shape
    moments, bases = [np.zeros((k, k)) for k in sizes], [np.eye(k) for k in sizes]
    for t, g in enumerate(grads, 1):
        for i, outer in enumerate((g @ g.T, g.T @ g)):
            moments[i] = b2 * moments[i] + (1 - b2) * outer
            if rotate[i] and t == every:
                bases[i] = np.linalg.eigh(moments[i])[1][:, ::-1]
            elif rotate[i] and t % every == 0:
                bases[i] = np.linalg.qr(moments[i] @ bases[i])[0]
        yield list(moments), list(bases)


def whitened_by_the_formula(grads, b1=0.9, b2=0.9, every=10, nesterov=True, rotate=(True, True), eps=1e-5):
    """One matrix, as the docstring says it."""
    v, averages = np.zeros(grads[0].shape), averages_by_the_formula(grads, b1, nesterov)
    known = bases_by_the_formula(grads, b2, every, rotate)
    for t, (m, (_, bases)) in enumerate(zip(averages, known, strict=True), 1):
        if t < every:
            yield m
            continue
        rotated = bases[0].T @ m @ bases[1]
        v = b2 * v + (1 - b2) * rotated**2
        u = bases[0] @ (rotated / (np.sqrt(v) + eps * np.linalg.norm(np.sqrt(v)))) @ bases[1].T
        yield u * np.linalg.norm(m) / np.linalg.norm(u)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((6, 10), {}),
        ((40, 36), {"every": 7, "b2": 0.97}),
        ((5, 5), {"every": 1, "nesterov": False, "b1": 0.5}),
        ((4, 9), {"max_size": 8, "every": 3}),
        ((9, 10), {"max_size": 8, "every": 3}),
    ],
    ids=["defaults", "several blocks", "every step", "one side", "no side"],
)
def test_fifty_steps_are_those_of_the_formula(shape, arguments):
    rotate = tuple(size <= arguments.get("max_size", np.inf) for size in shape)
    numbers = {name: value for name, value in arguments.items() if name != "max_size"}
    with enable_x64(True):
        grads = gradients(shape, 50)
        ours = updates_of(mo.scale_by_whitened_momentum(SPECTRAL, **arguments), grads)
    expected = np.stack(list(whitened_by_the_formula(grads, **numbers, rotate=rotate)))
    np.testing.assert_allclose(ours, expected, atol=1e-6 * abs(expected).max())


def test_heads_taps_groups_and_layers_are_whitened_each_by_itself():
    layouts = {
        "heads": ((6, 2, 4), mo.Axes(fan_in=0, fan_out=2), lambda g: [g[:, i] for i in range(2)]),
        "groups": ((6, 8), mo.Axes(fan_in=0, fan_out=1, groups=2), lambda g: [g[:, :4], g[:, 4:]]),
        "taps": ((2, 6, 4), mo.Axes(fan_in=1, fan_out=2, taps=0), list),
        "layers": ((2, 6, 4), None, list),
        "transposed": ((4, 6), mo.Axes(fan_in=-1, fan_out=-2), lambda g: [g.T]),
    }
    specs = {name: mo.NormSpec(mo.Spectral(), axes) for name, (_, axes, _) in layouts.items()}
    with enable_x64(True):
        grads = {name: np.random.default_rng(0).standard_normal((12, *shape)) for name, (shape, *_) in layouts.items()}
        tx = untyped(mo.scale_by_whitened_momentum(specs, every=4))
        step = lambda state, g: tx.update(g, state)[::-1]  # noqa: E731
        first = jax.tree.map(lambda g: g[0], grads)
        ours = jax.jit(lambda grads: jax.lax.scan(step, tx.init(first), grads)[1])(jax.tree.map(jnp.asarray, grads))
    for name, (*_, apart) in layouts.items():
        for i in range(len(apart(grads[name][0]))):
            alone = np.stack([apart(g)[i] for g in grads[name]])
            expected = list(whitened_by_the_formula(alone, every=4))[-1]
            np.testing.assert_allclose(apart(np.asarray(ours[name][-1]))[i], expected, atol=1e-6, err_msg=name)


def test_rotated_gradients_have_rotated_updates():
    rng = np.random.default_rng(1)
    a, b = (np.linalg.qr(rng.standard_normal((size, size)))[0] for size in (6, 10))
    with enable_x64(True):
        grads = gradients((6, 10), 30)
        tx = mo.scale_by_whitened_momentum(SPECTRAL, every=4)
        plain, rotated = updates_of(tx, grads), updates_of(tx, a @ grads @ b.T)
    np.testing.assert_allclose(rotated, a @ plain @ b.T, atol=1e-5 * abs(plain).max())


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-30, 2.0**60, 2.0**100])
def test_the_scale_of_gradients_does_not_matter(scale):
    grads = gradients((6, 10), 12, dtype=np.float32)
    tx = mo.scale_by_whitened_momentum(SPECTRAL, every=4)
    plain, scaled = updates_of(tx, grads), updates_of(tx, np.float32(scale) * grads)
    np.testing.assert_allclose(scaled / np.float32(scale), plain, rtol=1e-6)


def test_the_metric_is_forgotten_and_learned_anew_when_the_scale_changes():
    """What was seen before a change of scale by 1e8 counts as little as its decay says, however large it was."""
    grads = gradients((6, 6), 600, dtype=np.float32)
    grads[:200] *= 1e8
    tx = mo.scale_by_whitened_momentum(SPECTRAL, every=4)
    late, fresh = updates_of(tx, grads)[-1], updates_of(tx, grads[200:])[-1]
    np.testing.assert_allclose(late, fresh, atol=1e-2 * abs(fresh).max())


def test_recent_gradients_are_isotropic_in_it():
    grads = gradients((12, 12), 400, dtype=np.float32)
    tx = mo.scale_by_whitened_momentum(SPECTRAL, 0.0, b2=0.98, every=2)
    condition = lambda x: np.linalg.cond(np.cov(x.transpose(0, 2, 1).reshape(-1, 12).T))  # noqa: E731
    before, after = condition(grads[200:]), condition(np.asarray(updates_of(tx, grads))[200:])
    assert after < 3 < 500 < before


@pytest.mark.parametrize(
    "g", [np.zeros((5, 7)), np.outer(np.arange(5.0), np.ones(7)), np.eye(5, 7)], ids=["zero", "rank one", "identity"]
)
def test_degenerate_gradients_are_no_trouble(g):
    tx = mo.scale_by_whitened_momentum(SPECTRAL, every=2, nesterov=False)
    updates = updates_of(tx, np.stack([g] * 8).astype(np.float32))
    assert np.isfinite(updates).all()
    np.testing.assert_allclose(np.linalg.norm(updates, axis=(1, 2)), np.linalg.norm(g), rtol=1e-5)
    if np.linalg.matrix_rank(g) <= 1:
        # nothing but the direction itself was ever seen
        np.testing.assert_allclose(updates, np.stack([g] * 8), atol=0.05 * abs(g).max())


def test_a_matrix_that_is_not_finite_spoils_no_other():
    grads = gradients((2, 5, 7), 6, dtype=np.float32)
    tx = mo.scale_by_whitened_momentum(SPECTRAL, every=2)
    alone = updates_of(tx, grads[:, 1:])
    grads[3, 0, 2, 2] = np.nan
    updates = updates_of(tx, grads)
    assert np.isfinite(updates[:3]).all()
    assert np.isnan(updates[3:, 0]).all()
    np.testing.assert_allclose(updates[:, 1], alone[:, 0], atol=1e-5 * abs(grads[:, 1]).max())


@pytest.mark.parametrize("norm", [mo.Embedding(), mo.RowL2(), mo.Sign(), mo.RMS(), mo.Diagonal(), mo.Unnormed()])
def test_parameters_of_other_norms_have_plain_momentum(norm):
    grads = gradients((5, 7), 4, dtype=np.float32)
    ours = updates_of(mo.scale_by_whitened_momentum(mo.NormSpec(norm), 0.8, every=1), grads)
    np.testing.assert_array_equal(ours, updates_of(mo.scale_by_momentum(0.8), grads))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_what_is_learned_is_in_float32_whatever_the_weights(dtype):
    grads = jnp.asarray(gradients((6, 6), 20), dtype)
    tx = mo.scale_by_whitened_momentum(SPECTRAL, every=3, accumulator_dtype=jnp.float32)
    state = untyped(tx.init(grads[0]))
    assert {x.dtype for x in jax.tree.leaves(state.metrics)} == {jnp.dtype("float32")}
    precise = updates_of(tx, grads.astype(jnp.float32))
    np.testing.assert_allclose(
        updates_of(tx, grads).astype(np.float32), precise, atol=0.02 * abs(precise).max()
    )  # only what passes is rounded


def test_sizes_of_the_state_are_those_of_the_table():
    def numbers(max_size):
        tx = mo.scale_by_whitened_momentum(SPECTRAL, max_size=max_size)
        state = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((768, 3072), jnp.float32))
        return sum(x.size for x in jax.tree.leaves(state)) / 1e6

    assert [round(numbers(size), 1) for size in (4096, 2048)] == [24.8, 5.9]


def test_derivatives_are_those_of_differences():
    """Through averages, bases and roots: nothing is taken for a constant."""
    with enable_x64(True):
        grads = jnp.asarray(gradients((4, 5), 6))
        tx = untyped(mo.scale_by_whitened_momentum(SPECTRAL, every=2))

        def last(scale):
            return jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], tx.init(grads[0]), grads * scale)[1][-1]

        scale, direction = jnp.ones((6, 4, 5)), random_like(jax.random.key(3), (6, 4, 5), jnp.float64)
        last = jax.jit(last)
        slope = jax.jvp(last, (scale,), (direction,))[1]
        # columns of bases may turn round: central differences of what does not depend on their signs
        step = 1e-6
        difference = (last(scale + step * direction) - last(scale - step * direction)) / (2 * step)
        np.testing.assert_allclose(slope, difference, atol=1e-5 * abs(difference).max())
        backward = jax.grad(lambda s: jnp.sum(last(s) * direction[0]))(scale)
        np.testing.assert_allclose(jnp.sum(backward * direction), jnp.sum(slope * direction[0]), rtol=1e-8)


@pytest.mark.parametrize("name", ["every", "max_size"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_counts_are_refused_that_are_none(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1; got {value}"):
        mo.scale_by_whitened_momentum(SPECTRAL, **{name: value})


@pytest.mark.parametrize("dependent", [0.0, 1e-5])
@pytest.mark.parametrize("size", [3, 32, 70])
def test_columns_become_orthonormal_and_span_the_same(size, dependent):
    with enable_x64(True):
        z = np.random.default_rng(size).standard_normal((2, size, size))
        if dependent:
            z = z[..., :1] + dependent * z
        q = np.asarray(orthonormalized(jnp.asarray(z)))
    expected = np.linalg.qr(z)[0]
    signs = np.sign(np.sum(expected * q, axis=-2, keepdims=True))
    np.testing.assert_allclose(q.swapaxes(-1, -2) @ q, np.broadcast_to(np.eye(size), q.shape), atol=1e-12)
    np.testing.assert_allclose(q * signs, expected, atol=1e-6)


SHAPES = {"square": (16, 16), "experts": (4, 16, 24), "bias": (16,)}
TREE = {name: mo.NormSpec(mo.RMS() if len(shape) == 1 else mo.Spectral()) for name, shape in SHAPES.items()}


@pytest.mark.parametrize(
    ("layout", "kind"),
    [(P("data", None), AxisType.Auto), (P(None, "data"), AxisType.Explicit)],
    ids=["auto", "explicit"],
)
def test_eight_devices_learn_what_one_learns_and_keep_it_where_it_is(layout, kind):
    specs = [TREE] * 2
    tx = untyped(optax.chain(mo.scale_by_whitened_momentum(specs, every=2), mo.dualize(specs)))
    rng = np.random.default_rng(0)
    draw = lambda: {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}  # noqa: E731
    grads = [[draw(), draw()] for _ in range(5)]

    def trained(grads):
        state, step = tx.init(grads[0]), jax.jit(tx.update)
        shardings = jax.tree.map(lambda x: x.sharding, state)
        for g in grads:
            updates, state = step(g, state)
        return updates, shardings, state

    alone, *_ = trained(jax.tree.map(jnp.asarray, grads))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))

    def place(x):
        return jax.device_put(x, NamedSharding(mesh, P(*[None] * (x.ndim - 2), *layout) if x.ndim > 1 else P()))

    with jax.set_mesh(mesh):
        together, before, state = trained(jax.tree.map(place, grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), together, alone)
    for after, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(before), strict=True):
        assert after.sharding.is_equivalent_to(sharding, after.ndim)
    # eight experts: one on each device
    experts = state[0].metrics["16x24"]
    assert {shard.data.shape[0] for shard in experts.left.basis.addressable_shards} == {1}


def test_a_mesh_may_have_automatic_and_explicit_axes():
    tx, kinds = mo.scale_by_whitened_momentum(TREE, every=2), (AxisType.Auto, AxisType.Explicit)
    grads = {name: jnp.cos(jnp.arange(np.prod(shape)).reshape(shape)) for name, shape in SHAPES.items()}
    alone, _ = jax.jit(tx.update)(grads, tx.init(grads))
    with jax.set_mesh(jax.make_mesh((2, 4), ("data", "model"), axis_types=kinds)):
        placed = {name: jax.device_put(x, P(*[None] * (x.ndim - 1), "model")) for name, x in grads.items()}
        together, _ = jax.jit(tx.update)(placed, tx.init(placed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), together, alone)
