"""Projection and initialization: weights on the spheres of their norms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from tests.cases import LEAVES, SPECTRA, random_like, untyped, with_spectrum

pytestmark = pytest.mark.usefixtures("strict_promotion")

SPHERE = mo.NormSpec(mo.Spectral(), constraint=mo.UnitSphere())
SPECS = {
    "w": SPHERE,
    "table": mo.NormSpec(mo.Embedding(), constraint=mo.UnitSphere()),
    "b": mo.NormSpec(mo.RMS()),
    "static": None,
}


def parameters(key, dtype=jnp.float32) -> Any:
    shapes = {"w": (6, 4), "table": (5, 3), "b": (4,)}
    return {name: random_like(key, shape, dtype) for name, shape in shapes.items()} | {"static": None}


@pytest.mark.parametrize("name", ["orthogonal", "linear", "condition 1e2"])
@pytest.mark.parametrize("shape", [(12, 12), (12, 30), (30, 12)])
def test_the_sphere_of_the_spectral_norm_is_the_orthogonal_matrices(shape, name):
    w, u, v = with_spectrum(0, shape, SPECTRA[name])
    projected = mo.project(jnp.asarray(w, jnp.float32), SPHERE)
    np.testing.assert_allclose(projected, np.sqrt(shape[1] / shape[0]) * u @ v.T, atol=2e-4)


def test_only_constrained_parameters_move(key):
    params = parameters(key)
    projected = mo.project(params, SPECS)
    assert projected["b"] is params["b"]
    assert projected["static"] is None
    np.testing.assert_allclose(mo.leaf_norms(projected, SPECS)["w"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(projected["table"] ** 2, axis=1)), 1.0, rtol=1e-5)


def test_the_last_link_and_direct_projection_agree_in_float16_too(key):
    """In the other dtypes for every constraint, in test_constraints.py."""
    params = mo.project(parameters(key, jnp.float16), SPECS)
    updates = jax.tree.map(lambda p: 0.1 * p[::-1], params)
    tx = mo.keep_params_projected(SPECS)
    kept, _ = tx.update(updates, tx.init(params), params)
    after = untyped(optax.apply_updates(params, kept))
    direct = mo.project(optax.apply_updates(params, updates), SPECS)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(jnp.float16)}
    tolerance = 4 * float(jnp.finfo(jnp.float16).eps)
    for name in ("w", "table", "b"):
        a, b = (tree[name].astype(jnp.float32) for tree in (after, direct))
        np.testing.assert_allclose(a, b, atol=tolerance * 2)


def test_weights_stay_on_the_sphere_through_many_steps(key):
    tx = optax.chain(optax.sgd(0.3), mo.keep_params_projected(SPECS))
    params = mo.initialize(key, parameters(key), SPECS)

    def step(carry, k):
        params, state = carry
        updates, state = tx.update(parameters(k), state, params)
        return (optax.apply_updates(params, updates), state), mo.leaf_norms(params, SPECS)["w"]

    _, norms = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, 200))
    np.testing.assert_allclose(norms, 1.0, atol=2e-5)


def test_a_constraint_holds_few_matrices_at_a_time():
    spec = mo.NormSpec(mo.Spectral(), constraint=mo.SoftCap())
    weights = untyped([jax.ShapeDtypeStruct((256, 1024), jnp.float32)] * 24)
    tx = mo.keep_params_projected(spec, learning_rate=0.1)
    memory = untyped(jax.jit(tx.update).lower(weights, tx.init(weights), weights).compile().memory_analysis())
    assert memory.temp_size_in_bytes < memory.output_size_in_bytes / 2


def test_parameters_are_asked_for_only_where_a_constraint_needs_them(key):
    params = parameters(key)
    tx = mo.keep_params_projected(SPECS)
    with pytest.raises(ValueError, match=r"needs the parameters, to hold table to its constraint: call tx.update"):
        tx.update(params, tx.init(params))
    free = mo.keep_params_projected(mo.NormSpec(mo.RMS()))
    assert free.update(params, free.init(params))[0] is params


def test_initialization_gives_every_leaf_norm_one_and_depends_on_its_path_alone(key):
    params = parameters(key)
    start = mo.initialize(key, params, SPECS)
    np.testing.assert_allclose(jax.tree.leaves(mo.leaf_norms(start, SPECS)), 1.0, rtol=1e-5)
    alone = mo.initialize(key, {"w": params["w"]}, SPHERE)
    np.testing.assert_array_equal(start["w"], alone["w"])
    twins = mo.initialize(key, {"a": params["w"], "b": params["w"]}, SPHERE)
    assert not np.allclose(twins["a"], twins["b"])
    assert not jnp.array_equal(start["w"], mo.initialize(jax.random.key(1), params, SPECS)["w"])


@pytest.mark.parametrize(("spec", "shape"), LEAVES)
def test_initialization_has_norm_one_in_every_atom(spec, shape, key):
    w, norms = jax.jit(lambda key: (w := mo.initialize(key, jnp.zeros(shape), spec), mo.leaf_norms(w, spec)))(key)
    assert w.shape == shape
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)


def test_layers_of_a_stack_start_differently(key):
    start = mo.initialize(key, jnp.zeros((3, 4, 4)), SPHERE)
    np.testing.assert_allclose(mo.leaf_norms(start, SPHERE), 1.0, rtol=1e-5)
    assert not np.allclose(start[0], start[1])


def test_gains_start_as_the_identity(key):
    assert jnp.array_equal(mo.initialize(key, jnp.zeros(3), mo.NormSpec(mo.Diagonal())), jnp.ones(3))


def test_initialization_works_from_shapes_and_under_jit(key):
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), parameters(key))
    start = mo.initialize(key, shapes, SPECS)
    jitted = jax.jit(lambda k: mo.initialize(k, shapes, SPECS))(key)
    np.testing.assert_allclose(start["w"], jitted["w"], atol=1e-5)


def test_initialization_keeps_shardings(key):
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", None))
    w = jax.device_put(jnp.zeros((4, 6)), sharding)
    assert mo.initialize(key, w, SPHERE).sharding == sharding


def test_unnormed_parameters_stay_and_need_values(key):
    spec = mo.NormSpec(mo.Unnormed())
    steps = jnp.arange(3)
    assert mo.initialize(key, {"steps": steps}, spec)["steps"] is steps
    with pytest.raises(ValueError, match=r"1 parameter without values is Unnormed:\n  steps  int32\[3\]\nPass real"):
        mo.initialize(key, {"steps": jax.ShapeDtypeStruct((3,), jnp.int32)}, spec)


@pytest.mark.parametrize("key", [0, None, jnp.ones(3), jax.random.split(jax.random.key(0), 3)])
def test_what_is_no_random_key_is_told(key):
    with pytest.raises(ValueError, match=r"key must be one random key, such as jax.random.key\(0\); got "):
        mo.initialize(key, {"w": jnp.ones(3)}, mo.NormSpec(mo.RMS()))
