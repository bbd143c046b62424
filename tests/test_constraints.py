"""Laws of every constraint on every parameter that it fits: in the set, back to it, and out of nobody's way."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from tests.cases import (
    LEAVES,
    NORMS,
    SPECTRA,
    compilations,
    enable_x64,
    lowered_for_accelerators,
    random_like,
    untyped,
    with_spectrum,
)
from tests.trees import CONSTRAINTS

pytestmark = pytest.mark.usefixtures("strict_promotion")

SPHERES = (mo.UnitSphere(), mo.Hypersphere(2.0), mo.Stiefel(2), mo.SpectralSphere(2.0))
BALLS = (mo.NormBall(0.5), mo.SpectralCap(0.5), mo.SoftCap(0.5), mo.SpectralNormalize(0.5))
SHAPES_OF_ROWS = (mo.Orthogonal(), mo.UnitRows())
# the norm that these leave depends on more than their radius
OTHERS = (mo.Hammer(2.0), mo.SpectralDecay(0.1), mo.Regularize(0.1), mo.FixedNorm())
IDLE = OTHERS[1:]
ALL = (*SPHERES, *BALLS, *SHAPES_OF_ROWS, *OTHERS)
# power iterations find the largest singular value of random matrices to this, and find more of it the next time
FOUND = 0.05
ESTIMATED = mo.Hammer | mo.SpectralNormalize | mo.SpectralSphere


TABLE = (*NORMS, *(leaf for leaf in LEAVES if str(leaf.id)[:9] == "Spectral-" and str(leaf.id)[-1] in "1356"))


def name(constraint):
    return type(constraint).__name__


@functools.cache
def tree_of(constraint):
    """Specs and arrays that the constraint fits: every norm, and matrices turned, stacked, with taps and in groups.

    Each in float32 and in bfloat16, which stand in one stack.
    """
    specs, arrays = {}, {}
    for leaf in TABLE:
        spec, shape = untyped(leaf.values)
        held = mo.NormSpec(spec.norm, spec.axes, constraint=constraint)
        try:
            mo.summarize(held, jnp.zeros(shape))
        except ValueError:
            continue
        for dtype in (jnp.float32, jnp.bfloat16):
            path = f"{leaf.id} {dtype.__name__}"
            specs[path], arrays[path] = held, jax.ShapeDtypeStruct(shape, dtype)
    assert specs
    return specs, arrays


def random_tree(constraint, key, scale=1.0):
    arrays = tree_of(constraint)[1]
    return {
        path: jnp.asarray(scale, x.dtype) * random_like(jax.random.fold_in(key, i), x.shape, x.dtype)
        for i, (path, x) in enumerate(arrays.items())
    }


@functools.cache
def norms_of(constraint):
    specs, _ = tree_of(constraint)
    return jax.jit(lambda params: mo.leaf_norms(params, specs))


def rounding(x):
    """Of all entries alike it moves a norm by at most their number times it; at random by less than its root."""
    return 4 * float(jnp.finfo(x.dtype).eps) + 2e-5


@functools.cache
def projection(constraint):
    specs, _ = tree_of(constraint)
    return jax.jit(lambda params: mo.project(params, specs))


def assert_held(constraint, params):
    for path, norm in norms_of(constraint)(params).items():
        tolerance = rounding(params[path]) + (FOUND if isinstance(constraint, ESTIMATED) else 0.0)
        if constraint in SPHERES:
            assert np.all(np.abs(norm / getattr(constraint, "radius", 1.0) - 1) <= tolerance), path
        if constraint in BALLS:
            assert np.all(norm <= constraint.radius * (1 + tolerance)), path


def test_every_constraint_of_the_package_stands_in_the_tables():
    public = {
        c for c in vars(mo).values() if dataclasses.is_dataclass(c) and mo.Constraint in inspect.getmro(untyped(c))
    }
    assert public == set(map(type, ALL)) == set(map(type, CONSTRAINTS))


@pytest.mark.parametrize("constraint", ALL, ids=name)
def test_projection_lands_in_the_set_and_stays(constraint, key):
    params = random_tree(constraint, key)
    once = projection(constraint)(params)
    assert jax.tree.map(lambda p: (p.shape, p.dtype), once) == jax.tree.map(lambda p: (p.shape, p.dtype), params)
    assert_held(constraint, once)
    if isinstance(constraint, ESTIMATED):
        return
    twice = projection(constraint)(once)
    for path in once:
        a, b = (np.asarray(tree[path], np.float32) for tree in (once, twice))
        np.testing.assert_allclose(a, b, atol=rounding(once[path]) * np.max(np.abs(a)), err_msg=path)


@pytest.mark.parametrize("constraint", ALL, ids=name)
def test_steps_along_it_and_back_to_it_lower_for_accelerators(constraint, key):
    specs, _ = tree_of(constraint)
    params = random_tree(constraint, key)
    tx = optax.chain(mo.dualize(specs), mo.keep_params_projected(specs, learning_rate=0.1))
    assert lowered_for_accelerators(tx.update, params, jax.jit(tx.init)(params), params).platforms[0] == "cuda"


@pytest.mark.parametrize("constraint", [*BALLS, *IDLE], ids=name)
def test_what_is_inside_stays_as_it_is(constraint, key):
    params = random_tree(constraint, key)
    norms = norms_of(constraint)(params)
    inside = {path: (p.astype(jnp.float32) * 0.49 / jnp.max(norms[path])).astype(p.dtype) for path, p in params.items()}
    kept = projection(constraint)(inside)
    for path in inside:
        if isinstance(constraint, mo.Regularize) and "Embedding" in path:
            continue  # rows go to their unit sphere
        # a length measured and given back may differ in the last bit
        rtol = 1e-6 if isinstance(constraint, mo.FixedNorm) else 0
        a, b = (np.asarray(tree[path], np.float32) for tree in (kept, inside))
        np.testing.assert_allclose(a, b, rtol=rtol, err_msg=path)


@functools.cache
def last_link(constraint):
    tx = mo.keep_params_projected(tree_of(constraint)[0])

    def keep(updates, state, params, learning_rate):
        return tx.update(updates, state, params, learning_rate=learning_rate)

    return jax.jit(tx.init), jax.jit(keep)


@pytest.mark.parametrize("constraint", ALL, ids=name)
def test_the_last_link_and_direct_projection_agree_to_rounding(constraint, key):
    init, update = last_link(constraint)
    params = projection(constraint)(random_tree(constraint, key))
    updates = random_tree(constraint, jax.random.key(1), scale=0.01)
    moved = optax.apply_updates(params, updates)
    # direct projection knows no learning rate, and remembers these very weights
    kept, _ = update(updates, init(moved), params, learning_rate=jnp.zeros(()))
    after, direct = untyped(optax.apply_updates(params, kept)), projection(constraint)(moved)
    for path in params:
        a, b = (np.asarray(tree[path], np.float32) for tree in (after, direct))
        # the sum of weights and update is rounded once more
        rtol = 5e-6 if params[path].dtype == jnp.float32 else 2 * float(jnp.finfo(jnp.bfloat16).eps)
        np.testing.assert_allclose(a, b, atol=rtol * np.max(np.abs(b)), err_msg=path)


@pytest.mark.parametrize("constraint", ALL, ids=name)
def test_steps_compile_once_and_memories_keep_their_shape(constraint, key):
    init, update = last_link(constraint)
    params = random_tree(constraint, key)
    state = init(params)
    first = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    with compilations("keep") as found:
        for seed in range(3):
            updates = random_tree(constraint, jax.random.key(seed), scale=0.01)
            updates, state = update(updates, state, params, learning_rate=jnp.asarray(0.1 * seed, jnp.float32))
            params = optax.apply_updates(params, updates)
    # once at most: another law may have compiled it
    assert len(found) <= 1
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == first
    assert state.count == 3


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("constraint", [*SPHERES, *BALLS, *SHAPES_OF_ROWS, mo.FixedNorm()], ids=name)
def test_weights_of_any_scale_come_back(constraint, scale, key):
    params = random_tree(constraint, key, scale=scale)
    kept = projection(constraint)(params)
    assert all(np.all(np.isfinite(p)) for p in kept.values())
    assert_held(constraint, kept)


@pytest.mark.parametrize("constraint", ALL, ids=name)
def test_zeros_stay_finite_and_nan_stays_visible(constraint):
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree_of(constraint)[1])
    assert not any(np.any(p) for p in projection(constraint)(zeros).values())
    broken = projection(constraint)(jax.tree.map(lambda p: p * jnp.asarray(jnp.nan, p.dtype), zeros))
    assert all(np.isnan(p).any() for p in broken.values())


project = jax.jit(mo.project, static_argnums=1)


def spectral(constraint):
    return mo.NormSpec(mo.Spectral(), constraint=constraint)


def gain(shape):
    return np.sqrt(shape[1] / shape[0])


@pytest.mark.parametrize("name", ["orthogonal", "linear", "condition 1e4", "one outlier", "rank six", "zero"])
@pytest.mark.parametrize("shape", [(12, 12), (12, 30), (30, 12)])
@pytest.mark.parametrize("radius", [0.5, 3.0])
def test_the_cap_is_the_minimum_of_singular_values_and_radius(shape, name, radius):
    w, u, v = with_spectrum(0, shape, 2 * SPECTRA[name])
    capped = project(jnp.asarray(gain(shape) * w, jnp.float32), spectral(mo.SpectralCap(radius)))
    expected = gain(shape) * (u * np.minimum(2 * SPECTRA[name], radius)) @ v.T
    np.testing.assert_allclose(capped, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 12), (12, 30), (30, 12), (300, 250), (260, 400)])
def test_what_a_step_leaves_above_the_cap_comes_down_to_it_and_not_below(shape):
    values = np.array([1.049, 1.02, 1.001, 1.0001, 1.00001, 1.0, 0.9999, 0.999, 0.9, 0.5, 0.01, 0.0])
    values = np.resize(values, min(shape))
    w, u, v = with_spectrum(0, shape, 3 * values)
    spec = spectral(mo.SpectralCap(3.0))
    capped = project(jnp.asarray(gain(shape) * w, jnp.float32), spec)
    expected = gain(shape) * (u * np.minimum(3 * values, 3)) @ v.T
    assert np.linalg.norm(np.asarray(capped, np.float64) - expected, 2) <= 3 * gain(shape) * 7e-5
    assert float(mo.leaf_norms(capped, spec)) <= 3 * (1 + 2e-5)
    np.testing.assert_array_equal(project(capped, spec), capped)


@pytest.mark.parametrize("size", [193, 288])
@pytest.mark.parametrize("place", [0, 150, -1])
def test_a_single_singular_value_above_the_cap_is_found_wherever_it_is(size, place):
    """Matrices of this size are looked through block by block."""
    spec = spectral(mo.SpectralCap(1.0))
    inside = jnp.full(size, 0.999).at[place].set(1.0)
    np.testing.assert_array_equal(project(jnp.diag(inside), spec), jnp.diag(inside))
    capped = project(jnp.diag(inside.at[place].set(1.0002)), spec)
    np.testing.assert_allclose(capped, jnp.diag(inside), atol=7e-5)


def test_what_is_inside_stays_as_it_is_in_float64_too():
    with enable_x64(True):
        w = jnp.diag(jnp.ones(200))
        np.testing.assert_array_equal(mo.project(w, spectral(mo.SpectralCap(1.0))), w)


def test_large_matrices_of_several_shapes_are_capped_at_once(key):
    """Batches of Cholesky factors of this size, two at a time, never end on a CPU."""
    shapes = {"square": (2, 512, 512), "wide": (2, 512, 1024)}
    params = {name: random_like(key, shape) for name, shape in shapes.items()}
    spec = mo.NormSpec(mo.Spectral(), constraint=mo.SpectralCap(1.2))
    params = mo.project(params, mo.NormSpec(mo.Spectral(), constraint=mo.UnitSphere()))
    np.testing.assert_array_equal(project(params, spec)["wide"], params["wide"])


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_the_soft_cap_takes_the_longest_step_from_inside_just_to_the_radius(shape):
    radius, rate = 2.0, 0.1
    values = np.linspace(radius, 0.1, 12)
    w, u, v = with_spectrum(0, shape, values)
    w, grow = (jnp.asarray(gain(shape) * x, jnp.float32) for x in (w, rate * u @ v.T))
    tx = mo.keep_params_projected(spectral(mo.SoftCap(radius)), learning_rate=rate)
    after = w + tx.update(grow, tx.init(w), w)[0]
    found = np.diag(u.T @ np.asarray(after, np.float64) @ v) / gain(shape)
    assert found[0] == pytest.approx(radius, rel=1e-5)
    # in between: longer than before the cap by no more than the step, in the same order, hardly changed where small
    assert np.all(np.diff(found) < 0)
    assert np.all(found <= np.minimum(values + rate, radius * (1 + 1e-5)))
    np.testing.assert_allclose(found[6:], values[6:] + rate, rtol=0.01)


def test_the_soft_cap_rests_where_decay_alone_holds_the_weights(key):
    tx = mo.keep_params_projected(spectral(mo.SoftCap(2.0)), learning_rate=0.1, weight_decay=0.5)
    w = 1.999 * mo.initialize(key, jnp.zeros((6, 4)), spectral(None))
    decayed = -0.1 * 0.5 * w + 0.1 * mo.initialize(jax.random.key(1), w, spectral(None))
    kept, _ = tx.update(decayed, tx.init(w), w)
    np.testing.assert_array_equal(w + kept, w + ((w + decayed) - w))


@pytest.mark.parametrize("constraint", [mo.SoftCap(1.0), mo.SpectralCap(1.0)], ids=name)
def test_a_cap_holds_through_hundreds_of_longest_steps(constraint, key):
    specs = mo.NormSpec(mo.Spectral(), constraint=constraint, mass=0.5)
    tx = optax.chain(mo.dualize(specs), optax.scale(0.1), mo.keep_params_projected(specs, learning_rate=0.1))
    # always uphill along one direction, and noise
    climb = random_like(key, (8, 20))
    params = mo.initialize(key, climb, specs)

    def step(carry, k):
        params, state = carry
        updates, state = tx.update(climb + 0.3 * random_like(k, climb.shape), state, params)
        return (optax.apply_updates(params, updates), state), mo.leaf_norms(params, specs)

    _, norms = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, 300))
    assert norms.max() <= 1 + 2e-5
    assert norms[-1] >= 0.95


def spectrum_after(constraint, values, **rates):
    """What the chain's last link makes of a matrix of these singular values, in its own singular vectors."""
    w, u, v = with_spectrum(0, (6, 4), np.asarray(values))
    w = jnp.asarray(gain((6, 4)) * w, jnp.float32)
    tx = untyped(mo.keep_params_projected(spectral(constraint), **rates))
    after = w + tx.update(jnp.zeros_like(w), tx.init(w), w)[0]
    within = u.T @ np.asarray(after, np.float64) @ v / gain((6, 4))
    np.testing.assert_allclose(within, np.diag(np.diag(within)), atol=1e-5)
    return np.diag(within)


