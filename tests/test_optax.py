"""At home in Optax: wrappers, masks, schedules, transformations of the whole step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from tests.cases import random_like

REGISTRY = mo.NormRegistry(
    mo.Rule(r"embed", mo.Embedding()),
    mo.Rule(r".*/kernel", mo.Spectral(), constraint=mo.UnitSphere()),
    mo.Rule(r".*/bias", mo.Unnormed()),
    mo.Rule(r"gain", mo.Diagonal()),
)
FREE = mo.NormRegistry(mo.Rule(r"embed|.*/kernel", mo.Spectral()), default=mo.RMS())


def parameters(seed=0, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "embed": random_like(keys[0], (5, 4), dtype),
        "dense": {"kernel": random_like(keys[1], (4, 3), dtype), "bias": random_like(keys[2], (3,), dtype)},
        "gain": random_like(keys[3], (), dtype),
        "static": None,
    }


PARAMS = parameters()
GRADS = parameters(1)

TRANSFORMATIONS = {
    "dualize": mo.dualize(REGISTRY),
    "keep_params_projected": mo.keep_params_projected(REGISTRY),
    "scale_by_momentum": mo.scale_by_momentum(),
    "modular": mo.modular(0.1, REGISTRY, weight_decay=0.1),
    "scion": mo.scion(0.1, REGISTRY, constrained=True),
    "muon": mo.muon(0.1, weight_decay=0.1),
    "chain": optax.chain(
        optax.ema(0.95), mo.dualize(REGISTRY), optax.scale_by_learning_rate(0.1), mo.keep_params_projected(REGISTRY)
    ),
}
every_transformation = pytest.mark.parametrize("tx", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)


def run(tx, steps=3, params=PARAMS):
    state = tx.init(params)
    for seed in range(steps):
        updates, state = tx.update(parameters(seed + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(a, b, atol=5e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


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
    copies = jax.tree.map(jnp.copy, (PARAMS, tx.init(PARAMS)))
    scanned = jax.jit(lambda carry: jax.lax.scan(step, carry, stacked)[0], donate_argnums=0)(copies)
    assert_close(scanned[0], expected)


@every_transformation
def test_state_is_stable_and_can_be_made_of_shapes(tx):
    state = tx.init(PARAMS)
    _, after = tx.update(GRADS, state, PARAMS)
    kinds = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)  # noqa: E731
    assert kinds(after) == kinds(state)
    assert kinds(jax.eval_shape(tx.init, PARAMS)) == kinds(state)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)
    assert kinds(jax.eval_shape(tx.init, shapes)) == kinds(state)


@every_transformation
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_parameters_get_updates_of_their_dtype(tx, dtype):
    params = parameters(0, dtype)
    updates, _ = tx.update(parameters(1, dtype), tx.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


@every_transformation
def test_extra_arguments_are_accepted(tx):
    optax.with_extra_args_support(tx).update(GRADS, tx.init(PARAMS), PARAMS, value=1.0)


@every_transformation
def test_vmap_trains_an_ensemble(tx):
    ensemble = jax.tree.map(lambda *leaves: jnp.stack(leaves), parameters(0), parameters(7))
    grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), parameters(1), parameters(8))
    states = jax.vmap(tx.init)(ensemble)
    updates, _ = jax.vmap(tx.update)(grads, states, ensemble)
    for i, (p, g) in enumerate([(parameters(0), parameters(1)), (parameters(7), parameters(8))]):
        alone, _ = tx.update(g, tx.init(p), p)
        assert_close(jax.tree.map(lambda u, i=i: u[i], updates), alone)


@every_transformation
def test_map_params_finds_the_parameters_in_the_state(tx):
    state = tx.init(PARAMS)
    marked = optax.tree.map_params(tx, lambda _: "parameter", state, transform_non_params=lambda _: "other")
    assert set(jax.tree.leaves(marked)) <= {"parameter", "other"}
    found = jax.tree.leaves(marked).count("parameter")
    # a copy of every parameter for each average that is kept of it
    expected = sum(leaf.shape != () or path[-1] == jax.tree_util.DictKey("gain") for path, leaf in
                   jax.tree_util.tree_flatten_with_path(state)[0] if hasattr(leaf, "shape"))  # fmt: skip
    assert found == expected


def test_masked_leaves_pass_through():
    mask = {"embed": True, "dense": False, "gain": True, "static": None}
    tx = optax.masked(mo.dualize(REGISTRY), mask)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    assert_close(updates["dense"], GRADS["dense"], atol=0)
    whole, _ = mo.dualize(REGISTRY).update(GRADS, optax.EmptyState())
    assert_close(updates["embed"], whole["embed"])


def test_partition_hands_each_part_to_its_own_transformation():
    labels = {"embed": "sgd", "dense": "modular", "gain": "sgd", "static": None}
    tx = optax.partition({"modular": mo.modular(0.1, REGISTRY, nesterov=False), "sgd": optax.sgd(1.0)}, labels)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    assert_close(updates["embed"], -GRADS["embed"])
    alone = mo.modular(0.1, REGISTRY, nesterov=False)
    whole, _ = alone.update(GRADS, alone.init(PARAMS), PARAMS)
    assert_close(updates["dense"], whole["dense"])


def test_multi_steps_average_gradients():
    tx = optax.MultiSteps(mo.modular(0.1, FREE), every_k_schedule=2)
    state = tx.init(PARAMS)
    first, state = tx.update(GRADS, state, PARAMS)
    assert not any(leaf.any() for leaf in jax.tree.leaves(first))
    second, _ = tx.update(parameters(2), state, PARAMS)
    average = jax.tree.map(lambda a, b: (a + b) / 2, GRADS, parameters(2))
    alone = mo.modular(0.1, FREE)
    assert_close(second, alone.update(average, alone.init(PARAMS), PARAMS)[0])


def test_inject_hyperparams_changes_the_learning_rate_without_compiling_again():
    tx = optax.inject_hyperparams(mo.modular)(learning_rate=0.1, specs=FREE)
    state = tx.init(PARAMS)
    traces = []

    @jax.jit
    def update(*arguments):
        traces.append(None)
        return tx.update(*arguments)

    updates, state = update(GRADS, state, PARAMS)
    assert mo.modular_norm(updates, FREE) == pytest.approx(0.1, rel=0.02)
    state.hyperparams["learning_rate"] = jnp.asarray(0.5, jnp.float32)
    updates, state = update(GRADS, state, PARAMS)
    assert mo.modular_norm(updates, FREE) == pytest.approx(0.5, rel=0.02)
    assert len(traces) == 1


@pytest.mark.parametrize("factory", [mo.modular, mo.scion])
def test_inject_hyperparams_takes_schedules_and_spec_trees(factory):
    schedule = optax.linear_schedule(1.0, 0.0, 4)
    tx = optax.inject_hyperparams(factory)(learning_rate=schedule, specs=FREE.resolve(PARAMS))
    state = tx.init(PARAMS)
    for expected in (1.0, 0.75, 0.5):
        updates, state = tx.update(GRADS, state, PARAMS)
        assert mo.modular_norm(updates, FREE) == pytest.approx(expected, rel=0.02)


def test_schedules_set_the_size_of_every_step():
    tx = mo.modular(optax.linear_schedule(0.2, 0.0, 4), FREE)
    state = tx.init(PARAMS)
    for expected in (0.2, 0.15, 0.1, 0.05, 0.0):
        updates, state = tx.update(GRADS, state, PARAMS)
        assert mo.modular_norm(updates, FREE) == pytest.approx(expected, rel=0.02, abs=1e-8)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("leaf", ["embed", "kernel", "bias", "gain"])
def test_apply_if_finite_sees_what_is_not(leaf, bad):
    tx = optax.apply_if_finite(mo.modular(0.1, REGISTRY), max_consecutive_errors=3)
    state = tx.init(PARAMS)
    broken = jax.tree_util.tree_map_with_path(
        lambda path, g: jnp.full_like(g, bad) if path[-1] == jax.tree_util.DictKey(leaf) else g, GRADS
    )
    updates, state = tx.update(broken, state, PARAMS)
    assert not any(u.any() for u in jax.tree.leaves(updates))
    assert state.notfinite_count == 1
    updates, state = tx.update(GRADS, state, PARAMS)
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))


def test_parameters_are_needed_only_for_decay_and_constraints():
    tx = mo.modular(0.1, FREE)
    tx.update(GRADS, tx.init(PARAMS))
    scion = mo.scion(0.1, FREE)
    scion.update(GRADS, scion.init(PARAMS))
    decaying = mo.modular(0.1, FREE, weight_decay=0.1)
    with pytest.raises(ValueError, match="params"):
        decaying.update(GRADS, decaying.init(PARAMS))


def test_specs_that_do_not_fit_are_refused_by_init():
    for tx in (mo.dualize(FREE), mo.modular(0.1, FREE), mo.scion(0.1, FREE), mo.keep_params_projected(FREE)):
        with pytest.raises(ValueError, match=r"match(es)? no parameter"):
            tx.init({"other": jnp.ones((2, 2))})
