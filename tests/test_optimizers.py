"""The aliases: what each step is, and that Muon is the Muon of Optax."""

import dataclasses
import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import modula_optax as mo
from tests.cases import enable_x64, random_like, untyped


def regression(key):
    keys = jax.random.split(key, 6)
    params = {
        "layer": {"kernel": random_like(keys[0], (6, 16)) / 2, "bias": jnp.zeros(16)},
        "heads": random_like(keys[1], (16, 2, 4)) / 4,
        "out": {"kernel": random_like(keys[2], (8, 3)) / 3, "bias": jnp.zeros(3)},
    }
    x, target = random_like(keys[3], (64, 6)), jnp.sin(random_like(keys[4], (64, 3)))

    def loss(p):
        hidden = jax.nn.gelu(x @ p["layer"]["kernel"] + p["layer"]["bias"])
        hidden = jnp.einsum("bd,dhk->bhk", hidden, p["heads"]).reshape(64, 8)
        return jnp.mean((jnp.tanh(hidden) @ p["out"]["kernel"] + p["out"]["bias"] - target) ** 2)

    return loss, params


def trajectory(tx, loss, params, steps=50):
    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), (value, params)

    return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps)[1])(params)


DIMENSIONS = {
    "layer": {"kernel": MuonDimensionNumbers(), "bias": None},
    "heads": MuonDimensionNumbers(0, (1, 2)),
    "out": {"kernel": MuonDimensionNumbers(), "bias": None},
}
DECAYED = {"layer": {"kernel": True, "bias": False}, "heads": True, "out": False}
OURS, THEIRS = (inspect.signature(muon).parameters for muon in (mo.muon, optax.contrib.muon))
OLDER = set(THEIRS) < set(OURS)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"nesterov": False, "beta": 0.9},
        {"weight_decay": 0.1, "adam_weight_decay": 0.01, "adam_learning_rate": 1e-3},
        {"weight_decay": 0.1, "weight_decay_mask": lambda p: jax.tree.map(lambda x: x.shape != (8, 3), p)},
        {"muon_weight_dimension_numbers": DIMENSIONS},
        {"muon_weight_dimension_numbers": lambda p: DIMENSIONS},
        {"muon_weight_dimension_numbers": {**DIMENSIONS, "out": None}, "consistent_rms": 0.2},
        {"muon_weight_dimension_numbers": {**DIMENSIONS, "heads": MuonDimensionNumbers(0, 2)}},
        {"ns_coeffs": "dion"},
        {"ns_coeffs": ((3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)), "ns_steps": 2},
        {"ns_coeffs": (2.0, -1.5, 0.5), "ns_steps": 7},
        {"adaptive": True},
        {"adaptive": True, "consistent_rms": 0.2, "muon_weight_dimension_numbers": DIMENSIONS},
        {"preconditioning": "spectral"},
        {"preconditioning": "schatten"},
        {"preconditioning": "aol"},
        {"mu_dtype": jnp.bfloat16},
        {"ns_coeffs": ((3.0, -3.2, 1.2), (2.0, -1.5, 0.5))},
    ],
    ids=lambda arguments: "-".join(arguments) or "defaults",
)
def test_muon_is_the_muon_of_optax(arguments, key):
    # names of coefficients came with the last of the arguments
    if set(arguments) - set(THEIRS) or (OLDER and isinstance(arguments.get("ns_coeffs"), str)):
        pytest.skip("Muon of this Optax does not take these")
    loss, params = regression(key)
    ours, our_path = trajectory(mo.muon(0.02, **arguments), loss, params)
    theirs, their_path = trajectory(optax.contrib.muon(0.02, **arguments), loss, params)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    # momentum in bfloat16 turns a difference in the last bit of float32 into one of its own last bit
    atol = 5e-3 if "mu_dtype" in arguments else 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), our_path, their_path)
    if not arguments.get("adaptive"):
        assert ours[-1] < 0.8 * ours[0]


MATRICES = {"wide": (4, 7), "tall": (7, 4), "square": (4, 4), "bias": (4,)}


