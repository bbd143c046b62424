"""Steps along manifolds: tangent, steepest, and feasible for a thousand steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import modula_optax as mo
from tests.cases import random_like, untyped

pytestmark = pytest.mark.usefixtures("strict_promotion")

# norm, constraint, shape
ROUND = [
    (mo.RMS(), mo.Hypersphere(2.0), (7,)),
    (mo.Embedding(), mo.Hypersphere(), (5, 3)),
    (mo.RowL2(), mo.Hypersphere(), (5, 3)),
    (mo.Frobenius(), mo.Hypersphere(), (5, 3)),
    (mo.Frobenius(), mo.FixedNorm(), (5, 3)),
]
SHAPES = [(5, 5), (6, 6), (7, 3), (3, 7)]
STIEFEL = [(mo.Spectral(), mo.Stiefel(40), shape) for shape in SHAPES]


def name(value):
    return "x".join(map(str, value)) if isinstance(value, tuple) else type(value).__name__


@functools.partial(jax.jit, static_argnames="spec")
def tangent(g, w, spec):
    """The dual map at a weight."""
    return mo.dualize(spec).update(g, optax.EmptyState(), w)[0]


def held(norm, constraint, shape, key, **arguments):
    spec = mo.NormSpec(norm, constraint=constraint, **arguments)
    return spec, mo.project(random_like(key, shape), spec)


@pytest.mark.parametrize(("norm", "constraint", "shape"), ROUND + STIEFEL, ids=name)
def test_the_direction_is_of_norm_one_and_keeps_the_constraint_to_first_order(norm, constraint, shape, key):
    spec, w = held(norm, constraint, shape, key)
    g = random_like(jax.random.key(1), shape)
    step = tangent(g, w, spec)
    assert float(mo.modular_norm(step, spec)) == pytest.approx(1, abs=0.01)
    assert jnp.vdot(g, step) > 0
    # what the retraction takes back of a small step is of second order
    small = 1e-2
    there = w + small * step
    if not isinstance(constraint, mo.FixedNorm):
        back = mo.project(there, spec) - there
        assert float(jnp.linalg.norm(back)) <= 0.02 * small * float(jnp.linalg.norm(step)) + 1e-6
    else:
        assert abs(float(jnp.vdot(w, step))) < 1e-5


@pytest.mark.parametrize(("norm", "constraint", "shape"), ROUND + STIEFEL, ids=name)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_only_the_direction_of_a_gradient_counts(norm, constraint, shape, scale, key):
    spec, w = held(norm, constraint, shape, key)
    g = random_like(jax.random.key(1), shape)
    np.testing.assert_allclose(tangent(g * scale, w, spec), tangent(g, w, spec), atol=2e-3)
    assert not jnp.any(tangent(jnp.zeros(shape), w, spec))


def test_the_steepest_direction_at_a_sphere_is_that_of_a_generic_solver(key):
    spec, w = held(mo.RMS(), mo.Hypersphere(), (6,), key)
    g = random_like(jax.random.key(1), (6,))
    found = scipy.optimize.minimize(
        lambda a: -a @ np.asarray(g, np.float64),
        np.zeros(6),
        method="SLSQP",
        constraints=[
            {"type": "ineq", "fun": lambda a: 1 - np.mean(a**2)},
            {"type": "eq", "fun": lambda a: a @ np.asarray(w, np.float64)},
        ],
    )
    np.testing.assert_allclose(tangent(g, w, spec), found.x, atol=1e-3)


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 2), (2, 2), (5, 3)], ids=name)
@pytest.mark.parametrize("seed", range(3))
def test_the_steepest_direction_at_orthonormal_columns_is_as_steep_as_duality_allows(shape, seed):
    """No tangent A of spectral norm one has a larger <G, A> than the nuclear norm of G + QS, for any symmetric S."""
    spec, w = held(mo.Spectral(), mo.Stiefel(60), shape, jax.random.key(seed))
    g = random_like(jax.random.key(seed + 10), shape)
    gain = np.sqrt(shape[1] / shape[0])
    q, slope, step = (np.asarray(x, np.float64) for x in (w / gain, g, tangent(g, w, spec) / gain))
    q, slope, step = (x.T if shape[0] < shape[1] else x for x in (q, slope, step))
    rank = min(shape)

    def bound(entries):
        s = np.zeros((rank, rank))
        s[np.triu_indices(rank)] = entries
        return np.linalg.norm(slope + q @ (s + s.T), "nuc")

    entries = np.zeros(rank * (rank + 1) // 2)
    # convex but not smooth: a simplex that has collapsed starts anew
    for _ in range(5):
        entries = scipy.optimize.minimize(bound, entries, method="Nelder-Mead", options={"maxiter": 5000}).x
    assert np.linalg.norm(step, 2) <= 1 + 1e-4
    assert np.abs(q.T @ step + step.T @ q).max() < 0.01
    assert np.vdot(slope, step) == pytest.approx(bound(entries), rel=0.01)


@pytest.mark.parametrize(("norm", "constraint", "shape"), ROUND[:4] + STIEFEL, ids=name)
def test_descent_ends_where_a_generic_solver_ends(norm, constraint, shape, key):
    spec, start = held(norm, constraint, shape, key)
    target = random_like(jax.random.key(1), shape)
    weights = jnp.linspace(0.5, 2.0, target.size).reshape(shape)

    def loss(w):
        return jnp.sum(weights * (w - target) ** 2)

    steps = 300
    rate = lambda count: 0.2 * (1 - count.astype(jnp.float32) / steps)  # noqa: E731
    tx = optax.chain(mo.dualize(spec), optax.scale_by_learning_rate(rate), mo.keep_params_projected(spec))

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (untyped(optax.apply_updates(params, updates)), state), None

    (end, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=steps)
    held_to = [{"type": "eq", "fun": lambda x: violation(norm, constraint, x.reshape(shape))}]
    numbers, factors = np.asarray(target, np.float64).ravel(), np.asarray(weights, np.float64).ravel()
    found = scipy.optimize.minimize(
        lambda x: factors @ (x - numbers) ** 2,
        np.asarray(start, np.float64).ravel(),
        jac=lambda x: 2 * factors * (x - numbers),
        method="SLSQP",
        constraints=held_to,
        options={"maxiter": 500},
    )
    assert found.success
    assert float(loss(end)) <= found.fun + 2e-3 * abs(found.fun)


def violation(norm, constraint, w):
    """How far an array is from the set, in as many numbers as it has conditions."""
    fan_in, fan_out = w.shape if w.ndim == 2 else (1, w.size)
    if isinstance(constraint, mo.Stiefel):
        small = w @ w.T if fan_in < fan_out else w.T @ w
        rank = min(w.shape)
        return (small * fan_in / fan_out - np.eye(rank))[np.triu_indices(rank)]
    if isinstance(norm, mo.Embedding):
        return np.mean(w**2, axis=1) - 1
    if isinstance(norm, mo.RowL2):
        return np.sum(w**2, axis=0) * fan_in - 1
    if isinstance(norm, mo.Frobenius):
        return np.array([np.sum(w**2) * fan_in / fan_out - 1])
    return np.array([np.mean(w**2) / constraint.radius**2 - 1])


@pytest.mark.parametrize(
    ("norm", "constraint", "shape"),
    [*ROUND[:4], (mo.Spectral(), mo.FixedNorm(), (5, 3)), *((mo.Spectral(), mo.Stiefel(3), shape) for shape in SHAPES)],
    ids=name,
)
def test_a_thousand_steps_stay_on_the_manifold(norm, constraint, shape, key):
    spec, start = held(norm, constraint, shape, key)
    tx = optax.chain(mo.dualize(spec), optax.scale(-0.1), mo.keep_params_projected(spec))

    def step(carry, k):
        params, state = carry
        updates, state = tx.update(random_like(k, shape), state, params)
        return (untyped(optax.apply_updates(params, updates)), state), None

    (end, _), _ = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, 1000))
    if isinstance(constraint, mo.FixedNorm):
        np.testing.assert_allclose(jnp.sum(end**2), jnp.sum(start**2), rtol=1e-4)
    else:
        np.testing.assert_allclose(violation(norm, constraint, np.asarray(end, np.float64)), 0.0, atol=1e-4)
    assert float(jnp.linalg.norm(end - start)) > 0.1


def test_masses_scale_steps_along_manifolds(key):
    spec, w = held(mo.Spectral(), mo.Stiefel(), (4, 4), key, mass=0.5, sensitivity=2.0)
    step = tangent(random_like(jax.random.key(1), (4, 4)), w, spec)
    assert float(mo.leaf_norms(step, spec)) == pytest.approx(0.25, rel=1e-3)


def test_taps_and_stacks_step_each_on_their_own(key):
    spec = mo.NormSpec(mo.Spectral(), mo.Axes(taps=0), constraint=mo.Stiefel(5))
    w = mo.project(random_like(key, (2, 6, 3)), spec)
    g = random_like(jax.random.key(1), (2, 6, 3))
    whole = tangent(g, w, spec)
    one = mo.NormSpec(mo.Spectral(), constraint=mo.Stiefel(5))
    for tap in range(2):
        np.testing.assert_allclose(whole[tap], tangent(g[tap], 2 * w[tap], one) / 2, atol=1e-4)


def test_directions_along_a_manifold_need_the_weights():
    tx = mo.dualize({"w": mo.NormSpec(mo.Spectral(), constraint=mo.Stiefel())})
    grads = {"w": jnp.ones((4, 4))}
    with pytest.raises(ValueError, match=r"tx.update\(grads, state, params\). Held to a manifold: w"):
        tx.update(grads, tx.init(grads))
