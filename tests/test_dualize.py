"""Duality of whole trees: the modular norm, its dual, and the step that connects them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from tests.cases import random_like, untyped

pytestmark = pytest.mark.usefixtures("strict_promotion")

EXACT = mo.Spectral(mo.polar_express(14, 1e-7))
SPECS = {
    "embed": mo.NormSpec(mo.Embedding(), mass=2.0),
    "blocks": [
        {"w": mo.NormSpec(EXACT, mass=0.5, sensitivity=0.1), "b": mo.NormSpec(mo.RMS(), mass=0.2)},
        {"w": mo.NormSpec(EXACT), "b": mo.NormSpec(mo.RMS())},
    ],
    "conv": mo.NormSpec(EXACT, mo.Axes(fan_in=-2, fan_out=-1, taps=(0, 1)), mass=3.0),
    "head": mo.NormSpec(mo.Sign(), mass=0.1),
    "static": None,
}
SHAPES = {
    "embed": (7, 4),
    "blocks": [{"w": (4, 6), "b": (6,)}, {"w": (6, 4), "b": (4,)}],
    "conv": (2, 2, 3, 4),
    "head": (4, 7),
    "static": None,
}


def gradients(key):
    leaves, treedef = jax.tree.flatten(SHAPES, is_leaf=lambda s: isinstance(s, tuple))
    return treedef.unflatten(
        [random_like(k, s) for k, s in zip(jax.random.split(key, len(leaves)), leaves, strict=True)]
    )


def step(grads, specs) -> Any:
    tx = mo.dualize(specs)
    return tx.update(grads, tx.init(grads))[0]


def inner(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_step_has_modular_norm_one_in_every_leaf_and_pairs_to_the_dual_norm(key):
    grads = gradients(key)
    dual = step(grads, SPECS)
    assert mo.modular_norm(dual, SPECS) == pytest.approx(1.0, abs=1e-5)
    for path, spec in (("embed", SPECS["embed"]), ("conv", SPECS["conv"]), ("head", SPECS["head"])):
        np.testing.assert_allclose(mo.leaf_norms(dual, SPECS)[path], spec.target, rtol=1e-5)
    assert inner(grads, dual) == pytest.approx(float(mo.dual_norm(grads, SPECS)), rel=1e-4)


def test_no_feasible_step_of_the_network_does_better(key):
    grads = gradients(key)
    best = float(inner(grads, step(grads, SPECS)))
    for seed in range(5):
        rival = gradients(jax.random.key(seed + 100))
        assert float(inner(grads, rival) / mo.modular_norm(rival, SPECS)) < best


def test_the_modular_norm_is_the_largest_leaf_in_units_of_its_target(key):
    weights = gradients(key)
    norms = mo.leaf_norms(weights, SPECS)
    flat = zip(jax.tree.leaves(norms), jax.tree.leaves(SPECS), strict=True)
    expected = max(float(norm) / spec.target for norm, spec in flat)
    assert mo.modular_norm(weights, SPECS) == pytest.approx(expected, rel=1e-6)


def test_layers_of_a_stack_count_in_norms_as_they_do_apart(key):
    spec, stack = mo.NormSpec(mo.Frobenius(), mass=2.0), random_like(key, (3, 4, 6))
    apart = dict(enumerate(stack))
    np.testing.assert_allclose(mo.dual_norm(stack, spec), mo.dual_norm(apart, spec), rtol=1e-6)
    np.testing.assert_allclose(mo.modular_norm(stack, spec), mo.modular_norm(apart, spec), rtol=1e-6)


def test_masking_a_leaf_changes_no_other_leaf(key):
    grads = gradients(key)
    whole, part = step(grads, SPECS), step({**grads, "conv": optax.MaskedNode()}, SPECS)
    assert part["conv"] == optax.MaskedNode()
    np.testing.assert_allclose(part["blocks"][0]["w"], whole["blocks"][0]["w"], atol=1e-6)


def test_leaves_of_one_norm_go_through_its_dual_map_together_and_come_back_in_order(key):
    grads = {f"layer{i}": random_like(jax.random.fold_in(key, i), (3, 5)) for i in range(4)}
    grads |= {
        "stack": random_like(key, (2, 3, 5)),
        "turned": random_like(key, (5, 3)),
        "wide": random_like(key, (4, 5)),
    }
    turned = mo.NormSpec(mo.Spectral(), mo.Axes(fan_in=-1, fan_out=-2), mass=2.0)
    specs = {name: turned if name == "turned" else mo.NormSpec(mo.Spectral()) for name in grads}
    together = step(grads, specs)
    for name, g in grads.items():
        np.testing.assert_allclose(together[name], step(g, specs[name]), atol=1e-5)


def test_the_program_has_the_products_of_each_shape_once_however_many_layers(key):
    def products(layers):
        grads = {f"layer{i}": {"up": jnp.ones((8, 16)), "down": jnp.ones((16, 8))} for i in range(layers)}
        tx = mo.dualize(mo.NormSpec(mo.Spectral()))
        return str(jax.make_jaxpr(tx.update)(grads, tx.init(grads))).count("dot_general")

    assert products(1) == products(20) > 0


def test_unnormed_updates_pass_through_untouched():
    grads = {"count": jnp.arange(3), "w": jnp.eye(2)}
    specs = {"count": mo.NormSpec(mo.Unnormed()), "w": mo.NormSpec(mo.Spectral())}
    dual = step(grads, specs)
    assert dual["count"] is grads["count"]
    assert mo.leaf_norms(grads, specs)["count"] is None
    assert mo.modular_norm({"count": jnp.arange(3)}, specs["count"]) == 0
    assert mo.dual_norm({"count": jnp.arange(3)}, specs["count"]) == 0


EVERYWHERE = {
    "dualize": step,
    "modular_norm": mo.modular_norm,
    "dual_norm": mo.dual_norm,
    "leaf_norms": mo.leaf_norms,
    "project": mo.project,
    "initialize": lambda tree, specs: mo.initialize(jax.random.key(0), tree, specs),
    "summarize": lambda tree, specs: np.array(str(mo.summarize(specs, tree))),
}


@pytest.mark.parametrize("use", EVERYWHERE)
def test_a_registry_and_a_function_stand_for_the_tree_that_they_make(use, key):
    grads = gradients(key)
    sphere = mo.Rule(".*", mo.RMS(), constraint=mo.UnitSphere())
    registry = mo.NormRegistry(sphere)
    tree = registry.resolve(grads)
    expected = EVERYWHERE[use](grads, tree)
    for specs in (registry, lambda params: tree):
        jax.tree.map(np.testing.assert_array_equal, EVERYWHERE[use](grads, specs), expected)


def test_a_prefix_stands_for_all_below_it(key):
    grads = gradients(key)["blocks"]
    matrices, vectors = mo.NormSpec(mo.Frobenius()), mo.NormSpec(mo.RMS())
    full = [{"w": matrices, "b": vectors}] * 2
    prefix = [{"w": matrices, "b": vectors}, full[1]]
    np.testing.assert_allclose(step(grads, prefix)[1]["w"], step(grads, full)[1]["w"])
    everything = step(grads, vectors)
    np.testing.assert_allclose(mo.leaf_norms(everything, vectors)[0]["w"], 1.0, rtol=1e-6)


def test_one_transformation_asks_again_where_shapes_or_dtypes_are_others(key):
    def by_shape(tree):
        return jax.tree.map(lambda g: mo.NormSpec(mo.RMS() if min(g.shape) == 1 else mo.Spectral()), tree)

    tx = untyped(mo.dualize(by_shape))
    matrix, row = random_like(key, (4, 6)), random_like(key, (1, 6))
    for g, norm in ((matrix, mo.Spectral()), (row, mo.RMS())):
        np.testing.assert_allclose(tx.update({"w": g}, tx.init({"w": g}))[0]["w"], step(g, mo.NormSpec(norm)))
    with pytest.raises(ValueError, match=r"w  int32\[4, 6\]: Spectral needs real floating-point numbers"):
        tx.update({"w": matrix.astype(jnp.int32)}, optax.EmptyState())


def test_members_of_an_ensemble_may_have_gradients_or_weights_in_common(key):
    spec = mo.NormSpec(mo.Spectral(), constraint=mo.Stiefel())
    tx, own, common = untyped(mo.dualize(spec)), random_like(key, (3, 4, 4)), random_like(jax.random.key(1), (4, 4))
    for axes, arguments in (((0, None), (own, common)), ((None, 0), (common, own))):
        together = jax.vmap(lambda g, w: tx.update(g, optax.EmptyState(), w)[0], in_axes=axes)(*arguments)
        for i in range(3):
            g, w = (x if axis is None else x[i] for x, axis in zip(arguments, axes, strict=True))
            np.testing.assert_allclose(together[i], tx.update(g, optax.EmptyState(), w)[0], atol=1e-5)


def test_a_callable_spec_tree_is_still_a_tree(key):
    """A spec tree shaped like an Equinox module can be called, and must not be."""
    import equinox as eqx

    class Layer(eqx.Module):
        weight: object

        def __call__(self, x):
            raise AssertionError("specs were called")

    grads = Layer(random_like(key, (3, 4)))
    dual = step(grads, Layer(mo.NormSpec(mo.Spectral())))
    assert dual.weight.shape == (3, 4)


def test_mixed_precision_keeps_every_dtype(key):
    dtypes = [jnp.float32, jnp.bfloat16, jnp.float16]
    grads = {d.__name__: random_like(key, (4, 6), d) for d in dtypes}
    dual = step(grads, mo.NormSpec(mo.Spectral()))
    assert {name: str(g.dtype) for name, g in dual.items()} == {name: name for name in grads}
    assert mo.modular_norm(dual, mo.NormSpec(mo.Spectral())).dtype == jnp.float32


def test_numpy_arrays_are_gradients_too():
    g = np.array([[3.0, 0.0], [0.0, 0.5]], np.float32)
    np.testing.assert_allclose(step(g, mo.NormSpec(EXACT)), np.eye(2), atol=1e-5)
