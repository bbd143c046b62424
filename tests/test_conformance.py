"""What Optax asks of its own optimizers holds for every transformation of this package."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from tests.cases import enable_x64, kinds, lowered_for_accelerators, untyped
from tests.transformations import (
    FACTORIES,
    GRADS,
    HELD,
    NORMED,
    PARAMS,
    SHAPE,
    TRANSFORMATIONS,
    assert_close,
    parameters,
)

every_transformation = pytest.mark.parametrize("tx", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)


def run(tx, steps=3, params=PARAMS):
    state = tx.init(params)
    for seed in range(steps):
        updates, state = tx.update(parameters(seed + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params


@every_transformation
def test_jit_scan_and_donation_take_the_same_steps_and_compile_once(tx):
    traces = []

    @jax.jit
    def step(carry, grads):
        traces.append(None)
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    expected = run(tx)
    carry = (PARAMS, tx.init(PARAMS))
    for seed in range(3):
        carry, _ = step(carry, parameters(seed + 1))
    assert len(traces) == 1
    assert_close(carry[0], expected)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(parameters(seed + 1) for seed in range(3)))
    # the state as `init` makes it: no two of its arrays, and none of the parameters, may be one buffer
    copies = jax.tree.map(jnp.copy, PARAMS)
    scanned = jax.jit(lambda carry: jax.lax.scan(step, carry, stacked)[0], donate_argnums=0)((copies, tx.init(copies)))
    assert_close(scanned[0], expected)


@every_transformation
def test_state_is_stable_and_can_be_made_of_shapes(tx):
    state = tx.init(PARAMS)
    _, after = tx.update(GRADS, state, PARAMS)
    assert kinds(after) == kinds(state)
    assert kinds(jax.eval_shape(tx.init, PARAMS)) == kinds(state)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)
    assert kinds(jax.eval_shape(tx.init, shapes)) == kinds(state)


@every_transformation
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float64])
def test_updates_and_state_have_the_dtype_of_the_parameters(tx, dtype):
    with enable_x64(True):
        params, grads = parameters(0, dtype), parameters(1, dtype)
        updates, state = jax.eval_shape(lambda g, p: tx.update(g, tx.init(p), p), grads, params)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
        # what is learned over many steps is not rounded to half precision
        statistics = jnp.promote_types(dtype, jnp.float32)
        assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.dtype != jnp.int32} <= {
            jnp.dtype(dtype),
            jnp.dtype(statistics),
        }


@pytest.mark.parametrize("name", sorted(FACTORIES.keys() - {"muon"}))
def test_a_state_keeps_its_dtypes_under_wider_gradients(name):
    # but for what Adam keeps of vectors under Muon, which is as wide as their gradients in Optax, too
    factory, arguments = FACTORIES[name]
    specs = NORMED | HELD
    tx = factory(**arguments | ({"specs": specs} if "specs" in arguments else {}))
    with enable_x64(True):
        params, grads = ({name: jnp.ones(SHAPE, dtype) for name in specs} for dtype in (jnp.float32, jnp.float64))
        state = jax.eval_shape(tx.init, params)
        _, after = jax.eval_shape(tx.update, grads, state, params)
        assert kinds(after) == kinds(state)


@every_transformation
def test_parameters_may_be_arrays_of_numpy_that_are_wider_than_those_of_jax(tx):
    params, grads = (jax.tree.map(lambda x: np.asarray(x, np.float64), tree) for tree in (PARAMS, GRADS))
    jax.eval_shape(tx.update, grads, tx.init(params), params)


@every_transformation
def test_extra_arguments_that_it_does_not_know_change_nothing(tx):
    state = tx.init(PARAMS)
    expected, _ = tx.update(GRADS, state, PARAMS)
    updates, _ = tx.update(GRADS, state, PARAMS, value=1.0, grad=PARAMS)
    assert_close(updates, expected, atol=0)


@every_transformation
def test_vmap_trains_an_ensemble(tx):
    ensemble = jax.tree.map(lambda *leaves: jnp.stack(leaves), parameters(0), parameters(7))
    grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), parameters(1), parameters(8))
    step = lambda g, p: tx.update(g, tx.init(p), p)[0]  # noqa: E731
    updates, alone = jax.jit(jax.vmap(step))(grads, ensemble), jax.jit(step)
    for i, (p, g) in enumerate([(parameters(0), parameters(1)), (parameters(7), parameters(8))]):
        assert_close(jax.tree.map(lambda u, i=i: u[i], updates), alone(g, p))


@every_transformation
def test_map_params_finds_the_parameters_in_the_state(tx):
    state = tx.init(PARAMS)
    marked = optax.tree.map_params(tx, lambda _: "parameter", state, transform_non_params=lambda _: "other")
    assert set(jax.tree.leaves(marked)) <= {"parameter", "other"}
    found = jax.tree.leaves(marked).count("parameter")
    # a copy of every parameter for each average that is kept of it
    expected = sum(
        leaf.shape != () or path[-1] == jax.tree_util.DictKey("gain")
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
        if hasattr(leaf, "shape") and not LEARNED.intersection(path)
    )
    assert found == expected


# what is learned of parameters, and is shaped like none of them
LEARNED = {jax.tree_util.GetAttrKey(name) for name in ("metrics", "moments", "lengths")}


@every_transformation
def test_multi_steps_average_gradients(tx):
    accumulating = optax.MultiSteps(tx, every_k_schedule=2)

    @jax.jit
    def both(params, grads, more):
        first, state = accumulating.update(grads, accumulating.init(params), params)
        second, _ = accumulating.update(more, state, params)
        average = jax.tree.map(lambda a, b: (a + b) / 2, grads, more)
        return first, second, tx.update(average, tx.init(params), params)[0]

    first, second, expected = both(PARAMS, GRADS, parameters(2))
    assert not any(leaf.any() for leaf in jax.tree.leaves(first))
    assert_close(second, expected)


# what decides shapes is no hyperparameter that a compiled step could take
STATIC = {"whitened": ("max_size",), "scale_by_whitened_momentum": ("max_size",)}


@pytest.mark.parametrize("name", FACTORIES)
def test_inject_hyperparams_changes_nothing(name):
    factory, arguments = FACTORIES[name]
    plain = factory(**arguments)
    injected = untyped(optax.inject_hyperparams(factory, STATIC.get(name, ())))(**arguments)

    @jax.jit
    def both(params, grads):
        plainly = plain.update(grads, plain.init(params), params)
        updates, state = injected.update(grads, injected.init(params), params)
        return plainly, (updates, state.inner_state)

    assert_close(*both(PARAMS, GRADS))


@every_transformation
def test_masked_leaves_pass_through_and_others_do_not_notice(tx):
    masked = optax.masked(tx, {"embed": True, "dense": False, "gain": True, "static": None})

    @jax.jit
    def both(params, grads):
        return masked.update(grads, masked.init(params), params)[0], tx.update(grads, tx.init(params), params)[0]

    some, whole = both(PARAMS, GRADS)
    assert_close(some["dense"], GRADS["dense"], atol=0)
    assert_close((some["embed"], some["gain"]), (whole["embed"], whole["gain"]))


@every_transformation
def test_a_part_that_nothing_is_in_has_its_state_and_passes_on(tx):
    """The group of `optax.partition` that no label names, or a mask that is False."""
    masked = optax.masked(tx, False)
    state = masked.init(PARAMS)
    updates, after = masked.update(GRADS, state, PARAMS)
    assert_close(updates, GRADS, atol=0)
    assert kinds(after) == kinds(state)


@every_transformation
def test_apply_if_finite_sees_what_is_not(tx):
    guarded = optax.apply_if_finite(tx, max_consecutive_errors=10)
    update = jax.jit(guarded.update)
    state = guarded.init(PARAMS)
    for bad in (jnp.nan, jnp.inf):
        for leaf in ("embed", "kernel", "bias", "gain"):
            updates, state = update(_broken(leaf, bad), state, PARAMS)
            assert not any(u.any() for u in jax.tree.leaves(updates))
            assert state.notfinite_count == 1
            updates, state = update(GRADS, state, PARAMS)
            assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))
            assert state.notfinite_count == 0


def _broken(leaf, bad):
    return jax.tree_util.tree_map_with_path(
        lambda path, g: jnp.full_like(g, bad) if path[-1] == jax.tree_util.DictKey(leaf) else g, GRADS
    )


def parabola(w):
    return jnp.sum((w - jnp.array([[1.0, -1.0], [1.0, 2.0]])) ** 2)


def rosenbrock(w):
    return jnp.sum((1.0 - w[:, 0]) ** 2 + 100.0 * (w[:, 1] - w[:, 0] ** 2) ** 2)


SCHEDULE = optax.linear_schedule(0.1, 0.0, 3000)
BALL = mo.NormSpec(mo.Spectral(), mass=5.0)
LEARNERS = {
    "dualize": optax.chain(mo.dualize(mo.NormSpec(mo.Spectral())), optax.scale_by_learning_rate(SCHEDULE)),
    "modular": mo.modular(SCHEDULE, mo.NormSpec(mo.Spectral())),
    "whitened": mo.whitened(SCHEDULE, mo.NormSpec(mo.Spectral())),
    "scion": mo.scion(SCHEDULE, mo.NormSpec(mo.Spectral())),
    "scion, constrained": mo.scion(lambda count: SCHEDULE(count) / 5.0, BALL, constrained=True),
    "muon": mo.muon(SCHEDULE),
}


@pytest.mark.parametrize(("target", "end"), [(parabola, [[1.0, -1.0], [1.0, 2.0]]), (rosenbrock, [[1.0, 1.0]] * 2)])
@pytest.mark.parametrize("name", LEARNERS)
def test_toy_targets_are_reached(name, target, end):
    tx = LEARNERS[name]

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(target)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    start = jnp.array([[-1.0, 10.0], [0.0, 1.0]]) if target is parabola else jnp.array([[0.0, 0.0], [0.0, 0.5]])
    w = jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), length=3000)[0][0])(start)
    np.testing.assert_allclose(w, jnp.array(end), rtol=3e-2, atol=3e-2)


@every_transformation
def test_a_step_lowers_for_accelerators(tx):
    assert lowered_for_accelerators(tx.update, GRADS, tx.init(PARAMS), PARAMS).platforms == ("cuda", "rocm", "tpu")
