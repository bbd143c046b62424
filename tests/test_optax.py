"""At home in Optax: wrappers, masks, schedules, transformations of the whole step."""

import jax
import jax.numpy as jnp
import optax
import pytest

import modula_optax as mo
from tests.cases import untyped
from tests.transformations import FREE, GRADS, PARAMS, REGISTRY, assert_close


def test_partition_hands_each_part_to_its_own_transformation():
    labels = {"embed": "sgd", "dense": "modular", "gain": "sgd", "static": None}
    tx = untyped(optax.partition({"modular": mo.modular(0.1, REGISTRY, nesterov=False), "sgd": optax.sgd(1.0)}, labels))
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    assert_close(updates["embed"], -GRADS["embed"])
    alone = untyped(mo.modular(0.1, REGISTRY, nesterov=False))
    whole, _ = alone.update(GRADS, alone.init(PARAMS), PARAMS)
    assert_close(updates["dense"], whole["dense"])


def test_inject_hyperparams_changes_the_learning_rate_without_compiling_again():
    tx = optax.inject_hyperparams(mo.modular)(learning_rate=0.1, specs=FREE, weight_decay=0.0)
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


@pytest.mark.parametrize(("factory", "options"), [(mo.modular, {"weight_decay": 0.0}), (mo.scion, {})])
def test_inject_hyperparams_takes_schedules_and_spec_trees(factory, options):
    schedule = optax.linear_schedule(1.0, 0.0, 4)
    tx = optax.inject_hyperparams(factory)(learning_rate=schedule, specs=FREE.resolve(PARAMS), **options)
    state = tx.init(PARAMS)
    for expected in (1.0, 0.75, 0.5):
        updates, state = tx.update(GRADS, state, PARAMS)
        assert mo.modular_norm(updates, FREE) == pytest.approx(expected, rel=0.02)


def test_schedules_set_the_size_of_every_step():
    tx = mo.modular(optax.linear_schedule(0.2, 0.0, 4), FREE, weight_decay=0.0)
    state = tx.init(PARAMS)
    for expected in (0.2, 0.15, 0.1, 0.05, 0.0):
        updates, state = tx.update(GRADS, state, PARAMS)
        assert mo.modular_norm(updates, FREE) == pytest.approx(expected, rel=0.02, abs=1e-8)


def test_parameters_are_needed_only_for_decay_and_constraints():
    tables = mo.NormRegistry(mo.Rule(r".*", mo.Embedding()))
    for tx, tree in (
        (mo.modular(0.1, FREE, weight_decay=0.0), GRADS),
        (mo.scion(0.1, FREE), GRADS),
        # the default decay is of hidden matrices, of which there are none
        (mo.modular(0.1, tables), {"table": jnp.ones((3, 2))}),
    ):
        tx.update(tree, tx.init(tree))
    decaying = mo.modular(0.1, FREE)
    with pytest.raises(ValueError, match=r"write tx.update\(grads, state, params\), or weight_decay=0.0"):
        decaying.update(GRADS, decaying.init(PARAMS))


def test_specs_that_do_not_fit_are_refused_by_init():
    for tx in (mo.dualize(FREE), mo.modular(0.1, FREE), mo.scion(0.1, FREE), mo.keep_params_projected(FREE)):
        with pytest.raises(ValueError, match=r"match(es)? no parameter"):
            tx.init({"other": jnp.ones((2, 2))})