def steps_of(tx, grads, params, count=3):
    state = tx.init(params)
    for i in range(count):
        updates, state = tx.update(jax.tree.map(lambda g, i=i: jnp.cos(i + 1.0) * g, grads), state, params)
    return updates


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"consistent_rms": 0.2, "weight_decay": 0.1},
        {"adaptive": True},
        {"preconditioning": "spectral"},
        {"ns_coeffs": ((3.0, -3.2, 1.2), (2.0, -1.5, 0.5))},
    ],
    ids=lambda arguments: "-".join(arguments) or "defaults",
)
def test_complex_matrices_get_the_steps_of_optax(arguments, key):
    if set(arguments) - set(THEIRS):
        pytest.skip("Muon of this Optax does not take these")
    params = {
        name: random_like(key, shape) + 1j * random_like(jax.random.key(1), shape) for name, shape in MATRICES.items()
    }
    grads = jax.tree.map(lambda p: jnp.conj(p) * 0.3 + 0.1, params)
    ours, theirs = (steps_of(muon(0.1, **arguments), grads, params) for muon in (mo.muon, optax.contrib.muon))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)
    assert {u.dtype for u in jax.tree.leaves(ours)} == {jnp.dtype(jnp.complex64)}


@pytest.mark.parametrize("preconditioning", ["aol", "schatten"])
def test_complex_matrices_become_unitary_under_every_bound(preconditioning, key):
    w = random_like(key, (4, 7)) + 1j * random_like(jax.random.key(1), (4, 7))
    tx = untyped(mo.muon(1.0, "dion", preconditioning=preconditioning))
    s = np.linalg.svd(tx.update(w, tx.init(w), w)[0], compute_uv=False)
    np.testing.assert_allclose(s, np.sqrt(7 / 4), rtol=0.15)


# Numbers of every kind: what inject_hyperparams makes of them, traced or not

NUMBERS = {"Python": float, "NumPy": np.float32, "an array": jnp.float32, "a schedule": lambda x: lambda count: x}


def aliases(number):
    """Every alias, with all of its numbers given as `number` makes them."""
    adam = {"adam_b1": 0.9, "adam_b2": 0.99, "adam_weight_decay": 0.1, "adam_learning_rate": 0.01, "eps": 1e-8}
    arguments = {
        "modular": (mo.modular, {"learning_rate": 0.1, "b1": 0.9, "weight_decay": 0.1}, {"specs": INJECTED}),
        "scion": (mo.scion, {"learning_rate": 0.1, "momentum": 0.2}, {"specs": INJECTED}),
        "muon": (
            mo.muon,
            {"learning_rate": 0.1, "beta": 0.9, "weight_decay": 0.1, "consistent_rms": 0.2, **adam},
            {"nesterov": False},
        ),
        "keep_params_projected": (
            mo.keep_params_projected,
            {"learning_rate": 0.1, "weight_decay": 0.1},
            {"specs": mo.NormRegistry(mo.Rule(".*", mo.RMS(), constraint=mo.Regularize(0.5)))},
        ),
        "scale_by_momentum": (mo.scale_by_momentum, {"b1": 0.9}, {}),
    }
    return {
        name: (factory, others, {key: number(value) for key, value in numbers.items()})
        for name, (factory, numbers, others) in arguments.items()
    }


INJECTED = mo.NormRegistry(mo.Rule("bias", mo.Unnormed()), mo.Rule(".*", mo.Spectral()))


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("name", aliases(float))
def test_numbers_are_taken_of_every_kind_and_injected_with_nothing_named_static(name, kind, key):
    params = {name: random_like(key, shape) for name, shape in MATRICES.items()}
    grads = jax.tree.map(lambda p: jnp.sin(3 * p) + 0.2, params)
    factory, others, numbers = aliases(float)[name]
    expected = steps_of(factory(**others, **numbers), grads, params, 2)
    _, _, numbers = aliases(NUMBERS[kind])[name]
    injected = optax.inject_hyperparams(factory)(**others, **numbers)
    state = injected.init(params)
    for i in range(2):
        g = jax.tree.map(lambda g, i=i: jnp.cos(i + 1.0) * g, grads)
        updates, state = jax.jit(injected.update)(g, state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), updates, expected)
    if kind != "a schedule":
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            steps_of(factory(**others, **numbers), grads, params, 2),
            expected,
        )