@pytest.mark.parametrize(
    ("constraint", "rates", "expected"),
    [
        (mo.Hammer(2.0), {}, [2.0, 1.5, 1.0, 0.5]),
        (mo.Hammer(5.0), {}, [5.0, 1.5, 1.0, 0.5]),
        (mo.SpectralNormalize(2.0), {}, [2.0, 0.75, 0.5, 0.25]),
        (mo.NormBall(2.0), {}, [2.0, 0.75, 0.5, 0.25]),
        (mo.NormBall(5.0), {}, [4.0, 1.5, 1.0, 0.5]),
        (mo.SpectralDecay(0.5), {"learning_rate": 0.1}, [3.8, 1.5, 1.0, 0.5]),
        (mo.SpectralDecay(0.5), {"learning_rate": 3.0}, [0.0, 1.5, 1.0, 0.5]),
        (mo.Regularize(0.5), {"learning_rate": 0.1}, [3.8, 1.425, 0.95, 0.475]),
        (mo.Regularize(0.5), {"learning_rate": 3.0}, [0.0, 0.0, 0.0, 0.0]),
        (mo.FixedNorm(), {}, [4.0, 1.5, 1.0, 0.5]),
        (mo.Orthogonal(), {}, [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_singular_values_go_where_the_formula_says(constraint, rates, expected):
    found = spectrum_after(constraint, [4.0, 1.5, 1.0, 0.5], **rates)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_rows_of_root_mean_square_one_whatever_the_norm(key):
    spec = mo.NormSpec(mo.Sign(), mo.Axes(fan_in=-1, fan_out=-2), constraint=mo.UnitRows())
    rows = mo.project(random_like(key, (3, 5)), spec).T
    np.testing.assert_allclose(jnp.mean(rows**2, axis=-1), 1.0, rtol=1e-5)


def test_the_first_modulas_regularisation_decays_by_targets_and_keeps_rows_on_their_sphere(key):
    specs = {
        "w": mo.NormSpec(mo.Spectral(), mass=0.5, sensitivity=2.0, constraint=mo.Regularize(0.2)),
        "table": mo.NormSpec(mo.Embedding(), constraint=mo.Regularize(0.2)),
    }
    params = {name: random_like(key, (4, 6)) for name in specs}
    tx = mo.keep_params_projected(specs, learning_rate=0.5)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    after = untyped(optax.apply_updates(params, updates))
    np.testing.assert_allclose(after["w"], (1 - 0.5 * 0.2 * 0.25) * params["w"], rtol=1e-5)
    np.testing.assert_allclose(jnp.mean(after["table"] ** 2, axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("bad", [jnp.nan, 0.0])
def test_power_iteration_goes_on_after_weights_that_say_nothing(bad, key):
    tx, w = mo.keep_params_projected(spectral(mo.SpectralNormalize(1.0))), 3.0 * random_like(key, (6, 4))
    bad = jnp.full_like(w, bad)
    _, state = tx.update(jnp.zeros_like(w), tx.init(w), bad)
    after, expected = (w + untyped(tx).update(jnp.zeros_like(w), s, w)[0] for s in (state, tx.init(w)))
    np.testing.assert_allclose(after, expected, rtol=1e-3)


def test_power_iteration_keeps_up_with_weights_that_move(key):
    spec = spectral(mo.SpectralNormalize(1.0))
    tx = mo.keep_params_projected(spec)
    params, climb = mo.initialize(key, jnp.zeros((16, 8)), spec), random_like(jax.random.key(1), (16, 8))

    def step(carry, k):
        params, state = carry
        updates, state = tx.update(0.01 * (climb + random_like(k, climb.shape)), state, params)
        return (optax.apply_updates(params, updates), state), mo.leaf_norms(params, spec)

    _, norms = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, 300))
    # at first all singular values are alike, and no vector is theirs
    assert norms.max() < 1.1
    assert norms[50:].max() < 1.01


def test_lengths_are_those_of_initialisation_whatever_has_become_of_the_weights(key):
    tx, w = mo.keep_params_projected(spectral(mo.FixedNorm())), random_like(key, (4, 6))
    now = 3.0 * w
    np.testing.assert_allclose(now + untyped(tx).update(jnp.zeros_like(w), tx.init(w), now)[0], w, rtol=1e-5)


def test_lengths_are_those_of_initialisation_after_many_steps(key):
    spec = spectral(mo.FixedNorm())
    start = jnp.stack([random_like(key, (4, 6)), 5 * random_like(key, (4, 6))])
    tx = untyped(optax.chain(mo.dualize(spec), optax.scale(-0.1), mo.keep_params_projected(spec)))

    def step(carry, k):
        params, state = carry
        updates, state = tx.update(random_like(k, params.shape), state, params)
        return (untyped(optax.apply_updates(params, updates)), state), None

    (end, _), _ = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, 300))
    np.testing.assert_allclose(jnp.sum(end**2, (1, 2)), jnp.sum(start**2, (1, 2)), rtol=1e-5)


def test_one_stack_or_many_leaves_make_no_difference(key):
    specs = {"a": spectral(mo.Hammer(1.0)), "b": spectral(mo.Hammer(1.0)), "c": spectral(mo.SpectralCap(1.0))}
    shapes = {"a": (4, 6), "b": (3, 4, 6), "c": (4, 6)}
    params = {name: random_like(jax.random.fold_in(key, i), shape) for i, (name, shape) in enumerate(shapes.items())}
    together = jax.jit(lambda params: mo.project(params, specs))(params)
    for name, w in params.items():
        np.testing.assert_allclose(together[name], project(w, specs[name]), atol=1e-5)


@pytest.mark.parametrize("constraint", ALL, ids=name)
def test_every_constraint_comes_back_from_json(constraint):
    specs = {"w": mo.NormSpec(mo.Spectral(), constraint=constraint)}
    assert mo.specs_from_json(mo.specs_to_json(specs)) == specs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mo.SpectralCap(0.0), r"radius must be a finite number above 0; got 0.0"),
        (lambda: mo.SoftCap(-1.0), r"radius must be a finite number above 0; got -1.0"),
        (lambda: mo.NormBall(float("nan")), r"radius must be a finite number above 0; got nan"),
        (lambda: mo.Hammer("big"), r"radius must be a finite number above 0; got 'big'"),  # pyright: ignore[reportArgumentType]
        (lambda: mo.SpectralDecay(0.0), r"strength must be a finite number above 0; got 0.0"),
        (lambda: mo.SpectralNormalize(1.0, 0), r"iterations must be an integer of at least 1; got 0"),
        (lambda: mo.Stiefel(2.5), r"iterations must be an integer of at least 1; got 2.5"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_arguments_are_checked_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("norm", "axes", "constraint", "message"),
    [
        (mo.RMS(), None, mo.SpectralCap(), r"SpectralCap\(radius=1.0\) .* RMS\(\) .*; write NormBall\(1.0\)"),
        (mo.Frobenius(), None, mo.SoftCap(), r"SoftCap\(radius=1.0\) .* Frobenius\(\) .*; write Spectral\(\)"),
        (mo.Sign(), None, mo.Hammer(), r"Hammer.* is about singular values, which Sign\(\) does not measure"),
        (mo.Diagonal(), None, mo.Orthogonal(), r"Orthogonal\(\) is about matrices, and Diagonal\(\) takes vectors"),
        (mo.Spectral(), None, mo.Hypersphere(), r"is round, .* write Frobenius\(\), .* or UnitSphere\(\)"),
        (mo.RMS(), None, mo.Stiefel(), r"Stiefel.* this is vectors .*; write UnitSphere\(\)"),
        (mo.Spectral(), mo.Axes((), -1), mo.Stiefel(), r"and this is vectors .*; write UnitSphere\(\)"),
        (mo.Unnormed(), None, mo.SpectralCap(), r"Unnormed\(\) cannot be held to SpectralCap.*; write constraint=None"),
    ],
)
def test_constraints_that_do_not_fit_are_refused_with_the_path(norm, axes, constraint, message):
    registry = mo.NormRegistry(mo.Rule(r"net/w", norm, axes=axes, constraint=constraint))
    message = r"1 parameter does not fit its spec:\n  net/w  float32\[4, 6\]: .*" + message
    with pytest.raises(ValueError, match=message):
        registry.resolve({"net": {"w": jnp.zeros((4, 6))}})
