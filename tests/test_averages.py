"""Averages over training, and moments of output units, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from tests.cases import enable_x64, normal, untyped


def test_the_average_is_that_of_the_last_parameters():
    w, updates, b = normal(0, 4), normal(1, 50, 4), 0.9
    with enable_x64(True):
        tx = untyped(mo.average_params(b))
        params, state = jnp.asarray(w), tx.init(jnp.asarray(w))
        np.testing.assert_array_equal(mo.averaged_params(state, params), w)
        step = jax.jit(tx.update)
        for u in updates:
            passed, state = step(jnp.asarray(u), state, params)
            np.testing.assert_array_equal(passed, u)
            params = params + passed
        blended = mo.averaged_params(state, params, share=0.25)
    path = w + np.cumsum(updates, axis=0)
    weights = b ** np.arange(49, -1, -1)
    expected = weights @ path / weights.sum()
    np.testing.assert_allclose(blended, 0.75 * path[-1] + 0.25 * expected, rtol=1e-9)


def test_averages_are_found_in_the_state_of_an_optimizer_and_masked_parameters_stay():
    params = {"w": jnp.zeros(2), "frozen": jnp.ones(3)}
    averages = optax.chain(optax.sgd(1.0), mo.average_params(0.5), mo.look_along_average(2.0, 0.5))
    tx = optax.masked(averages, {"w": True, "frozen": False})
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    np.testing.assert_array_equal(mo.averaged_params(state, params, share=1.0)["w"], [-1.0, -1.0])
    behind = mo.params_behind(state, optax.apply_updates(params, updates))
    np.testing.assert_array_equal(behind["w"], [-1.0, -1.0])
    assert behind["frozen"].shape == (3,)


@pytest.mark.parametrize("read", [mo.averaged_params, mo.params_behind])
def test_what_holds_no_average_of_these_parameters_is_refused(read):
    params, both = {"w": jnp.ones(2)}, optax.chain(mo.average_params(), mo.look_along_average())
    state = both.init(params)
    for other in (optax.sgd(0.1).init(params), None, params, (state, state)):
        with pytest.raises(
            ValueError, match=r"must hold that of one (average_params|look_along_average), and holds [02]"
        ):
            read(other, params)
    for others in ({"v": jnp.ones(2)}, {"w": jnp.ones(3)}):
        with pytest.raises(ValueError, match="as this state knows"):
            read(state, others)


def test_averages_of_half_precision_are_kept_in_float32():
    tx, w = untyped(mo.average_params(0.999)), jnp.full(3, 1.0, jnp.bfloat16)
    state = tx.init(w)
    for _ in range(3):
        _, state = tx.update(jnp.full(3, 0.5, jnp.bfloat16), state, w)
    assert state.average.dtype == jnp.float32
    assert mo.averaged_params(state, w, share=1.0).dtype == jnp.bfloat16
    np.testing.assert_allclose(state.average, 1.5, rtol=1e-6)


def test_gradients_are_taken_ahead_and_the_parameters_follow_from_the_points():
    """On a parabola, against the two-line recursion of the docstring."""
    k, b, rate, hessian = 3.0, 0.8, 0.1, np.array([1.0, 4.0])
    w, e = normal(0, 2), np.zeros(2)
    with enable_x64(True):
        tx = untyped(optax.chain(optax.sgd(rate), mo.look_along_average(k, b)))
        y, state = jnp.asarray(w), tx.init(jnp.asarray(w))
        for _ in range(50):
            step = -rate * hessian * (w + k * e)
            w, e = w + step, b * e + (1 - b) * step
            u, state = tx.update(hessian * y, state, y)
            y = y + u
        np.testing.assert_allclose(y, w + k * e, rtol=1e-9)
        np.testing.assert_allclose(mo.params_behind(state[1], y), w, rtol=1e-9)


def normuon(updates, b2=0.95, eps=1e-8):
    """Algorithm 1 of arXiv:2510.05491 after its Newton-Schulz step: rows are output units."""
    v = np.zeros(updates.shape[1])
    for o in updates:
        v = b2 * v + (1 - b2) * np.mean(o * o, axis=1)
        scaled = o / (np.sqrt(v)[:, None] + eps)
        yield 0.2 * np.sqrt(o.size) / np.linalg.norm(scaled) * scaled


@pytest.mark.parametrize("rms", [0.2, None])
@pytest.mark.parametrize("layout", ["output first", "input first"])
def test_moments_of_output_units_are_those_of_normuon(layout, rms):
    updates = normal(0, 50, 6, 9) * np.logspace(0, 2, 6)[:, None]
    axes = mo.Axes(fan_in=-1, fan_out=-2) if layout == "output first" else None
    turn = (lambda x: x) if layout == "output first" else np.transpose
    with enable_x64(True):
        tx = mo.scale_by_output_moments(mo.NormSpec(mo.Spectral(), axes), rms=rms)
        state, step, ours = tx.init(jnp.asarray(turn(updates[0]))), jax.jit(tx.update), []
        for u in updates:
            v, state = step(jnp.asarray(turn(u)), state)
            ours.append(turn(np.asarray(v)))
    expected = np.stack(list(normuon(updates)))
    if rms is None:
        lengths = [np.linalg.norm(x, axis=(1, 2), keepdims=True) for x in (updates, expected)]
        expected = expected * lengths[0] / lengths[1]
    np.testing.assert_allclose(np.stack(ours), expected, rtol=1e-6)


def test_output_units_without_updates_and_other_norms():
    specs = {"w": mo.NormSpec(mo.Spectral()), "b": mo.NormSpec(mo.RMS())}
    updates = {"w": jnp.zeros((3, 4)).at[:, 1].set(2.0), "b": jnp.ones(3)}
    tx = untyped(mo.scale_by_output_moments(specs))
    moved, state = tx.update(updates, tx.init(updates))
    np.testing.assert_allclose(moved["w"], updates["w"], rtol=1e-6)
    np.testing.assert_array_equal(moved["b"], updates["b"])
    assert jnp.isnan(tx.update({**updates, "w": updates["w"].at[0, 0].set(jnp.nan)}, state)[0]["w"]).any()
