"""The state of an optimizer as data: written in every format, restored, and refused where it is another's."""

import io
import pickle
from typing import Any

import equinox as eqx
import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import modula_optax as mo
from tests.cases import untyped
from tests.transformations import TRANSFORMATIONS, parameters

PARAMS = {
    "dense": {"kernel": jnp.arange(12.0).reshape(4, 3) / 9, "bias": jnp.ones(3)},
    "head": {"kernel": jnp.ones((3, 2))},
    "gain": jnp.ones(()),
}
SPECS = mo.NormRegistry(
    mo.Rule("dense/kernel", mo.Spectral(), constraint=mo.Hammer(2.0)),
    mo.Rule("head/kernel", mo.Spectral(), constraint=mo.FixedNorm()),
    default=mo.Unnormed(),
)
WATCHED = mo.monitor(SPECS, mo.modular(0.1, SPECS))


def flat(tree) -> Any:
    return flax.traverse_util.flatten_dict(flax.serialization.to_state_dict(tree), sep="/", keep_empty_nodes=True)


def nested(arrays, target):
    return flax.serialization.from_state_dict(target, flax.traverse_util.unflatten_dict(arrays, sep="/"))


def npz(state, target, path):
    arrays = flat(state)
    np.savez(path / "state.npz", **{name: x for name, x in arrays.items() if hasattr(x, "shape")})
    restored = np.load(path / "state.npz")
    return nested({name: restored.get(name, x) for name, x in arrays.items()}, target)


def by_name(state, target, path):
    names = [jax.tree_util.keystr(keys, simple=True, separator="/") for keys, _ in jax.tree.leaves_with_path(state)]
    assert len(set(names)) == len(names)
    buffer = io.BytesIO()
    np.savez(buffer, **dict(zip(names, jax.tree.leaves(state), strict=True)))
    buffer.seek(0)
    arrays = np.load(buffer)
    return jax.tree.unflatten(jax.tree.structure(target), [arrays[name] for name in names])


def orbax(state, target, path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "state", target)


FORMATS = {
    "msgpack": lambda state, target, path: flax.serialization.from_bytes(target, flax.serialization.to_bytes(state)),
    "flattened with slashes": lambda state, target, path: nested(flat(state), target),
    "npz of flattened names": npz,
    "npz of key paths": by_name,
    "Orbax": orbax,
    "pickle": lambda state, target, path: pickle.loads(pickle.dumps(jax.device_get(state))),
}


@pytest.fixture(scope="module")
def trained():
    update = jax.jit(WATCHED.update)
    state = WATCHED.init(PARAMS)
    _, state = update(PARAMS, state, PARAMS)
    return update, state


