"""Thousands of steps on gradients that no one would want: all finite, no step too large."""

import jax
import jax.numpy as jnp
import optax
import pytest

import modula_optax as mo

pytestmark = pytest.mark.long
SHAPES = {"kernel": (6, 4), "stack": (2, 4, 3), "table": (5, 4), "bias": (4,)}
DTYPES = (jnp.float32, jnp.bfloat16)
FREE = mo.NormRegistry(
    mo.Rule(r".*/table", mo.Embedding(), mass=0.5),
    mo.Rule(r".*/bias", mo.RMS()),
    mo.Rule(r".*/(kernel|stack)", mo.Spectral(), sensitivity=2.0),
)
HELD = mo.NormRegistry(
    mo.Rule(r".*/table", mo.Embedding(), constraint=mo.UnitSphere()),
    mo.Rule(r".*/bias", mo.RMS(), constraint=mo.Hypersphere(1.0)),
    mo.Rule(r".*/kernel", mo.Spectral(), constraint=mo.SpectralCap(1.0)),
    mo.Rule(r".*/stack", mo.Spectral(), constraint=mo.NormBall(1.0)),
)


@pytest.fixture(scope="module")
def steps(long):
    return 20_000 if long else 400


def tree_of(make):
    return {
        jnp.dtype(dtype).name: {name: make(i, shape, dtype) for i, (name, shape) in enumerate(SHAPES.items())}
        for dtype in DTYPES
    }


def storm(count, period):
    """Gradients without a mean, spikes of 1e20, stretches of zeros - of single parameters, and of all together."""
    key = jax.random.fold_in(jax.random.key(0), count)
    spike = jnp.where(count % 37 == 5, 1e20, 1.0)

    def gradient(i, shape, dtype):
        silent = (count % period > 0.8 * period) | ((count + i * period // 4) % period > 0.7 * period)
        g = jax.random.cauchy(jax.random.fold_in(key, i), shape) * spike
        return jnp.where(silent, 0.0, g).astype(dtype)

    return tree_of(gradient)


def weather(tx, specs, params, steps):
    """For every step: whether all was finite, and the modular norms of the step and of the weights after it."""

    def step(carry, count):
        params, state = carry
        updates, state = tx.update(storm(count, steps // 4), state, params)
        params = optax.apply_updates(params, updates)
        finite = [jnp.isfinite(x).all() for x in jax.tree.leaves((params, state, updates))]
        return (params, state), (jnp.stack(finite).all(), by_dtype(updates, specs), by_dtype(params, specs))

    return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), jnp.arange(steps))[1])(params)


def by_dtype(tree, specs):
    return {name: mo.modular_norm({name: part}, specs) for name, part in tree.items()}


def assert_at_most(size, found, rounding):
    assert found["float32"].max() <= size * 1.0001
    assert found["bfloat16"].max() <= size * rounding


def start(specs):
    return mo.initialize(jax.random.key(1), tree_of(lambda i, shape, dtype: jax.ShapeDtypeStruct(shape, dtype)), specs)


def test_no_step_is_larger_than_its_target(steps):
    finite, moved, _ = weather(mo.modular(0.1, FREE, weight_decay=0.0), FREE, start(FREE), steps)
    assert finite.all()
    assert_at_most(0.1, moved, 1.01)


def test_frank_wolfe_never_leaves_its_balls(steps):
    inside = jax.tree.map(lambda p: p / 2, start(FREE))
    finite, _, size = weather(mo.scion(0.1, FREE, constrained=True), FREE, inside, steps)
    assert finite.all()
    # the sum is rounded to 8 bits at every step, and a step takes back a tenth of what is too much
    assert_at_most(1.0, size, 1.05)


def test_constraints_hold_at_every_step(steps):
    finite, _, size = weather(mo.modular(0.1, HELD, weight_decay=0.01), HELD, start(HELD), steps)
    assert finite.all()
    assert_at_most(1.0, size, 1.01)
