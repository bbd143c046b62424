"""What the recipes promise: wrappers of Optax, and layers of every layout, against the same steps taken one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from tests.cases import random_like, untyped

SPECTRAL = mo.NormSpec(mo.Spectral())
SHAPES = {"embed": (7, 4), "hidden": {"kernel": (4, 4)}, "head": {"kernel": (4, 7)}}
REGISTRY = mo.NormRegistry(
    mo.Rule(r"embed", mo.Embedding(), constraint=mo.UnitSphere()),
    mo.Rule(r".*/kernel", mo.Spectral(), constraint=mo.UnitSphere()),
)
FREE = mo.NormRegistry(mo.Rule(r"embed", mo.Embedding()), mo.Rule(r".*/kernel", mo.Spectral()))
TOKENS = jnp.arange(7)


def parameters(seed, dtype=jnp.float32):
    shapes, treedef = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return treedef.unflatten([random_like(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)])


def loss(params):
    """Cross-entropy of a successor table."""
    logits = jnp.tanh(params["embed"] @ params["hidden"]["kernel"]) @ params["head"]["kernel"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.roll(TOKENS, 1)).mean()


def trained(tx, params, steps, evaluate=lambda state, params: params):
    """Losses before and after, and the parameters that are evaluated."""

    @jax.jit
    def train(params):
        def step(_, carry):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        params, state = jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))
        params = evaluate(state, params)
        return params, loss(params)

    return train(params)


def direction(spec, g):
    """One dual map."""
    return jax.jit(lambda g: mo.dualize(spec).update(g, optax.EmptyState())[0])(g)


def assert_close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def assert_on_their_spheres(params):
    for values in jax.tree.leaves(mo.leaf_norms(params, REGISTRY)):
        np.testing.assert_allclose(values, 1.0, atol=1e-4)


# the training loop


def test_k_microbatches_are_one_step_on_their_mean():
    params, alone = parameters(0), mo.modular(0.1, FREE)
    tx = optax.MultiSteps(alone, every_k_schedule=3)
    update, state = jax.jit(tx.update), tx.init(params)
    batches = [parameters(seed) for seed in (1, 2, 3)]
    for batch in batches:
        updates, state = update(batch, state, params)
    mean = jax.tree.map(lambda *g: sum(g) / 3, *batches)
    assert_close(updates, jax.jit(alone.update)(mean, alone.init(params), params)[0])


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**15])
def test_a_scaled_loss_takes_the_steps_of_the_loss_itself(scale):
    params, tx = parameters(0), mo.modular(0.1, FREE)
    scaled = optax.chain(optax.scale(scale), tx)
    assert_close(trained(scaled, params, 3)[0], trained(tx, params, 3)[0])


def test_an_overflow_is_skipped_and_leaves_no_trace():
    params, grads = parameters(0), parameters(1)
    tx = optax.apply_if_finite(mo.modular(0.1, REGISTRY), max_consecutive_errors=3)
    update = jax.jit(tx.update)
    overflow = jax.tree.map(lambda g: jnp.full_like(g, jnp.inf), grads)
    skipped, state = update(overflow, tx.init(params), params)
    assert not any(u.any() for u in jax.tree.leaves(skipped))
    updates, _ = update(grads, state, params)
    assert_close(updates, update(grads, tx.init(params), params)[0])


@pytest.mark.parametrize(("dtype", "remembers"), [(jnp.float32, True), (jnp.bfloat16, False)])
def test_momentum_in_float32_reaches_the_average_at_which_bfloat16_gets_stuck(dtype, remembers):
    tx = mo.scale_by_momentum(0.99, accumulator_dtype=dtype)
    grads = jnp.ones(4, jnp.bfloat16)
    state = jax.jit(lambda state: jax.lax.fori_loop(0, 400, lambda _, s: tx.update(grads, s)[1], state))(tx.init(grads))
    reached = np.allclose(np.asarray(state.mu, np.float32), 1 - 0.99**400, rtol=0.01)
    assert reached == remembers


def test_an_average_of_weights_is_put_back_on_their_spheres():
    start = jax.jit(lambda p: mo.project(p, REGISTRY))(parameters(0))
    end, _ = trained(mo.modular(0.2, REGISTRY), start, 5)
    average = optax.incremental_update(end, start, step_size=0.5)
    assert float(mo.leaf_norms(average, REGISTRY)["hidden"]["kernel"]) < 0.999
    assert_on_their_spheres(jax.jit(lambda p: mo.project(p, REGISTRY))(average))


def test_what_is_frozen_stays_and_the_rest_moves_as_if_alone():
    params, grads = parameters(0), parameters(1)
    labels = {"embed": "frozen", "hidden": "trained", "head": "trained"}
    tx = optax.partition(
        {"trained": mo.modular(0.1, REGISTRY, weight_decay=0.1), "frozen": optax.set_to_zero()}, labels
    )
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    assert not updates["embed"].any()
    whole = mo.modular(0.1, REGISTRY, weight_decay=0.1)
    expected, _ = jax.jit(whole.update)(grads, whole.init(params), params)
    assert_close(updates["hidden"], expected["hidden"])


def test_schedule_free_trains_and_its_averages_are_projected():
    params = jax.jit(lambda p: mo.project(p, REGISTRY))(parameters(0))
    base = optax.chain(mo.dualize(REGISTRY), optax.scale_by_learning_rate(0.1))
    tx = optax.contrib.schedule_free(base, learning_rate=0.1, b1=0.9)

    def evaluate(state, params):
        return mo.project(optax.contrib.schedule_free_eval_params(state, params), REGISTRY)

    evaluated, after = trained(tx, params, 30, evaluate)
    assert after < 0.7 * loss(params)
    assert_on_their_spheres(evaluated)


def test_sam_climbs_by_the_norm_it_is_given_trains_and_keeps_constraints():
    params = jax.jit(lambda p: mo.project(p, REGISTRY))(parameters(0))
    worst = optax.chain(mo.dualize(REGISTRY), optax.scale_by_learning_rate(0.05))
    tx = optax.contrib.sam(mo.modular(0.1, REGISTRY), worst, sync_period=2)
    climb, _ = jax.jit(tx.update)(jax.grad(loss)(params), tx.init(params), params)
    assert mo.modular_norm(climb, REGISTRY) == pytest.approx(0.05, rel=1e-3)
    assert loss(optax.apply_updates(params, climb)) > loss(params)
    end, after = trained(tx, params, 40)
    assert after < 0.7 * loss(params)
    assert_on_their_spheres(end)


# the layers of a model


def test_scan_over_layers_takes_exactly_the_steps_of_the_unrolled_model(key):
    layers = random_like(key, (3, 4, 4)) / 2
    x = random_like(jax.random.key(1), (5, 4))

    def scanned(p):
        return jnp.sum(jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, p["layers"])[0] ** 2)

    def unrolled(p):
        y = x
        for i in range(3):
            y = y + jnp.tanh(y @ p[f"layer_{i}"])
        return jnp.sum(y**2)

    def run(loss, params):
        tx = mo.modular(0.1, mo.NormSpec(mo.Spectral(), constraint=mo.SpectralCap(1.2)), weight_decay=0.1)

        def step(_, carry):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        return jax.jit(lambda p: jax.lax.fori_loop(0, 4, step, (p, tx.init(p)))[0])(params)

    together = run(scanned, {"layers": layers})["layers"]
    apart = run(unrolled, {f"layer_{i}": layers[i] for i in range(3)})
    # what the cap leaves undecided in singular values at the radius: 3e-5 a step
    assert_close(together, jnp.stack([apart[f"layer_{i}"] for i in range(3)]), atol=1e-4)


# what a kernel is made of, its axes, and how to take it to pieces
LAYOUTS = {
    "ensemble or experts": ((3, 4, 6), None, lambda g: list(g)),
    "layers on axis 1": ((4, 3, 6), mo.Axes(fan_in=0, fan_out=2), lambda g: list(g.transpose(1, 0, 2))),
    "fused, by block": ((8, 12), mo.Axes(fan_in=0, fan_out=1, groups=3), lambda g: jnp.split(g, 3, axis=1)),
    "query heads": ((8, 3, 4), mo.Axes(fan_in=0, fan_out=2), lambda g: [g[:, i] for i in range(3)]),
    "output heads": ((3, 4, 8), mo.Axes(fan_in=1, fan_out=2), lambda g: list(g)),
    "grouped queries, fused": (
        (8, (4 + 1 + 1) * 2),
        mo.Axes(fan_in=0, fan_out=1, groups=6),
        lambda g: [g[:, 2 * i : 2 * i + 2] for i in range(6)],
    ),
}


@pytest.mark.parametrize(("shape", "axes", "pieces"), LAYOUTS.values(), ids=LAYOUTS)
def test_pieces_of_a_kernel_are_dualized_as_if_apart(shape, axes, pieces, key):
    g = random_like(key, shape)
    whole = direction(mo.NormSpec(mo.Spectral(), axes), g)
    apart = direction(SPECTRAL, dict(enumerate(pieces(g))))
    for i, piece in enumerate(pieces(whole)):
        np.testing.assert_allclose(piece, apart[i], atol=1e-5)


def test_heads_together_are_one_matrix(key):
    g = random_like(key, (8, 3, 4))
    together = direction(mo.NormSpec(mo.Spectral(), mo.Axes(fan_in=0, fan_out=(1, 2))), g)
    np.testing.assert_allclose(together.reshape(8, 12), direction(SPECTRAL, g.reshape(8, 12)), atol=1e-5)


def test_keys_with_fewer_heads_have_steps_of_the_same_norm(key):
    def attention(p, x):
        q = jnp.einsum("btd,dnh->btnh", x, p["query"]).reshape(2, 5, 2, 2, 3)
        k, v = (jnp.einsum("btd,dmh->btmh", x, p[name]) for name in ("key", "value"))
        weights = jax.nn.softmax(jnp.einsum("btmgh,bsmh->bmgts", q, k))
        return jnp.einsum("bmgts,bsmh->btmgh", weights, v).reshape(2, 5, 12) @ p["out"]

    shapes = {"query": (8, 4, 3), "key": (8, 2, 3), "value": (8, 2, 3), "out": (12, 8)}
    params = {name: random_like(key, shape) for name, shape in shapes.items()}
    specs = mo.infer_specs(attention, params, jnp.ones((2, 5, 8)))
    assert {specs[name].axes for name in ("query", "key", "value")} == {mo.Axes(fan_in=0, fan_out=(1, 2))}
    masses = {name: spec.mass for name, spec in specs.items()}
    # fewer heads are fewer outputs, which see fewer of the inputs
    assert masses == pytest.approx({"query": 1.0, "key": (8 / 6) ** 0.5, "value": (8 / 6) ** 0.5, "out": 12**0.5})
    for name, values in mo.leaf_norms(direction(specs, params), specs).items():
        np.testing.assert_allclose(values, masses[name], rtol=1e-3)


def test_an_expert_that_no_token_reached_does_not_move(key):
    g = random_like(key, (3, 4, 6)).at[1].set(0.0)
    assert not direction(SPECTRAL, g)[1].any()


def test_a_step_of_a_lora_pair_moves_their_product_by_no_more_than_promised(key):
    keys = jax.random.split(key, 5)
    params = {
        "base": random_like(keys[0], (6, 6)),
        "a": random_like(keys[1], (6, 2)),
        "b": random_like(keys[2], (2, 6)),
    }
    pair = mo.NormRegistry(mo.Rule(r"a|b", mo.Spectral()), mo.Rule(r"base", mo.Unnormed()))
    tx = mo.modular(0.1, pair, fallback=optax.set_to_zero())
    grads = jax.tree.map(lambda p: random_like(keys[3], p.shape), params)
    moved = untyped(optax.apply_updates(params, jax.jit(tx.update)(grads, tx.init(params), params)[0]))
    np.testing.assert_array_equal(moved["base"], params["base"])
    difference = mo.modular_norm(moved["a"] @ moved["b"] - params["a"] @ params["b"], SPECTRAL)
    norms = mo.leaf_norms(params, pair)
    bound = 0.1 * (norms["a"] + norms["b"]) + 0.01
    assert 0.05 * bound < difference <= bound


def test_a_step_of_a_tied_table_bounds_every_logit_and_every_entry(key):
    table = random_like(key, (9, 4))
    spec = mo.NormSpec(mo.Sign(), mo.Axes(fan_in=1, fan_out=0))
    step = direction(spec, table)
    features = random_like(jax.random.key(1), (50, 4))
    features = features / jnp.sqrt(jnp.mean(features**2, axis=-1, keepdims=True))
    assert jnp.max(jnp.abs(features @ step.T)) <= 1 + 1e-6
    assert jnp.max(jnp.abs(jnp.sign(table) @ step.T)) == pytest.approx(1.0)
    np.testing.assert_allclose(jnp.abs(step), 1 / 4)