@pytest.mark.parametrize("name", FORMATS)
def test_a_state_comes_back_from_every_format_and_goes_on(name, trained, tmp_path):
    update, state = trained
    restored = FORMATS[name](state, WATCHED.init(PARAMS), tmp_path)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert mo.read_monitor(restored) == mo.read_monitor(state)
    expected, _ = update(PARAMS, state, PARAMS)
    updates, _ = update(PARAMS, restored, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


@pytest.mark.parametrize("tx", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)
def test_no_key_of_a_state_has_a_slash(tx):
    state = jax.eval_shape(tx.init, parameters()), jax.eval_shape(WATCHED.init, PARAMS)
    keys = [key for path, _ in jax.tree.leaves_with_path(state) for key in path]
    assert not any("/" in str(getattr(key, "key", "")) for key in keys)


def test_paths_that_go_on_below_a_parameter_are_told_apart():
    params = {"a": jnp.ones((4, 3)), "a/b": 2 * jnp.ones((4, 3))}
    specs = mo.NormSpec(mo.Spectral(), constraint=mo.Hammer(0.5))
    tx = mo.monitor(specs, mo.modular(0.1, specs))
    _, state = tx.update(params, tx.init(params), params)
    assert mo.read_monitor(state)["a/b/weight_norm"] == pytest.approx(2 * mo.read_monitor(state)["a/weight_norm"])


OTHER = {"dense": {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(5)}, "head": {"kernel": jnp.ones((5, 2))}, "gain": 1.0}
UNCONSTRAINED = mo.NormRegistry(mo.Rule(".*/kernel", mo.Spectral()), default=mo.Unnormed())
OTHERS = {
    "other specs": lambda: mo.modular(0.1, mo.NormRegistry(mo.Rule(".*", mo.RMS()))).init(PARAMS),
    "specs without constraints": lambda: mo.modular(0.1, UNCONSTRAINED).init(PARAMS),
    "adam": lambda: optax.adam(0.1).init(PARAMS),
    "muon of optax": lambda: optax.contrib.muon(0.1).init(PARAMS),
    "a chain": lambda: optax.chain(optax.ema(0.9), mo.dualize(SPECS)).init(PARAMS),
    "a larger model": lambda: mo.modular(0.1, SPECS).init(jax.tree.map(jnp.asarray, OTHER)),
    "nothing": lambda: None,
    "the parameters": lambda: PARAMS,
    "the optimizer": lambda: optax.adam(0.1),
    "a number": lambda: 0.1,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    "tx",
    [mo.modular(0.1, SPECS), mo.scion(0.1, SPECS), WATCHED, mo.keep_params_projected(SPECS), mo.scale_by_momentum()],
    ids=["modular", "scion", "monitor", "keep_params_projected", "scale_by_momentum"],
)
def test_the_state_of_another_is_refused_with_what_differs(name, tx):
    with pytest.raises(ValueError, match=r"This state is not one of this optimizer(.|\n)*start anew: write") as error:
        tx.update(PARAMS, OTHERS[name](), PARAMS)
    assert len(str(error.value)) < 1500


def test_a_state_in_other_containers_is_told_how_to_be_restored():
    tx = mo.modular(0.1, SPECS)
    raw = flax.serialization.msgpack_restore(flax.serialization.to_bytes(tx.init(PARAMS)))
    with pytest.raises(ValueError, match=r"in other containers(.|\n)*from_state_dict\(tx.init\(params\), state\)"):
        tx.update(PARAMS, raw, PARAMS)
    # a chain around takes the keys of a dictionary for the states of its links
    chain = optax.chain(tx, mo.average_params())
    raw = flax.serialization.msgpack_restore(flax.serialization.to_bytes(chain.init(PARAMS)))
    with pytest.raises(ValueError, match="in other containers"):
        chain.update(PARAMS, raw, PARAMS)


# The third argument of `update`

NET = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
ARRAYS = eqx.filter(NET, eqx.is_inexact_array)
THIRD = {
    "specs": (lambda: SPECS.resolve(PARAMS), "4 updates are of parameters that the third argument does not hold"),
    "a registry": (lambda: SPECS, "dense/bias  .*: nothing under this path"),
    "the state": (lambda: mo.modular(0.1, SPECS).init(PARAMS), "A PartitionState is the state of an optimizer"),
    "the loss": (lambda: jnp.ones(()), r"nothing under this path(.|\n)*write tx.update\(grads, state, params\)"),
    "a number": (lambda: 0.1, "nothing under this path"),
    "variables": (lambda: {"params": PARAMS, "batch_stats": {"mean": jnp.ones(2)}}, "These are whole variables"),
    "other parameters": (
        lambda: jax.tree.map(jnp.asarray, OTHER),
        r"float32\[4, 3\]: float32\[4, 5\] under this path",
    ),
}


@pytest.mark.parametrize("name", THIRD)
@pytest.mark.parametrize("tx", [mo.modular(0.1, SPECS), mo.muon(0.1), WATCHED], ids=["modular", "muon", "monitor"])
def test_what_is_no_tree_of_the_parameters_is_refused_as_third_argument(name, tx):
    make, message = THIRD[name]
    with pytest.raises(ValueError, match=message):
        tx.update(PARAMS, tx.init(PARAMS), make())


@pytest.mark.parametrize("tx", [mo.modular(0.1, mo.NormSpec(mo.RMS())), mo.scale_by_momentum(), mo.average_params()])
def test_parameters_of_a_state_that_have_no_gradient_are_told(tx):
    model = {"w": jnp.ones((4, 3)), "frozen": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"no gradient:\n  frozen  float32\[3\](.|\n)*write tx.init\(eqx.filter"):
        tx.update({"w": model["w"], "frozen": None}, tx.init(model), model)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_whole_model_may_be_passed_for_its_parameters(decay):
    tx = mo.modular(0.1, mo.NormSpec(mo.RMS()), weight_decay=decay, weight_decay_mask=True)
    expected, _ = tx.update(ARRAYS, tx.init(ARRAYS), ARRAYS)
    updates, _ = untyped(tx).update(ARRAYS, tx.init(ARRAYS), NET)
    assert eqx.tree_equal(updates, expected)
