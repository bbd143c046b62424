"""The monitor: its numbers against decompositions, the updates it passes on, and the states it is found in."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import modula_optax as mo
from modula_optax._linalg import largest_entry
from modula_optax._sketch import sketch_singular_values
from tests.cases import SPECTRA, compilations, random_like, untyped, with_spectrum

SPECTRAL = mo.NormSpec(mo.Spectral())
REGISTRY = mo.NormRegistry(
    mo.Rule(r"embed", mo.Embedding()),
    mo.Rule(r"conv", mo.Spectral(), axes=mo.Axes(fan_in=-2, fan_out=-1, taps=0)),
    mo.Rule(r".*/kernel", mo.Spectral()),
    mo.Rule(r"free", mo.Unnormed()),
    mo.Rule(r"bias", mo.RMS()),
)
SHAPES = {
    "embed": (9, 6),
    "conv": (3, 4, 5),
    "layers": {"kernel": (2, 6, 7)},
    "free": (3,),
    "bias": (4,),
    "static": None,
}
MATRIX = {"weight_norm", "gradient_dual_norm", "update_ratio", "alignment", "weight_stable_rank"}


def tree(seed, dtype=jnp.float32, shapes=None):
    shapes, treedef = jax.tree.flatten(shapes or SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return treedef.unflatten([random_like(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)])


def watched(tx, params, grads, steps=1):
    """Measurements of the last of some equal updates, compiled once."""
    state = untyped(tx.init(params))

    @jax.jit
    def watch(grads, state, params):
        return tx.update(grads, state, params)

    with compilations("watch") as found:
        for _ in range(steps):
            updates, state = watch(grads, state, params)
    assert len(found) == 1
    return updates, state


# what it says


@jax.jit
def sketched(x):
    """Largest singular value and nuclear norm of every matrix of a stack."""
    scales = largest_entry(x, (-2, -1))
    largest, total = sketch_singular_values(x, scales)
    return scales[:, 0, 0] * largest, scales[:, 0, 0] * total


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_sketch_agrees_with_the_svd_at_every_scale(shape):
    x = np.stack([with_spectrum(1, shape, spectrum)[0] for spectrum in SPECTRA.values()])
    scales = np.array([1e-30, 1.0, 1e30])[:, None, None, None]
    x, scales = np.broadcast_arrays(x, scales)
    x, scales = x.reshape(-1, *shape), scales[..., 0, 0].ravel()[:, None]
    largest, total = sketched(jnp.asarray(x * scales[..., None], jnp.float32))
    truth = np.linalg.svd(x, compute_uv=False) * scales
    assert (largest >= truth[..., 0] * 0.97).all()
    assert (largest <= truth[..., 0] * (1 + 1e-5)).all()
    np.testing.assert_allclose(total, truth.sum(-1), rtol=0.12)


def test_sketch_of_large_matrices_keeps_to_the_stated_accuracy():
    spectra = [np.arange(1, 257.0) ** -decay for decay in (0.0, 0.5, 1.0, 2.0)]
    x = np.stack([with_spectrum(seed, (256, 300), spectrum)[0] for seed, spectrum in enumerate(spectra)])
    _, total = sketched(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(total, np.sum(spectra, axis=-1), rtol=0.1)


def test_every_metric_agrees_with_its_definition():
    params, grads = tree(0), tree(1)
    tx = mo.monitor(REGISTRY, optax.chain(mo.dualize(REGISTRY), optax.scale(-0.1)))
    updates, state = watched(tx, params, grads, steps=20)
    measured = mo.read_monitor(state)
    norms, steps = (jax.tree.map(jnp.max, mo.leaf_norms(x, REGISTRY)) for x in (params, updates))
    for path in ("embed", "conv", "layers/kernel", "bias"):
        name, *rest = path.split("/")
        w, g, u, norm, step = (x[name][rest[0]] if rest else x[name] for x in (params, grads, updates, norms, steps))
        matrices = path in ("conv", "layers/kernel")
        single = mo.NormRegistry(*(rule for rule in REGISTRY.rules if rule.matches(path)))
        dual = mo.dual_norm({name: {"kernel": g} if rest else g}, single)
        # estimates, where it takes singular values
        rtol = 0.02 if matrices else 1e-5
        np.testing.assert_allclose(measured[f"{path}/weight_norm"], norm, rtol=rtol)
        np.testing.assert_allclose(measured[f"{path}/update_ratio"], step / norm, rtol=rtol)
        np.testing.assert_allclose(measured[f"{path}/gradient_dual_norm"], dual, rtol=5 * rtol)
        np.testing.assert_allclose(measured[f"{path}/alignment"], jnp.vdot(g, u) / dual / step, rtol=5 * rtol)
        for metric, x in (("weight", w), ("gradient", g)):
            if matrices or (path, metric) == ("embed", "weight"):
                values = jnp.linalg.svdvals(x)
                truth = jnp.mean(jnp.sum(values**2, -1) / jnp.max(values, -1) ** 2)
                np.testing.assert_allclose(measured[f"{path}/{metric}_stable_rank"], truth, rtol=0.03)
    assert not any(name.startswith("free") for name in measured)


def test_alignment_tells_the_steepest_descent_from_other_directions():
    params, grads = tree(0), tree(1)
    alignments = {}
    for name, inner in {"steepest": mo.modular(0.1, REGISTRY, b1=0.0), "signs": optax.sign_sgd(0.1)}.items():
        measured = mo.read_monitor(watched(mo.monitor(REGISTRY, inner), params, grads)[1])
        alignments[name] = measured["layers/kernel/alignment"]
    assert alignments["steepest"] == pytest.approx(-1.0, abs=0.05)
    assert -0.9 < alignments["signs"] < 0


# what it does to training: nothing


def test_updates_and_the_state_of_the_inner_transformation_are_those_without_it():
    inner = mo.modular(0.1, REGISTRY)
    params, grads = tree(0), tree(1)
    expected, expected_state = jax.jit(inner.update)(grads, inner.init(params), params)
    updates, state = watched(mo.monitor(REGISTRY, inner), params, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), updates, expected)
    assert jax.tree.structure(state.inner_state) == jax.tree.structure(expected_state)


def test_a_link_takes_the_gradient_as_an_extra_argument():
    params, grads = tree(0), tree(1)
    around = mo.monitor(REGISTRY, optax.chain(mo.dualize(REGISTRY), optax.scale(-0.1)))
    link = optax.chain(mo.dualize(REGISTRY), optax.scale(-0.1), mo.monitor(REGISTRY))
    _, expected = watched(around, params, grads)
    _, state = jax.jit(link.update)(grads, link.init(params), params, grad=grads)
    assert mo.read_monitor(state) == pytest.approx(mo.read_monitor(expected), rel=1e-4)


def test_parameters_are_needed():
    tx = mo.monitor(SPECTRAL)
    with pytest.raises(ValueError, match=r"tx.update\(grads, state, params\)"):
        tx.update(jnp.eye(2), tx.init(jnp.eye(2)))


# numbers that are no good


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_is_seen_once_and_forgotten(bad):
    params, grads = tree(0), tree(1)
    tx = mo.monitor(REGISTRY)
    update = jax.jit(tx.update)
    _, clean = update(grads, tx.init(params), params)
    _, state = update(jax.tree.map(lambda g: jnp.full_like(g, bad), grads), clean, params)
    assert not np.isfinite(mo.read_monitor(state)["layers/kernel/gradient_dual_norm"])
    _, state = update(grads, state, params)
    assert all(np.isfinite(value) for value in mo.read_monitor(state).values())


@pytest.mark.parametrize("norm", [mo.Spectral(), mo.Frobenius()])
def test_no_derivative_goes_through_what_is_measured(norm, key):
    tx, w = untyped(mo.monitor(mo.NormSpec(norm))), random_like(key, (3, 4))
    measured = jax.grad(lambda w: sum(map(jnp.sum, jax.tree.leaves(tx.update(w, tx.init(w), w)[1].measurements))))
    np.testing.assert_array_equal(measured(w), jnp.zeros_like(w))


def test_zeros_are_measured_as_zeros():
    zeros = jax.tree.map(jnp.zeros_like, tree(0))
    measured = mo.read_monitor(watched(mo.monitor(REGISTRY), zeros, zeros)[1])
    assert set(measured.values()) == {0.0}


def test_bfloat16_parameters_are_measured_in_float32():
    params, grads = tree(0, jnp.bfloat16), tree(1, jnp.bfloat16)
    updates, state = watched(mo.monitor(REGISTRY, mo.modular(0.1, REGISTRY)), params, grads)
    single = mo.monitor(REGISTRY, mo.modular(0.1, REGISTRY))
    wide = [jax.tree.map(lambda x: x.astype(jnp.float32), x) for x in (params, grads)]
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    expected = mo.read_monitor(watched(single, *wide)[1])
    assert mo.read_monitor(state) == pytest.approx(expected, rel=0.02)


# where it is found

FEW = {"layers": {"kernel": (6, 7)}, "bias": (4,), "static": None}
FEW_NORMS = mo.NormRegistry(mo.Rule(r".*/kernel", mo.Spectral()), mo.Rule(r"bias", mo.RMS()))
WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "masked": lambda tx: optax.masked(tx, {**dict.fromkeys(FEW, True), "bias": False, "static": None}),
    "partition": lambda tx: optax.partition(
        {"a": tx, "b": mo.monitor(mo.NormSpec(mo.RMS()), optax.sgd(0.1))},
        {**dict.fromkeys(FEW, "a"), "bias": "b", "static": None},
    ),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(lambda rate: mo.monitor(FEW_NORMS, optax.sgd(rate)))(
        rate=0.1
    ),
    "multi_steps": lambda tx: optax.MultiSteps(tx, 1),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "inside": lambda tx: mo.monitor(lambda params: jax.tree.map(lambda _: mo.NormSpec(mo.Unnormed()), params), tx),
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_it_is_found_anywhere_in_a_state(wrapper):
    params, grads = tree(0, shapes=FEW), tree(1, shapes=FEW)
    tx = wrapper(mo.monitor(FEW_NORMS, optax.sgd(0.1)))
    _, state = jax.jit(tx.update)(grads, tx.init(params), params)
    measured = mo.read_monitor(state)
    assert all(type(value) is float for value in measured.values())
    assert {f"layers/kernel/{metric}" for metric in MATRIX} <= measured.keys()
    assert measured["layers/kernel/weight_norm"] > 0


def test_names_are_those_of_the_parameters_in_an_nnx_optimizer_too():
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    rules = mo.NormRegistry(mo.Rule("kernel", mo.Spectral()), default=mo.RMS())
    optimizer = nnx.Optimizer(model, mo.monitor(rules, optax.sgd(0.1)), wrt=nnx.Param)
    optimizer.update(model, nnx.grad(lambda model: jnp.sum(model(jnp.ones(4)) ** 2))(model))
    measured = mo.read_monitor(optimizer.opt_state)
    assert measured["bias/weight_norm"] == 0.0 < measured["kernel/weight_norm"]


def test_states_without_a_monitor_or_with_two_of_the_same_parameter_are_refused():
    params = {"w": jnp.eye(2)}
    with pytest.raises(ValueError, match="no monitor"):
        mo.read_monitor(optax.adam(0.1).init(params))
    twice = optax.chain(mo.monitor(SPECTRAL), mo.monitor(SPECTRAL))
    with pytest.raises(ValueError, match=r"(?s)several monitors.*w"):
        mo.read_monitor(twice.init(params))
    ensemble = jax.vmap(mo.monitor(SPECTRAL).init)({"w": jnp.ones((3, 2, 2))})
    with pytest.raises(ValueError, match="several models"):
        mo.read_monitor(ensemble)
    member = jax.tree.map(lambda x: x[0], ensemble)
    assert mo.read_monitor(member)["w/weight_norm"] == 0.0


def test_map_params_takes_no_measurement_for_a_parameter():
    params = tree(0)
    tx = mo.monitor(REGISTRY, optax.trace(0.9))
    marked = optax.tree.map_params(tx, lambda _: "parameter", tx.init(params), transform_non_params=lambda _: "other")
    assert jax.tree.leaves(marked).count("parameter") == len(jax.tree.leaves(params))


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_sharded_parameters_are_measured_as_whole_ones(kind):
    params, grads = {"w": random_like(jax.random.key(0), (16, 24))}, {"w": random_like(jax.random.key(1), (16, 24))}
    expected = mo.read_monitor(watched(mo.monitor(SPECTRAL, mo.modular(0.1, SPECTRAL)), params, grads, steps=2)[1])
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
        params, grads = jax.device_put((params, grads), sharding)
        tx = mo.monitor(SPECTRAL, mo.modular(0.1, SPECTRAL))
        updates, state = watched(tx, params, grads, steps=2)
    assert updates["w"].sharding == sharding
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves((state.measurements, state.directions)))
    assert mo.read_monitor(state) == pytest.approx(expected, rel=1e-3)