@pytest.mark.parametrize("preconditioning", ["frobenius", "aol"] if not OLDER else ["frobenius"])
def test_the_number_of_steps_may_be_traced_as_that_of_optax_may(preconditioning, key):
    w = random_like(key, (4, 7))
    arguments = {"preconditioning": preconditioning} if not OLDER else {}

    def step(muon, count):
        tx = untyped(muon(0.1, ns_steps=count, **arguments))
        return tx.update(w, tx.init(w), w)[0]

    with jax.checking_leaks():
        ours = jax.jit(lambda count: step(mo.muon, count))
        for count in (1, 3, 5):
            np.testing.assert_allclose(ours(count), step(mo.muon, count), atol=1e-6)
            np.testing.assert_allclose(ours(count), step(optax.contrib.muon, count), atol=1e-6)


def test_a_decay_of_zero_needs_no_parameters_and_another_that_is_traced_makes_nan(key):
    g = random_like(key, (4, 3))
    for zero in (0.0, np.float32(0.0), jnp.zeros(())):
        tx = untyped(mo.modular)(0.1, mo.NormSpec(mo.Spectral()), weight_decay=zero)
        assert jnp.isfinite(tx.update(g, tx.init(g))[0]).all()

    @jax.jit
    def injected(decay):
        tx = mo.modular(0.1, mo.NormSpec(mo.Spectral()), weight_decay=decay)
        return tx.update(g, tx.init(g))[0]

    assert jnp.isfinite(injected(0.0)).all()
    assert jnp.isnan(injected(0.1)).all()
    tx = mo.modular(0.1, mo.NormSpec(mo.Spectral()), weight_decay=0.1)
    with pytest.raises(ValueError, match=r"Weight decay needs the parameters: write tx.update\(grads, state, params\)"):
        tx.update(g, tx.init(g))


# Dtypes

ALIASES = {
    "modular": mo.modular(1e-4, mo.NormSpec(mo.Spectral())),
    "modular, decay": mo.modular(1e-4, mo.NormSpec(mo.Sign()), weight_decay=0.1, weight_decay_mask=True),
    "scion": mo.scion(1e-4, mo.NormSpec(mo.Sign())),
    "muon": mo.muon(1e-4),
    "kept": mo.modular(1e-4, mo.NormSpec(mo.Spectral(), constraint=mo.NormBall(1.0))),
}


@pytest.mark.filterwarnings("ignore:modular. the learning rate")
@pytest.mark.parametrize("name", ALIASES)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("grad_dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_updates_have_the_dtype_of_optax_and_the_state_keeps_its_own(name, dtype, grad_dtype):
    with enable_x64(True):
        w, g = jnp.ones((8, 4), dtype), jnp.ones((8, 4), grad_dtype)
        run = lambda tx: jax.eval_shape(lambda w, g: tx.update(g, tx.init(w), w), w, g)  # noqa: E731
        updates, state = run(ALIASES[name])
        assert updates.dtype == run(optax.contrib.muon(1e-4))[0].dtype
        if "scion" not in name:
            before = jax.eval_shape(ALIASES[name].init, w)
            assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, before)


@pytest.mark.filterwarnings("ignore:modular. the learning rate")
@pytest.mark.parametrize("name", ALIASES)
def test_gradients_in_half_precision_move_weights_as_their_numbers_in_float32_do(name, key):
    w = random_like(key, (512, 4))
    half = jnp.cos(w).astype(jnp.float16)
    tx = untyped(ALIASES[name])
    updates, expected = (tx.update(g, tx.init(w), w)[0] for g in (half, half.astype(jnp.float32)))
    np.testing.assert_allclose(updates, expected, rtol=5e-3, atol=1e-9)


