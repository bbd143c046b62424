"""Control of size: floors, brakes, cautious decay, fixed lengths and the spectral sphere, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from tests.cases import enable_x64, normal, random_like, untyped

SPEC = mo.NormSpec(mo.Spectral())
HEADS = mo.NormSpec(mo.Spectral(), mo.Axes(fan_in=0, fan_out=2))  # [in, head, out]


def trained(tx, w, updates):
    """Weights after every update."""

    def step(carry, u):
        w, state = carry
        u, state = tx.update(u, state, w)
        w = optax.apply_updates(w, u)
        return (w, state), w

    return np.asarray(jax.jit(lambda w, us: jax.lax.scan(step, (w, tx.init(w)), us)[1])(w, updates))


def followed(step, w, updates):
    path = []
    for u in updates:
        w = step(w, u)
        path.append(w)
    return np.stack(path)


def floored(w, u, floor=0.35, per_output=None):
    if per_output is not None:
        ratios = np.linalg.norm(w, axis=0) / np.linalg.norm(u, axis=0)
        even = u * np.maximum(1, per_output * ratios)
        u = even * np.linalg.norm(u) / np.linalg.norm(even)
    return w + u * max(1, floor * np.linalg.norm(w) / np.linalg.norm(u))


def braked(w, u, strength=0.5):
    c = np.vdot(u, w) / np.vdot(w, w)
    kept = c - strength * max(c, 0)
    after = u - c * w + (1 + kept) * w
    return (1 + kept) * np.linalg.norm(w) * after / np.linalg.norm(after)


FORMULAS = {
    "floor": (mo.floor_relative_update(SPEC), floored),
    "floor of outputs": (
        mo.floor_relative_update(SPEC, 0.1, per_output=0.5),
        lambda w, u: floored(w, u, 0.1, 0.5),
    ),
    "brake": (mo.brake_growth(SPEC), braked),
    "whole brake": (mo.brake_growth(SPEC, 1.0), lambda w, u: braked(w, u, 1.0)),
    "cautious decay": (mo.add_cautious_decay(SPEC, 0.1), lambda w, u: w + u + 0.1 * w * (u * w > 0)),
    "fixed length": (
        mo.keep_lengths_fixed(),
        lambda w, u: np.linalg.norm(normal(0, 6, 9)) * (w + u) / np.linalg.norm(w + u),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_fifty_steps_are_those_of_the_formula(name):
    tx, formula = FORMULAS[name]
    w, updates = normal(0, 6, 9), 0.1 * normal(1, 50, 6, 9)
    with enable_x64(True):
        ours = trained(tx, jnp.asarray(w), jnp.asarray(updates))
    np.testing.assert_allclose(ours, followed(formula, w, updates), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("link", [mo.floor_relative_update, mo.brake_growth])
def test_heads_are_atoms_of_their_own(link, key):
    w, u = random_like(key, (6, 2, 4)), random_like(jax.random.key(1), (6, 2, 4)) / 10
    together = link(HEADS).update(u, optax.EmptyState(), w)[0]
    for i in range(2):
        alone = link(SPEC).update(u[:, i], optax.EmptyState(), w[:, i])[0]
        np.testing.assert_allclose(together[:, i], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["floor", "brake", "fixed length"])
def test_rotations_of_rows_and_columns_go_through(name, key):
    tx = FORMULAS[name][0]
    a, b = (jnp.linalg.qr(random_like(jax.random.fold_in(key, size), (size, size)))[0] for size in (6, 9))
    w, u = random_like(key, (6, 9)), random_like(jax.random.key(1), (6, 9)) / 10
    plain = tx.update(u, tx.init(w), w)[0]
    w, u = a @ w @ b, a @ u @ b
    np.testing.assert_allclose(tx.update(u, tx.init(w), w)[0], a @ plain @ b, atol=1e-5)


@pytest.mark.parametrize("name", FORMULAS)
def test_zeros_and_what_is_no_number(name):
    tx, w, zero = FORMULAS[name][0], jnp.ones((3, 4)), jnp.zeros((3, 4))
    np.testing.assert_allclose(tx.update(zero, tx.init(w), w)[0], zero, atol=1e-6)
    assert jnp.isfinite(tx.update(w, tx.init(zero), zero)[0]).all()
    assert jnp.isnan(tx.update(w.at[0, 0].set(jnp.nan), tx.init(w), w)[0]).any()


def test_weights_never_grow_faster_than_half_of_what_the_step_says(key):
    w, u = random_like(key, (8, 8)), random_like(jax.random.key(1), (8, 8))
    for strength in (0.25, 1.0):
        after = w + untyped(mo.brake_growth(SPEC, strength)).update(u, optax.EmptyState(), w)[0]
        growth = jnp.vdot(u, w) / jnp.linalg.norm(w)
        expected = jnp.linalg.norm(w) + growth - strength * jnp.maximum(growth, 0.0)
        np.testing.assert_allclose(jnp.linalg.norm(after), expected, rtol=1e-5)


def test_a_brake_leaves_weights_of_zero_free_and_lets_none_through_zero(key):
    w, u, tx = random_like(key, (4, 6)), random_like(jax.random.key(1), (4, 6)), untyped(mo.brake_growth(SPEC))
    np.testing.assert_array_equal(tx.update(u, optax.EmptyState(), jnp.zeros_like(w))[0], u)
    np.testing.assert_allclose(w + tx.update(-3.0 * w, optax.EmptyState(), w)[0], jnp.zeros_like(w), atol=1e-6)


@pytest.mark.parametrize("link", [mo.floor_relative_update, mo.brake_growth, mo.add_cautious_decay])
def test_what_has_no_norm_passes_and_only_hidden_matrices_decay(link):
    specs = {"w": SPEC, "table": mo.NormSpec(mo.Embedding()), "gain": mo.NormSpec(mo.Diagonal())}
    specs |= {"other": mo.NormSpec(mo.Unnormed())}
    w = dict.fromkeys(specs, jnp.ones((2, 3)))
    u = jax.tree.map(lambda x: 0.1 * x, w)
    moved = untyped(link(specs)).update(u, optax.EmptyState(), w)[0]
    changed = {name for name in specs if not np.array_equal(moved[name], u[name])}
    assert changed == ({"w"} if link is mo.add_cautious_decay else {"w", "table", "gain"})


def test_adam_at_fixed_length_is_a_fallback(key):
    specs = {"hidden": SPEC, "head": mo.NormSpec(mo.Unnormed())}
    params = {"hidden": random_like(key, (4, 4)), "head": 3.0 * random_like(key, (4, 6))}
    tx = mo.modular(0.05, specs, fallback=optax.chain(optax.adam(0.1), mo.keep_lengths_fixed()))
    state = tx.init(params)
    before = params["head"]
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        params = untyped(optax.apply_updates(params, updates))
    assert abs(params["head"] - before).max() > 0.1
    np.testing.assert_allclose(jnp.linalg.norm(params["head"]), jnp.linalg.norm(before), rtol=1e-6)


@pytest.mark.parametrize(
    "link",
    [mo.floor_relative_update(SPEC), mo.brake_growth(SPEC), mo.add_cautious_decay(SPEC), mo.keep_lengths_fixed()],
)
def test_parameters_are_asked_for(link):
    w = jnp.ones((2, 2))
    with pytest.raises(ValueError, match=r"needs the parameters: call tx.update\(grads, state, params\)"):
        link.update(w, link.init(w))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_floors_and_strengths_are_positive(bad):
    for link in (mo.floor_relative_update, mo.brake_growth):
        with pytest.raises(ValueError, match=r"must be a (finite )?number above 0"):
            link(SPEC, bad)
    with pytest.raises(ValueError, match="strength of brake_growth must be a number above 0 and at most 1"):
        mo.brake_growth(SPEC, 1.5)


@pytest.mark.parametrize("shape", [(8, 8), (6, 10), (10, 6)])
def test_no_direction_along_the_spectral_sphere_is_steeper(shape):
    """Its slope is what duality says: the least nuclear norm of the gradient with anything of the normal added."""
    spec = mo.NormSpec(mo.Spectral(), constraint=mo.SpectralSphere(halvings=30))
    with enable_x64(True):
        w = np.linalg.qr(normal(0, *sorted(shape, reverse=True)))[0]
        w = (w if w.shape == shape else w.T) + 0.5 * np.outer(normal(2, shape[0]), normal(3, shape[1]))
        g = normal(1, *shape)
        tx = mo.dualize(spec)
        direction = np.asarray(tx.update(jnp.asarray(g), tx.init(w), jnp.asarray(w))[0]) / np.sqrt(shape[1] / shape[0])
    u, _, v = np.linalg.svd(w)
    normal_of = np.outer(u[:, 0], v[0])
    nuclear = lambda x: np.linalg.svd(g + x * normal_of, compute_uv=False).sum()  # noqa: E731
    low, high = -100.0, 100.0
    for _ in range(200):  # convex: golden sections are not needed
        third = (high - low) / 3
        low, high = (low, high - third) if nuclear(low + third) < nuclear(high - third) else (low + third, high)
    assert abs(np.vdot(direction, normal_of)) < 1e-6
    assert np.linalg.norm(direction, 2) < 1 + 1e-4
    np.testing.assert_allclose(np.vdot(direction, g), nuclear(low), rtol=1e-4)


def test_weights_stay_on_the_spectral_sphere(key):
    specs = mo.NormSpec(mo.Spectral(), constraint=mo.SpectralSphere(2.0, iterations=8))
    tx = mo.modular(0.1, specs, weight_decay=0.0)
    w = mo.project(random_like(key, (6, 9)), specs)
    target = random_like(jax.random.key(1), (6, 9))
    step = jax.jit(lambda w, state: tx.update(w - target, state, w))
    state, first = tx.init(w), jnp.sum((w - target) ** 2)
    for _ in range(30):
        u, state = step(w, state)
        w = untyped(optax.apply_updates(w, u))
        # never inside, and outside by what power iteration misses where leading singular values are close
        assert 2.0 - 1e-5 <= mo.modular_norm(w, specs) <= 2.0 * 1.03
    assert jnp.sum((w - target) ** 2) < first
