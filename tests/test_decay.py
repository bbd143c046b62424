"""Weight decay, which is of some parameters, and learning rates that are too small to be meant."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from tests.cases import random_like, untyped

PARAMS = {
    "table": jnp.full((5, 4), 0.3),
    "block": {"kernel": jnp.full((4, 4), 0.2), "bias": jnp.full(4, 0.1), "gain": jnp.full(4, 0.5)},
    "head": jnp.full((4, 5), 0.1),
}
RATE = 0.1


def predict(p, tokens):
    x = p["table"][tokens]
    return jnp.tanh((x * p["block"]["gain"]) @ p["block"]["kernel"] + p["block"]["bias"]) @ p["head"]


SPECS = mo.infer_specs(predict, PARAMS, jax.ShapeDtypeStruct((2, 3), jnp.int32))
BY_RULES = mo.NormRegistry(
    mo.Rule(r"table", mo.Embedding()),
    mo.Rule(r"head", mo.RowL2()),
    mo.Rule(r".*/kernel", mo.Frobenius()),
    mo.Rule(r".*/bias", mo.RMS()),
    mo.Rule(r".*/gain", mo.Diagonal()),
)
HIDDEN = {"block/kernel"}
ALL = {"table", "block/kernel", "block/bias", "block/gain", "head"}


def decays(specs=SPECS, params=PARAMS, weight_decay: Any = 0.5, **options):
    """Paths of what shrinks by the decay where gradients are zero; by nothing else, as is checked."""
    tx = mo.modular(RATE, specs, weight_decay=weight_decay, **options)
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    found = set()
    for (path, update), weight in zip(
        jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(params), strict=True
    ):
        if update.any():
            np.testing.assert_allclose(update, -RATE * 0.5 * weight, rtol=1e-6)
            found.add("/".join(str(entry.key) for entry in path))
    return found


def test_decay_is_of_hidden_matrices_by_role_or_by_norm():
    assert decays() == HIDDEN
    assert decays(BY_RULES) == HIDDEN
    # what a rule says of the place counts, and a head that is told to be one does not decay
    elsewhere = mo.NormRegistry(mo.Rule(r".*/kernel", mo.Spectral(), place="head"), mo.Rule(r"head", mo.Spectral()),
                                default=mo.RMS())  # fmt: skip
    assert decays(elsewhere) == {"head"}


MASKS = {
    "a tree": ({"table": False, "block": {"kernel": True, "bias": True, "gain": False}, "head": False},
               {"block/kernel", "block/bias"}),
    "a prefix": ({"table": jnp.asarray(True), "block": False, "head": np.bool_(True)}, {"table", "head"}),
    "all": (True, ALL),
    "a function": (lambda p: jax.tree.map(lambda x: x.ndim > 1, p), {"table", "block/kernel", "head"}),
    "a function that gives a prefix": (lambda p: {"table": False, "block": True, "head": False},
                                       {"block/kernel", "block/bias", "block/gain"}),
}  # fmt: skip


@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_those_of_optax(mask):
    mask, expected = MASKS[mask]
    assert decays(weight_decay_mask=mask) == decays(weight_decay=lambda step: 0.5, weight_decay_mask=mask) == expected


def test_every_kind_of_layer_decays_and_nothing_that_a_rule_says_is_none():
    params = {name: jnp.full((4, 4), 0.2) for name in ("linear", "conv", "depthwise", "embedding", "one", "vectors")}
    norms = {"one": mo.NormSpec(mo.Spectral()), "vectors": mo.NormSpec(mo.Frobenius(), mo.Axes((), 1))}
    specs = {name: norms.get(name) or mo.NormSpec(mo.Spectral(), role=name) for name in params}
    assert decays(specs, params) == {"linear", "conv", "depthwise", "one"}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_the_default_decay_is_known_as_it_is_rounded_to_the_parameters(dtype):
    vectors = {"bias": jnp.ones(3, dtype)}
    tx = untyped(optax.inject_hyperparams(mo.modular)(learning_rate=0.1, specs=mo.NormSpec(mo.RMS())))
    updates, _ = tx.update(vectors, tx.init(vectors), vectors)
    assert updates["bias"].dtype == dtype


def test_a_matrix_of_mass_zero_stays_where_it_is_unless_a_mask_says_that_it_decays():
    specs = SPECS | {"more": mo.NormSpec(mo.Spectral(), mass=0.0)}
    params = PARAMS | {"more": jnp.full((4, 4), 0.2)}
    assert decays(specs, params) == HIDDEN
    assert decays(specs, params, weight_decay_mask=True) == ALL | {"more"}


def test_a_mask_of_nothing_is_no_mistake_where_nothing_decays():
    assert decays(weight_decay=0.0, weight_decay_mask=False) == set()


def test_what_has_no_norm_is_left_to_the_fallback():
    rules = mo.NormRegistry(mo.Rule(r".*/kernel", mo.Spectral()), default=mo.Unnormed())
    assert decays(rules, weight_decay_mask=True) == HIDDEN


def test_a_part_of_the_tree_decays_as_in_the_whole():
    labels = {"table": "frozen", "block": "trained", "head": "frozen"}
    masks = (None, {"table": True, "block": True, "head": True})
    for mask, expected in zip(masks, (HIDDEN, {"block/kernel", "block/bias", "block/gain"}), strict=True):
        inner = mo.modular(RATE, SPECS, weight_decay=0.5, weight_decay_mask=mask)
        tx = optax.partition({"trained": inner, "frozen": optax.set_to_zero()}, labels)
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)
        moved = jax.tree_util.tree_leaves_with_path(updates)
        assert {"/".join(str(e.key) for e in path) for path, u in moved if u.any()} == expected


def test_the_default_decay_asks_for_nothing_where_there_is_no_hidden_matrix():
    default, free = mo.modular(RATE, mo.NormSpec(mo.RMS())), mo.modular(RATE, mo.NormSpec(mo.RMS()), weight_decay=0.0)
    updates, expected = (tx.update(PARAMS, tx.init(PARAMS))[0] for tx in (default, free))
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


REFUSED = {
    "another structure": (
        {"weight_decay_mask": {"table": True, "blocks": True}},
        r"4 parameters are not in weight_decay_mask:\n  block/bias"
        r"(.|\n)*1 entry of weight_decay_mask is no parameter:\n  blocks\n(.|\n)*weight_decay_mask=lambda params",
    ),
    "no booleans": ({"weight_decay_mask": {"table": 1.0, "block": True, "head": True}}, r"table: 1.0\nWrite True for"),
    "nothing": ({"weight_decay_mask": False}, r"5 parameters, and weight_decay_mask decays none(.|\n)*  head  RowL2"),
    "only what has no norm": (
        {
            "specs": mo.NormRegistry(mo.Rule(r".*/kernel", mo.Spectral()), default=mo.Unnormed()),
            "weight_decay_mask": lambda p: jax.tree.map(lambda x: x.ndim == 1, p),
        },
        r"weight_decay_mask decays none of them(.|\n)*Unnormed\(\) parameters are the fallback's",
    ),
    "no fan-in": (
        {"specs": mo.NormSpec(mo.RMS()), "weight_decay": 0.1},
        r"5 parameters, and none is a hidden matrix that could decay:(.|\n)*block/kernel  RMS\(\)"
        r"(.|\n)*weight_decay_mask=True to decay everything, or\nweight_decay=0.0",
    ),
}


def test_the_mask_that_is_advised_works_as_it_is_pasted():
    with pytest.raises(ValueError, match="weight_decay_mask=") as error:
        mo.modular(RATE, SPECS, weight_decay_mask={"other": True}).init(PARAMS)
    advised = str(error.value).split("weight_decay_mask=")[1].removesuffix(".")
    mo.modular(RATE, SPECS, weight_decay_mask=eval(advised)).init(PARAMS)


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_decay_that_is_of_nothing_or_of_other_parameters_is_refused_by_init(mistake):
    arguments, message = REFUSED[mistake]
    with pytest.raises(ValueError, match=message):
        mo.modular(RATE, **{"specs": SPECS} | arguments).init(PARAMS)


@pytest.mark.parametrize("mistake", ["another structure", "no booleans"])
def test_masks_of_muon_are_refused_with_their_paths_too(mistake):
    arguments, message = REFUSED[mistake]
    with pytest.raises(ValueError, match=message):
        mo.muon(RATE, weight_decay=0.1, **arguments).init(PARAMS)


def test_constraints_know_which_of_their_parameters_decay(key):
    """A soft cap is as weak as the step that it has to hold allows, so that it has to know whether that decays."""
    w = 2.0 * mo.initialize(key, jnp.zeros((6, 6)), mo.NormSpec(mo.Spectral()))
    params, grads = {"decays": w, "stays": w}, {"decays": random_like(key, (6, 6)), "stays": random_like(key, (6, 6))}
    specs = mo.NormSpec(mo.Spectral(), constraint=mo.SoftCap(2.0))

    def moved(mask, weight_decay=0.4):
        tx = mo.modular(RATE, specs, weight_decay=weight_decay, weight_decay_mask=mask)
        return untyped(optax.apply_updates(params, tx.update(grads, tx.init(params), params)[0]))

    some = moved({"decays": True, "stays": False})
    by_hand = optax.chain(
        *(mo.scale_by_momentum(0.9), mo.dualize(specs), optax.add_decayed_weights(0.4), optax.scale(-RATE)),
        mo.keep_params_projected(specs, learning_rate=RATE, weight_decay=0.4),
    )
    expected = untyped(optax.apply_updates(params, by_hand.update(grads, by_hand.init(params), params)[0]))
    np.testing.assert_allclose(some["decays"], expected["decays"], atol=1e-6)
    np.testing.assert_allclose(some["stays"], moved(None, weight_decay=0.0)["stays"], atol=1e-6)
    assert abs(some["decays"] - some["stays"]).max() > 1e-3


# Learning rates

TOO_SMALL = {
    "a number": 1e-3,
    "a schedule": optax.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100),
    "a schedule in Python": lambda step: 1e-3 if step < 10 else 1e-4,
}
FINE = {
    "a number, uphill": -0.05,
    "a number": 2e-3,
    "a schedule that is small at first": optax.warmup_cosine_decay_schedule(0.0, 0.05, 100, 1000),
    "a schedule in Python": lambda step: 0.05 if step == 999 else 0.0,
    "an array": jnp.asarray(1e-3),
}


@pytest.mark.parametrize("rate", TOO_SMALL)
def test_a_rate_as_adam_has_it_is_warned_of_once_with_what_it_means(rate):
    tx = mo.modular(TOO_SMALL[rate], SPECS)
    with pytest.warns(UserWarning, match=r"modular: the learning rate is .*0.001.* Start with 0.05") as said:
        state = tx.init(PARAMS)
    # at the line of the user, not one of the package
    assert [warning.filename for warning in said] == [__file__]
    tx.update(PARAMS, state, PARAMS)


@pytest.mark.parametrize("rate", FINE)
def test_nothing_is_said_of_other_rates(rate):
    mo.modular(FINE[rate], SPECS).init(PARAMS)


def test_nothing_is_said_of_rates_that_are_traced_or_injected_or_meant():
    optax.inject_hyperparams(mo.modular)(learning_rate=1e-3, specs=SPECS).init(PARAMS)
    jax.jit(lambda rate: mo.modular(rate, SPECS).init(PARAMS))(1e-3)
    jax.jit(lambda rate: mo.modular(optax.constant_schedule(rate), SPECS).init(PARAMS))(1e-3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "modular: the learning rate")
        mo.modular(1e-3, SPECS).init(PARAMS)


def test_a_schedule_is_looked_at_while_init_is_compiled():
    with pytest.warns(UserWarning, match="at most 0.001 in its first 1000 steps"):
        jax.jit(mo.modular(TOO_SMALL["a schedule"], SPECS).init)(PARAMS)