@pytest.mark.skipif(OLDER, reason="Muon of this Optax has fewer arguments")
def test_muon_has_the_arguments_of_the_muon_of_optax():
    assert list(OURS) == list(THEIRS)
    assert {n: p.default for n, p in OURS.items()} == {n: p.default for n, p in THEIRS.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ns_coeffs": "quintic"}, r"Unknown ns_coeffs 'quintic'. Write 'standard', 'dion', or triples"),
        (
            {"ns_coeffs": ((1, 0, 0),) * 3, "ns_steps": 2},
            r"3 triples in ns_coeffs need as many ns_steps; got ns_steps=2",
        ),
        ({"preconditioning": "none"}, r"Unknown scaling 'none'. Write one of 'frobenius', 'schatten'"),
        ({"ns_steps": 0}, r"ns_steps must be an integer of at least 1; got 0"),
    ],
)
def test_muon_refuses_what_it_does_not_know(arguments, message):
    with pytest.raises(ValueError, match=message):
        mo.muon(0.02, **arguments)


REGISTRY = mo.NormRegistry(
    mo.Rule(r"heads", mo.Spectral(), axes=mo.Axes(fan_in=0, fan_out=(1, 2))),
    mo.Rule(r".*/kernel", mo.Spectral()),
    mo.Rule(r".*/bias", mo.Unnormed()),
)


def test_modular_moves_by_the_learning_rate_and_descends(key):
    loss, params = regression(key)
    losses, path = trajectory(mo.modular(0.05, REGISTRY, weight_decay=0.0), loss, params)
    assert losses[-1] < 0.3 * losses[0]
    moves = jax.tree.map(lambda p: p[1:] - p[:-1], path)
    for i in (0, 20, 48):
        move = jax.tree.map(lambda m, i=i: m[i], moves)
        assert mo.modular_norm(move, REGISTRY) == pytest.approx(0.05, rel=0.02)


def test_modular_is_the_chain_that_its_docstring_says(key):
    _, params = regression(key)
    params = {"w": params["heads"][:, 0], "v": params["out"]["kernel"]}
    objective = lambda p: jnp.sum(jnp.tanh(p["w"] ** 2)) + jnp.sum(p["v"] ** 4)  # noqa: E731
    specs = mo.NormSpec(mo.Spectral(), mass=0.5)
    chain = optax.chain(
        optax.ema(0.9), mo.dualize(specs), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(0.02)
    )
    alias = mo.modular(0.02, specs, b1=0.9, nesterov=False, weight_decay=0.1)
    ours, theirs = trajectory(alias, objective, params), trajectory(chain, objective, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)


def test_momentum_is_that_of_optax(key):
    grads = [{"w": random_like(jax.random.fold_in(key, i), (3,))} for i in range(5)]
    ours, theirs = untyped((mo.scale_by_momentum(0.8, nesterov=False), optax.ema(0.8)))
    our_state, their_state = ours.init(grads[0]), theirs.init(grads[0])
    for g in grads:
        u, our_state = ours.update(g, our_state)
        v, their_state = theirs.update(g, their_state)
        np.testing.assert_allclose(u["w"], v["w"], rtol=1e-5)


def test_unnormed_parameters_go_to_the_fallback_at_its_own_learning_rate(key):
    loss, params = regression(key)
    grads = jax.grad(loss)(params)
    tx = untyped(mo.modular(0.05, REGISTRY, fallback=optax.sgd(7.0)))
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["out"]["bias"], -7.0 * grads["out"]["bias"], rtol=1e-6)
    default = untyped(mo.modular(0.05, REGISTRY))
    updates, _ = default.update(grads, default.init(params), params)
    adam = untyped(optax.adam(1e-3))
    expected, _ = adam.update(grads["out"]["bias"], adam.init(grads["out"]["bias"]))
    np.testing.assert_allclose(updates["out"]["bias"], expected, rtol=1e-6)


def test_constraints_of_the_specs_hold_after_every_step(key):
    loss, params = regression(key)
    registry = mo.NormRegistry(
        *(mo.Rule(r.pattern, r.norm, axes=r.axes, constraint=mo.UnitSphere()) for r in REGISTRY.rules[:2]),
        REGISTRY.rules[2],
    )
    losses, path = trajectory(mo.modular(0.05, registry, weight_decay=0.1), loss, mo.initialize(key, params, registry))
    assert losses[-1] < losses[0]
    norms = jax.vmap(lambda p: mo.leaf_norms(p, registry))(path)
    for norm in jax.tree.leaves(norms):
        np.testing.assert_allclose(norm, 1.0, atol=1e-5)


