"""The steepest direction in a learned metric: its formula, that it is steepest, and where it is not used."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import modula_optax as mo
from tests.cases import enable_x64, untyped
from tests.test_whiten import averages_by_the_formula, bases_by_the_formula, gradients, updates_of

# to rounding, for comparisons with singular vectors
EXACT = mo.NormSpec(mo.Spectral("classical", steps=60))


def metric_by_the_formula(grads, b2, every, sides, damping):
    """Of every step, the roots of both moments as matrices, from eigenvalues as old as their eigenvectors."""
    roots = [np.eye(k) for k in grads[0].shape]
    for t, (moments, bases) in enumerate(bases_by_the_formula(grads, b2, every, sides), 1):
        for i, (moment, basis) in enumerate(zip(moments, bases, strict=True)):
            if sides[i] and t % every == 0:
                values = np.diag(basis.T @ moment @ basis)
                roots[i] = (basis * (values / values.mean() + damping) ** 0.25) @ basis.T
        yield roots[0].copy(), roots[1].copy()


def polar_factor(x):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def steepest_by_the_formula(grads, b1=0.9, b2=0.9, every=10, nesterov=True, sides=(True, True), damping=0.3):
    rows, columns = grads[0].shape
    averages = averages_by_the_formula(grads, b1, nesterov)
    for m, (left, right) in zip(averages, metric_by_the_formula(grads, b2, every, sides, damping), strict=True):
        left, right = np.linalg.inv(left), np.linalg.inv(right)
        direction = np.sqrt(columns / rows) * polar_factor(left @ m @ right)
        u = left @ direction @ right
        yield u * np.linalg.norm(direction) / np.linalg.norm(u)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((6, 10), {}),
        ((10, 6), {"every": 7, "b2": 0.97, "damping": 0.01}),
        ((5, 5), {"every": 2, "nesterov": False, "b1": 0.5}),
        ((4, 9), {"max_size": 8, "every": 3}),
        ((9, 10), {"max_size": 8, "every": 3}),
    ],
    ids=["defaults", "tall", "square", "one side", "no side"],
)
def test_fifty_steps_are_those_of_the_formula(shape, arguments):
    sides = tuple(size <= arguments.get("max_size", np.inf) for size in shape)
    numbers = {name: value for name, value in arguments.items() if name != "max_size"}
    with enable_x64(True):
        grads = gradients(shape, 50)
        ours = updates_of(mo.dualize_whitened(EXACT, **arguments), grads)
    expected = np.stack(list(steepest_by_the_formula(grads, **numbers, sides=sides)))
    np.testing.assert_allclose(ours, expected, atol=1e-5 * abs(expected).max())


@pytest.mark.optimized
@pytest.mark.parametrize("max_size", [300, 2048], ids=["one side", "both sides"])
@pytest.mark.parametrize("shape", [(24, 40), (256, 320), (320, 256)], ids=str)
def test_default_coefficients_have_the_direction_of_the_formula_and_its_length(shape, max_size):
    """By Gram matrices alone: polynomials of small ones, a rational function of large ones."""
    grads = np.random.default_rng(0).standard_normal((8, *shape)) * np.geomspace(1, 0.3, shape[1])
    tx = mo.dualize_whitened(mo.NormSpec(mo.Spectral()), every=3, max_size=max_size)
    ours = updates_of(tx, grads.astype(np.float32))
    sides = tuple(size <= max_size for size in shape)
    for u, expected in zip(ours, steepest_by_the_formula(grads, every=3, sides=sides), strict=True):
        lengths = np.linalg.norm(u), np.linalg.norm(expected)
        assert lengths[0] == pytest.approx(lengths[1], rel=3e-3)
        assert np.sum(u * expected) > 0.999 * lengths[0] * lengths[1]


def test_no_direction_of_its_norm_is_steeper():
    """<M, u> is the norm of u, the largest singular value of L^1/4 u R^1/4, times the dual norm of M."""
    with enable_x64(True):
        grads = gradients((6, 10), 25)
        directions = updates_of(mo.dualize_whitened(EXACT, every=4), grads)
    averages = averages_by_the_formula(grads, 0.9, True)
    metrics = metric_by_the_formula(grads, 0.9, 4, (True, True), 0.3)
    for u, m, (left, right) in zip(directions, averages, metrics, strict=True):
        norm = np.linalg.norm(left @ u @ right, 2)
        dual_norm = np.linalg.norm(np.linalg.inv(left) @ m @ np.linalg.inv(right), "nuc")
        np.testing.assert_allclose(np.sum(m * u), norm * dual_norm, rtol=1e-5)


def test_rotated_gradients_have_rotated_updates():
    rng = np.random.default_rng(1)
    a, b = (np.linalg.qr(rng.standard_normal((size, size)))[0] for size in (6, 10))
    with enable_x64(True):
        grads = gradients((6, 10), 30)
        tx = mo.dualize_whitened(EXACT, every=4)
        plain, rotated = updates_of(tx, grads), updates_of(tx, a @ grads @ b.T)
    np.testing.assert_allclose(rotated, a @ plain @ b.T, atol=1e-5 * abs(plain).max())


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-30, 2.0**60, 2.0**100])
def test_the_scale_of_gradients_does_not_matter(scale):
    grads = gradients((6, 10), 12, dtype=np.float32)
    tx = mo.dualize_whitened(mo.NormSpec(mo.Spectral()), every=4)
    plain, scaled = updates_of(tx, grads), updates_of(tx, np.float32(scale) * grads)
    np.testing.assert_allclose(scaled, plain, atol=1e-4)


@pytest.mark.parametrize("norm", [EXACT.norm, mo.Frobenius(), mo.SpectralNormalized()], ids=lambda n: type(n).__name__)
def test_updates_are_as_long_as_those_without_a_metric(norm):
    spec = mo.NormSpec(norm, mass=3.0)
    with enable_x64(True):
        grads = gradients((8, 8), 30)
        ours = updates_of(mo.dualize_whitened(spec, every=4), grads)
        plain = updates_of(optax.chain(mo.scale_by_momentum(), mo.dualize(spec)), grads)
    if isinstance(norm, mo.SpectralNormalized):
        # between the length of one singular value and that of all
        assert (np.linalg.norm(ours, axis=(1, 2)) >= 3.0 - 1e-3).all()
        assert (np.linalg.norm(ours, axis=(1, 2)) <= 3.0 * np.sqrt(8) + 1e-3).all()
    else:
        lengths = (np.linalg.norm(updates, axis=(1, 2)) for updates in (ours, plain))
        np.testing.assert_allclose(*lengths, rtol=1e-4)


@pytest.mark.parametrize(
    "g",
    [np.zeros((5, 7)), np.outer(np.arange(5.0), np.ones(7)), np.ones((256, 300)), np.eye(5, 7)],
    ids=["zero", "rank one", "large, of rank one", "identity"],
)
def test_degenerate_gradients_have_the_direction_that_they_have_without_a_metric(g):
    """There is nothing to be learned of a gradient that is always the same, where its singular values are alike."""
    spec = mo.NormSpec(mo.Spectral())
    updates = updates_of(mo.dualize_whitened(spec, every=2), np.stack([g] * 8).astype(np.float32))
    plain = np.asarray(spec.norm.dualize(jnp.asarray(g, jnp.float32)[None])[0])
    np.testing.assert_allclose(updates, np.stack([plain] * 8), atol=2e-3)


def test_a_matrix_that_is_not_finite_spoils_no_other():
    grads = gradients((2, 5, 7), 6, dtype=np.float32)
    tx = mo.dualize_whitened(mo.NormSpec(mo.Spectral()), every=2)
    alone = updates_of(tx, grads[:, 1:])
    grads[3, 0, 2, 2] = np.nan
    updates = updates_of(tx, grads)
    assert np.isfinite(updates[:3]).all()
    assert np.isnan(updates[3:, 0]).all()
    np.testing.assert_allclose(updates[:, 1], alone[:, 0], atol=1e-4)


def test_other_norms_and_constraints_have_their_own_dual_map():
    shapes = {"taps": (3, 8, 6), "held": (8, 6), "cap": (8, 6), "table": (9, 4), "bias": (6,)}
    specs = {
        "taps": mo.NormSpec(mo.Spectral(), mo.Axes(fan_in=1, fan_out=2, taps=0), mass=2.0),
        "held": mo.NormSpec(mo.Spectral(), constraint=mo.Stiefel()),
        "cap": mo.NormSpec(mo.Spectral(), constraint=mo.SpectralCap()),
        "table": mo.NormSpec(mo.Embedding(), sensitivity=4.0),
        "bias": mo.NormSpec(mo.RMS()),
    }
    rng = np.random.default_rng(2)
    grads = [{name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}] * 5

    params = grads[0] | {"held": jnp.linalg.qr(grads[0]["held"])[0]}

    def last(tx):
        state, step = tx.init(params), jax.jit(tx.update)
        for g in grads:
            updates, state = step(g, state, params)
        return updates

    free = {name: mo.NormSpec(mo.Spectral()) if name == "held" else spec for name, spec in specs.items()}
    ours = last(mo.dualize_whitened(specs, every=3))
    chained = last(optax.chain(mo.scale_by_whitened_momentum(free, every=3), mo.dualize(specs)))
    for name in ("held", "cap", "table", "bias"):
        np.testing.assert_allclose(ours[name], chained[name], atol=2e-4, err_msg=name)
    assert abs(ours["taps"] - chained["taps"]).max() > 0.01


class Half(mo.Spectral):
    """Steps of half the length."""

    def dualize(self, g):
        return 0.5 * super().dualize(g)


def test_a_norm_derived_from_another_has_its_own_dual_map():
    grads = gradients((5, 9), 4, dtype=np.float32)
    whole, half = (
        updates_of(mo.dualize_whitened(mo.NormSpec(norm), every=2), grads) for norm in (mo.Spectral(), Half())
    )
    np.testing.assert_allclose(half, whole / 2, atol=1e-4)


def test_specs_may_be_a_registry_or_a_function():
    grads = gradients((4, 6, 5), 4, dtype=np.float32)
    rules = mo.NormRegistry(mo.Rule(r".*", mo.Spectral()))
    of_tree, of_rules, of_function = (
        updates_of(mo.dualize_whitened(specs, every=2), grads)
        for specs in (mo.NormSpec(mo.Spectral()), rules, lambda params: mo.NormSpec(mo.Spectral()))
    )
    np.testing.assert_array_equal(of_tree, of_rules)
    np.testing.assert_array_equal(of_tree, of_function)


def test_sizes_of_the_state_are_those_of_the_table():
    tx = mo.dualize_whitened(mo.NormSpec(mo.Spectral()))
    state = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((768, 768), jnp.float32))
    assert round(sum(x.size for x in jax.tree.leaves(state)) / 768**2, 1) == 5.0


def test_eight_devices_take_the_steps_of_one():
    spec = mo.NormSpec(mo.Spectral())
    tx = untyped(mo.dualize_whitened(spec, every=2))
    grads = gradients((5, 12, 16, 24), 5, dtype=np.float32)[0]

    def trained(grads):
        state, step = tx.init(grads[0]), jax.jit(tx.update)
        for g in grads:
            updates, state = step(g, state)
        return updates

    alone = trained(list(map(jnp.asarray, grads)))
    mesh = jax.make_mesh((8,), ("data",))
    with jax.set_mesh(mesh):
        together = trained([jax.device_put(g, NamedSharding(mesh, P(None, "data"))) for g in grads])
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_the_alias_is_the_chain_of_its_links():
    specs = {"kernel": mo.NormSpec(mo.Spectral()), "cap": mo.NormSpec(mo.Spectral(), constraint=mo.SpectralCap())}
    rng = np.random.default_rng(2)
    draw = lambda: {name: jnp.asarray(rng.standard_normal((8, 6)), jnp.float32) for name in specs}  # noqa: E731
    params, grads = draw(), [draw() for _ in range(7)]
    links = (
        mo.dualize_whitened(specs, every=3),
        optax.add_decayed_weights(0.03, {"kernel": True, "cap": False}),
        optax.scale_by_learning_rate(0.1),
        mo.keep_params_projected(specs, learning_rate=0.1),
    )

    def last(tx):
        state, step = tx.init(params), jax.jit(tx.update)
        for g in grads:
            updates, state = step(g, state, params)
        return updates

    alias = last(mo.whitened(0.1, specs, every=3, weight_decay_mask={"kernel": True, "cap": False}))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), alias, last(optax.chain(*links)))


def test_a_function_in_place_of_specs_is_asked_once():
    asked = []

    def specs(tree):
        asked.append(tree)
        return mo.NormSpec(mo.Spectral())

    grads = {"w": jnp.eye(4)}
    tx = mo.dualize_whitened(specs)
    tx.update(grads, tx.init(grads))
    assert len(asked) == 1


def test_more_layers_than_fit_a_turn_are_each_whitened_as_alone():
    """Ninety layers of one stack, where some forty are worked on at a time."""
    grads = gradients((90, 64, 64), 5, dtype=np.float32)
    tx = mo.dualize_whitened(mo.NormSpec(mo.Spectral()), every=2)
    np.testing.assert_allclose(updates_of(tx, grads)[:, 77], updates_of(tx, grads[:, 77]), atol=2e-4)