def test_a_function_of_the_parameters_sees_all_of_them(key):
    _, params = regression(key)
    seen = []

    def specs(tree):
        seen.append(jax.tree.structure(tree))
        return REGISTRY.resolve(tree)

    tx = mo.modular(0.05, specs)
    tx.update(params, tx.init(params), params)
    assert set(seen) == {jax.tree.structure(params)}


def test_scion_steps_to_the_extreme_points_of_balls_of_its_radii(key):
    specs = {"hidden": mo.NormSpec(mo.Spectral(), mass=3.0), "head": mo.NormSpec(mo.Sign(), mass=10.0)}
    specs["rows"] = mo.NormSpec(mo.RowL2(), mass=2.0)
    grads = {name: random_like(jax.random.fold_in(key, i), (4, 6)) for i, name in enumerate(specs)}
    params = mo.initialize(key, grads, specs)
    free = mo.scion(0.1, specs)
    updates, _ = free.update(grads, free.init(params), params)
    for name, spec in specs.items():
        assert mo.leaf_norms(updates, specs)[name] == pytest.approx(0.1 * spec.mass, rel=0.02)
    held = mo.scion(0.1, specs, constrained=True)
    inward, _ = held.update(grads, held.init(params), params)
    jax.tree.map(
        lambda a, b, p: np.testing.assert_allclose(a, b - 0.1 * p, rtol=1e-5, atol=1e-6), inward, updates, params
    )


def test_constrained_scion_never_leaves_its_balls(key):
    loss, params = regression(key)
    registry = mo.NormRegistry(
        mo.Rule(r"heads|layer/kernel", mo.Spectral(), mass=2.0), mo.Rule(r"out/kernel", mo.Sign(), mass=5.0),
        mo.Rule(r".*/bias", mo.RMS()),
    )  # fmt: skip
    start = mo.initialize(key, params, registry)
    losses, path = trajectory(mo.scion(0.05, registry, constrained=True), loss, start, steps=100)
    norms = jax.vmap(lambda p: mo.modular_norm(p, registry))(path)
    assert norms.max() <= 1.0 + 1e-5
    assert losses[-1] < losses[0]


def test_scion_averages_with_weight_alpha_on_the_newest_gradient(key):
    specs = mo.NormSpec(mo.RMS())
    tx = untyped(mo.scion(1.0, specs, momentum=0.25))
    first, second = random_like(key, (5,)), random_like(jax.random.key(1), (5,))
    _, state = tx.update(first, tx.init(first))
    updates, _ = tx.update(second, state)
    average = 0.75 * 0.25 * first + 0.25 * second
    np.testing.assert_allclose(updates, -average / jnp.sqrt(jnp.mean(average**2)), rtol=1e-5)


DECAY = {"w": mo.NormSpec(mo.RMS(), constraint=mo.Regularize(1.0))}
ONES = {"w": jnp.ones(3)}
ZEROS = {"w": jnp.zeros(3)}


def decays(tx, steps=3, **extra):
    state, factors = tx.init(ONES), []
    for _ in range(steps):
        updates, state = tx.update(ZEROS, state, ONES, **extra)
        factors.append(round(1 + float(updates["w"][0]), 4))
    return factors


def test_the_learning_rate_is_a_number_a_schedule_or_given_with_each_update():
    schedule = optax.linear_schedule(0.4, 0.0, 4)
    assert decays(mo.keep_params_projected(DECAY, learning_rate=0.1)) == [0.9, 0.9, 0.9]
    assert decays(mo.keep_params_projected(DECAY, learning_rate=schedule)) == [0.6, 0.7, 0.8]
    assert decays(mo.keep_params_projected(DECAY, learning_rate=schedule), learning_rate=0.5) == [0.5, 0.5, 0.5]
    assert decays(mo.keep_params_projected(DECAY), learning_rate=jnp.asarray(0.5)) == [0.5, 0.5, 0.5]
    injected = optax.inject_hyperparams(mo.keep_params_projected, static_args="specs")
    assert decays(injected(DECAY, learning_rate=schedule)) == [0.6, 0.7, 0.8]


def test_aliases_tell_their_constraints_the_learning_rate():
    schedule = optax.linear_schedule(0.4, 0.0, 4)
    for alias in (mo.modular, mo.scion):
        assert decays(alias(schedule, DECAY)) == [0.6, 0.7, 0.8]
    injected = optax.inject_hyperparams(mo.modular, static_args="specs")
    assert decays(injected(schedule, DECAY)) == [0.6, 0.7, 0.8]


@dataclasses.dataclass(frozen=True)
class Told(mo.Constraint):
    """Weights that are the decay which they are told of."""

    def retract(self, norm, w, memory, step):
        return step.weight_decay[:, None, None, None] * jnp.ones_like(w), memory


@pytest.mark.parametrize(
    ("alias", "options", "decay"),
    [
        (mo.modular, {"weight_decay": 0.5, "weight_decay_mask": True}, 0.5),
        (mo.whitened, {"weight_decay": lambda step: 0.25, "weight_decay_mask": True}, 0.25),
        (mo.modular, {}, 0.0),
        (mo.scion, {"constrained": True}, 1.0),
        (mo.scion, {}, 0.0),
    ],
)
def test_aliases_tell_their_constraints_the_decay(alias, options, decay):
    tx = alias(0.1, mo.NormSpec(mo.RMS(), constraint=Told()), **options)
    updates, _ = tx.update(ZEROS, tx.init(ONES), ONES)
    np.testing.assert_allclose(ONES["w"] + updates["w"], decay, atol=1e-6)


def test_without_a_learning_rate_those_that_need_it_say_so():
    tx = mo.keep_params_projected(DECAY)
    message = (
        r"1 constraint depends on the learning rate:\n  w  float32\[3\]: Regularize\(strength=1.0\)\n"
        r"Write keep_params_projected\(specs, learning_rate=...\)"
    )
    with pytest.raises(ValueError, match=message):
        tx.update(ZEROS, tx.init(ONES), ONES)


@pytest.mark.parametrize(
    "numbers",
    [
        {"w": optax.contrib.MuonDimensionNumbers(0, 5), "b": None},
        {"w": optax.contrib.MuonDimensionNumbers(0, 0), "b": None},
        {"w": optax.contrib.MuonDimensionNumbers()},
        {"w": (0, 1), "b": None},
        "muon",
    ],
    ids=["out of range", "one axis twice", "not all", "axes alone", "text"],
)
def test_dimension_numbers_that_do_not_fit_are_told_with_what_to_write(numbers):
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    with pytest.raises(ValueError, match="muon_weight_dimension_numbers") as error:
        mo.muon(0.1, muon_weight_dimension_numbers=numbers).init(params)
    if "w  float32[4, 3]" in str(error.value):
        advised = {"w": optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1), "b": None}
    else:
        code = str(error.value).split("muon_weight_dimension_numbers=")[1]
        advised = eval(code, {"jax": jax, "optax": optax})
    mo.muon(0.1, muon_weight_dimension_numbers=advised).init(params)


def test_matrices_without_entries_are_left_to_adam():
    params = {"w": jnp.eye(2), "none": jnp.zeros((0, 2))}
    tx = mo.muon(0.1)
    updates, _ = untyped(tx).update(params, tx.init(params), params)
    assert updates["none"].shape == (0, 2)


def test_dimension_numbers_may_stand_in_a_module_that_can_be_called(key):
    class Layer(eqx.Module):
        weight: Any

        def __call__(self, x):
            raise AssertionError("a tree, not a function of parameters")

    params = Layer(random_like(key, (4, 3, 2)))
    tx = untyped(mo.muon(0.1, muon_weight_dimension_numbers=Layer(MuonDimensionNumbers(0, (1, 2)))))
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(jnp.linalg.norm(updates.weight.reshape(4, 6), 2), 0.1 * np.sqrt(6 / 4), rtol=0.3)


def test_derivatives_go_backwards_through_a_traced_number_of_steps(key):
    w = random_like(key, (4, 3))

    def loss(g, steps):
        tx = untyped(mo.muon(0.1, ns_steps=steps))
        return jnp.sum(jnp.cos(tx.update(g, tx.init(g), g)[0]))

    traced, known = jax.jit(jax.grad(loss))(w, 3), jax.grad(lambda g: loss(g, 3))(w)
    np.testing.assert_allclose(traced, known, atol=1e-6)
