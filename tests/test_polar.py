"""The polar factor against SVDs of matrices whose singular values are prescribed."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modula_optax as mo
from modula_optax._coefficients import COEFFICIENTS, Rational, polynomials_of, resolve_coefficients
from modula_optax._polar import polar_by_formula
from tests.cases import SPECTRA, enable_x64, untyped, with_spectrum

pytestmark = [pytest.mark.usefixtures("strict_promotion"), pytest.mark.optimized]

SHAPES = [(12, 12), (12, 40), (40, 12)]
OURS = ("three-step", "four-step")
# of the bound on the largest singular value that each is designed for
ORDERS = {"three-step": 8, "four-step": 8, "rational": 4}

# the first eight for a lower bound of 1e-3 that Amsel et al. print
PUBLISHED = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def scalar_response(coefficients, values) -> Any:
    """What the functions make of single singular values, computed without any matrix."""
    for step in coefficients:
        if isinstance(step, Rational):
            values = step.gain * values * (1 + sum(a / (values**2 + p) for a, p in step.terms))
        else:
            values = sum(c * values ** (2 * k + 1) for k, c in enumerate(step))
    return values


def schatten(values, order):
    return max(np.sum(values**order) ** (1 / order), 1e-300)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("name", [*COEFFICIENTS, "express"])
def test_every_singular_value_goes_through_the_polynomials_and_no_vector_turns(name, spectrum, shape):
    coefficients = PUBLISHED if name == "express" else COEFFICIENTS[name]
    x, u, v = with_spectrum(0, shape, spectrum)
    scaled = spectrum / schatten(spectrum, ORDERS.get(name, 2))
    expected = (u * scalar_response(coefficients, scaled)) @ v.T
    got = mo.polar(jnp.asarray(x, jnp.float32), PUBLISHED if name == "express" else name)
    # the product of the leading coefficients, 1e3 and more, amplifies rounding; in Gram form, its square does so for
    # singular values below 1e-3, which the polynomials leave far from 1 in any case
    faithful = shape[0] == shape[1] or spectrum[-1] > 1e-3
    np.testing.assert_allclose(got, expected, atol=5e-4 if faithful else 5e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["orthogonal", "linear", "condition 1e2"])
def test_the_default_agrees_with_the_svd_to_its_stated_tolerance(name, shape):
    x, u, v = with_spectrum(1, shape, SPECTRA[name])
    difference = np.asarray(mo.polar(jnp.asarray(x, jnp.float32))) - u @ v.T
    # all singular values are at least 0.8 % of the bound, where the three steps reach 0.99
    assert np.linalg.norm(difference, 2) < 0.01


@pytest.mark.parametrize("shape", [(3, 4), (64, 96), (64, 256)])
def test_rounding_takes_no_singular_value_above_one(shape):
    # small singular values close together, which rounding of the Gram matrix moves the most
    few = min(shape) // 4 + 1
    spectra = [[*[1.0] * few, *[smallest] * (min(shape) - few)] for smallest in np.logspace(-0.5, -3, 16)]
    x = np.stack([with_spectrum(seed, shape, np.array(s))[0] for seed, s in enumerate(spectra)])
    found = np.linalg.norm(np.asarray(jax.jit(mo.polar)(jnp.asarray(x, jnp.float32)), np.float64), 2, axis=(-2, -1))
    assert found.max() <= 1
    assert found.min() >= 0.999


@pytest.mark.parametrize("seed", range(4))
def test_polynomials_of_degree_seventeen_are_what_their_coefficients_say_whatever_these_are(seed):
    polynomials = (1.0, 0.5, 0.25), tuple(np.random.default_rng(seed).uniform(-1, 1, 9))
    spectrum = np.linspace(1, 0.1, 6)
    x, u, v = with_spectrum(seed, (6, 8), spectrum)
    expected = (u * scalar_response(polynomials, spectrum / np.linalg.norm(spectrum))) @ v.T
    np.testing.assert_allclose(mo.polar(jnp.asarray(x, jnp.float32), polynomials), expected, atol=2e-6)


def test_large_matrices_of_an_odd_size_become_orthogonal_in_fewer_operations_and_have_derivatives_of_both_kinds():
    def operations(*shape: int) -> float:
        return (jax.jit(mo.polar).lower(jax.ShapeDtypeStruct(shape, jnp.float32)).cost_analysis() or {})["flops"]

    assert operations(1025, 1025) < 0.85 * operations(1023, 1023)
    # of what is long, Gram matrices are more of the work, and pay earlier
    assert operations(512, 4096) < 0.95 * operations(511, 4096)
    x, u, v = with_spectrum(0, (1025, 1100), np.linspace(1, 0.5, 1025))
    tangent, cotangent = np.random.default_rng(0).standard_normal((2, *x.shape)).astype(np.float32)
    x = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(mo.polar(x), u @ v.T, atol=1e-3)
    one_step = partial(mo.polar, coefficients="classical", steps=1)
    pushed = jax.jvp(one_step, (x,), (tangent,))[1]
    (pulled,) = jax.vjp(one_step, x)[1](cotangent)
    assert np.vdot(pulled, tangent) == pytest.approx(np.vdot(cotangent, pushed), rel=1e-2)


@pytest.mark.parametrize("shape", [(1, 5), (64, 64), (64, 256), (256, 64)])
@pytest.mark.parametrize("spectrum", ["orthogonal", "linear", "condition 1e2", "clustered"])
def test_products_in_bfloat16_are_good_to_their_stated_tolerance(spectrum, shape):
    n = min(shape)
    values = {
        "orthogonal": np.ones(n),
        "linear": np.linspace(1.0, 0.2, n),
        "condition 1e2": np.geomspace(1.0, 1e-2, n),
        "clustered": np.r_[1.0, np.full(n - 1, 0.1)],
    }[spectrum]
    x = np.stack([with_spectrum(seed, shape, values)[0] for seed in range(8)])
    y = mo.polar(jnp.asarray(x, jnp.float32), "six-step", products="bfloat16")
    found = np.linalg.svd(np.asarray(y, np.float64), compute_uv=False)
    assert found.max() <= 1
    assert found[:, values >= 0.01 * np.linalg.norm(values)].min() >= 0.97


def test_tables_stay_in_their_stated_bands_and_the_default_never_reaches_one():
    for name in OURS:
        assert scalar_response(COEFFICIENTS[name], np.linspace(0, 1 + 1e-6, 100_001)).max() < 1 - 1.9e-5
        assert scalar_response(COEFFICIENTS[name], np.geomspace(0.01, 1, 100_001)).min() > 0.9992
        # in the arithmetic it runs in, too
        single = [[np.float32(c) for c in polynomial] for polynomial in polynomials_of(COEFFICIENTS[name])]
        assert scalar_response(single, np.linspace(0, 1, 100_001, dtype=np.float32)).max() < 1
    assert scalar_response(COEFFICIENTS["rational"], np.linspace(0, 1, 100_001)).max() < 1 - 4.9e-4
    assert scalar_response(COEFFICIENTS["rational"], np.geomspace(0.005, 1, 100_001)).min() > 0.998
    assert scalar_response(COEFFICIENTS["six-step"], np.linspace(0, 1, 100_001)).max() < 0.9994
    band = scalar_response(COEFFICIENTS["six-step"], np.linspace(0.01, 1, 100_001))
    assert band.min() > 0.9955
    assert scalar_response(COEFFICIENTS["five-step"], np.linspace(0, 1, 100_001)).max() == pytest.approx(
        1.145, abs=2e-3
    )
    assert scalar_response(COEFFICIENTS["muon"], np.linspace(0, 1, 100_001)).max() == pytest.approx(1.202, abs=2e-3)


@pytest.mark.parametrize(("name", "lower"), [*((name, 0.01) for name in OURS), ("rational", 0.005)])
def test_no_functions_of_the_same_degrees_come_nearer_to_one_than_ours(name, lower):
    """Every step of a best composition attains its largest error, with alternating sign, at one point more than it has
    coefficients (Chebyshev, for rational functions Zolotarev)."""
    upper = 1.0
    for step in COEFFICIENTS[name]:
        values = np.geomspace(lower, upper, 200_001)
        response = scalar_response([step], values)
        count = 1 + 2 * len(step.terms) if isinstance(step, Rational) else len(step)
        # the last step is scaled to stay below one
        error = response / (response.max() + response.min()) * 2 - 1
        signs = np.sign(error[np.abs(error) > 0.99 * np.abs(error).max()])
        assert 1 + np.count_nonzero(np.diff(signs)) == count + 1
        lower, upper = response.min(), response.max()


def test_polar_express_is_the_published_table():
    np.testing.assert_allclose(mo.polar_express(8, 1e-3), PUBLISHED, rtol=2e-8)


@pytest.mark.parametrize("lower_bound", [1e-10, 1e-6, 1e-3, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 12, 30])
def test_more_steps_of_polar_express_bring_the_whole_interval_closer_to_one(steps, lower_bound):
    def error(steps):
        values = scalar_response(mo.polar_express(steps, lower_bound), np.geomspace(lower_bound, 1, 2001))
        return np.abs(values - 1).max()

    assert error(steps + 1) < max(error(steps), 1e-9)
    assert error(steps) < 1


def test_polar_express_beats_newton_schulz_on_its_interval():
    values = np.geomspace(1e-3, 1, 2001)
    ours = np.abs(scalar_response(mo.polar_express(6, 1e-3), values) - 1).max()
    classical = np.abs(scalar_response(COEFFICIENTS["classical"][:6], values) - 1).max()
    assert ours < 0.3 < 0.9 < classical


def test_safety_shrinks_the_argument_of_every_step_but_the_last():
    plain, safe = mo.polar_express(4, 1e-3), mo.polar_express(4, 1e-3, safety=1.01)
    assert safe[-1] == plain[-1]
    for (a, b, c), guarded in zip(plain[:-1], safe[:-1], strict=True):
        np.testing.assert_allclose(guarded, (a / 1.01, b / 1.01**3, c / 1.01**5))


@pytest.mark.parametrize("scaling", ["frobenius", "schatten", "schatten-eight", "spectral"])
def test_every_bound_leads_to_the_same_polar_factor(scaling):
    x, u, v = with_spectrum(2, (12, 20), SPECTRA["linear"])
    got = mo.polar(jnp.asarray(x, jnp.float32), mo.polar_express(10, 1e-3), scaling=scaling)
    np.testing.assert_allclose(got, u @ v.T, atol=2e-5)


def test_row_by_row_scaling_gives_an_orthogonal_matrix_of_the_same_row_space():
    x, _, v = with_spectrum(2, (12, 20), SPECTRA["linear"])
    got = mo.polar(jnp.asarray(x, jnp.float32), mo.polar_express(10, 1e-3), scaling="aol")
    np.testing.assert_allclose(got @ got.T, np.eye(12), atol=2e-5)
    np.testing.assert_allclose(got @ v @ v.T, got, atol=2e-5)


@pytest.mark.parametrize("scaling", [None, "frobenius", "schatten", "schatten-eight", "spectral", "aol"])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_scale_does_not_matter(scale, scaling, key):
    x = jax.random.normal(key, (3, 5, 8))
    np.testing.assert_allclose(mo.polar(x * scale, scaling=scaling), mo.polar(x, scaling=scaling), atol=2e-5)


def test_a_stack_is_the_polar_factor_of_each(key):
    x = jax.random.normal(key, (2, 3, 4, 7))
    one_by_one = jnp.stack([jnp.stack([mo.polar(m) for m in row]) for row in x])
    np.testing.assert_allclose(mo.polar(x), one_by_one, atol=1e-5)


@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_whatever_is_rearranged_the_formula_is_computed(name, shape):
    x = np.random.default_rng(0).standard_normal((2, *shape))
    with enable_x64(True):
        # in float64, where what is rearranged rounds alike
        expected = polar_by_formula(jnp.asarray(x), COEFFICIENTS[name])
        np.testing.assert_allclose(mo.polar(jnp.asarray(x), name, scaling="frobenius"), expected, atol=1e-9)


def dual_maps(gs) -> Any:
    """Of all, by one transformation; the axis of length one is that of taps."""
    tx = mo.dualize(mo.NormSpec(mo.Spectral(), mo.Axes(-2, -1, taps=-3)))
    return tx.update(gs, tx.init(gs))[0]


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_matrices_of_one_shape_are_iterated_together_and_come_back_in_order(count, key):
    shapes = [[(1, 1, 4, 7), (2, 1, 7, 4), (3, 1, 4, 4), (1, 3, 4, 7)][i % 4] for i in range(count)]
    gs = [jax.random.normal(jax.random.fold_in(key, i), shape) for i, shape in enumerate(shapes)]
    for g, together in zip(gs, dual_maps(gs), strict=True):
        np.testing.assert_allclose(together, mo.Spectral().dualize(g), atol=1e-5)


def test_a_stack_larger_than_a_slice_is_the_polar_factor_of_each(key):
    x = jax.random.normal(key, (5, 800, 900))
    np.testing.assert_allclose(mo.polar(x)[3], mo.polar(x[3]), atol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [([1, 2, 1, 1, 2, 1, 1, 2, 1, 2, 2, 3], (150, 320)), ([1] * 41, (64, 64)), ([4, 8, 4], (64, 64))],
)
def test_stacks_of_any_lengths_that_take_several_turns_come_back_in_order(lengths, shape, key):
    gs = [
        jnp.eye(*shape)[None, None] + 0.03 * jax.random.normal(jax.random.fold_in(key, i), (length, 1, *shape))
        for i, length in enumerate(lengths)
    ]
    gain = np.sqrt(shape[1] / shape[0])
    for g, together in zip(gs, jax.jit(dual_maps)(gs), strict=True):
        u, _, v = np.linalg.svd(g, full_matrices=False)
        np.testing.assert_allclose(together, gain * u @ v, atol=1e-3 * gain)


def test_derivatives_go_through_matrices_that_are_taken_one_by_one(key):
    gs = [jax.random.normal(jax.random.fold_in(key, i), (n, 1, 150, 320)) for i, n in enumerate((1, 2))]
    several = jax.jit(jax.grad(lambda gs: sum(jnp.sum(jnp.cos(d)) for d in dual_maps(gs))))(gs)
    one = jax.jit(jax.grad(lambda g: jnp.sum(jnp.cos(mo.Spectral().dualize(g)))))
    for g, gradient in zip(gs, several, strict=True):
        alone = jnp.concatenate([one(matrix[None]) for matrix in g])
        np.testing.assert_allclose(gradient, alone, atol=1e-4 * float(jnp.max(jnp.abs(alone))))


def test_a_dual_map_holds_few_matrices_at_a_time():
    gs = [jax.ShapeDtypeStruct((1, 1, 256, 1024), jnp.float32)] * 12
    memory = untyped(jax.jit(dual_maps).lower(gs).compile().memory_analysis())
    assert memory.temp_size_in_bytes < memory.output_size_in_bytes / 2


def test_coefficients_may_be_an_array(key):
    x, rows = jax.random.normal(key, (4, 7)), COEFFICIENTS["five-step"]
    np.testing.assert_array_equal(mo.polar(x, np.array(rows)), mo.polar(x, rows))  # pyright: ignore[reportArgumentType]


def test_transposition_commutes(key):
    x = jax.random.normal(key, (5, 9))
    np.testing.assert_allclose(mo.polar(x.T), mo.polar(x).T, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (0, 3, 4), (3, 0, 4)])
@pytest.mark.parametrize("scaling", ["frobenius", "schatten", "aol"])
def test_empty_matrices_stay_empty(shape, scaling):
    assert mo.polar(jnp.zeros(shape), scaling=scaling).shape == shape


@pytest.mark.parametrize("shape", [(1, 9), (9, 1)])
def test_a_single_row_or_column_becomes_a_unit_vector(shape, key):
    x = jax.random.normal(key, (1, *shape))
    np.testing.assert_allclose(mo.polar(x, "classical"), x / jnp.linalg.norm(x), atol=1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_what_is_not_finite_stays_visible_and_spoils_no_neighbour(bad, key):
    x = jax.random.normal(key, (3, 4, 6))
    spoilt = x.at[1, 2, 3].set(bad)
    got = mo.polar(spoilt)
    assert jnp.isnan(got[1]).any()
    np.testing.assert_allclose(got[jnp.array([0, 2])], mo.polar(x)[jnp.array([0, 2])], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_iterated_in_float32(dtype, key):
    x = jax.random.normal(key, (8, 32)).astype(dtype)
    got = mo.polar(x)
    assert got.dtype == dtype
    assert jnp.array_equal(got, mo.polar(x.astype(jnp.float32)).astype(dtype))


def test_float64_is_kept():
    with enable_x64(True):
        x, u, v = with_spectrum(3, (12, 20), SPECTRA["condition 1e4"])
        got = mo.polar(jnp.asarray(x), mo.polar_express(12, 1e-5))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, u @ v.T, atol=1e-9)


def test_steps_take_a_prefix_or_repeat_the_last_triple():
    five = COEFFICIENTS["five-step"]
    assert resolve_coefficients("five-step", 3) == five[:3]
    assert resolve_coefficients("five-step", 7) == (*five, five[-1], five[-1])
    assert resolve_coefficients([[1, 2, 3]], 2) == ((1.0, 2.0, 3.0),) * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coefficients": "quintic"}, r"Unknown coefficients 'quintic'. Write one of 'auto', 'three-step'"),
        ({"coefficients": (3.4, -4.7, 2.0)}, r"must be triples .* A single triple is written"),
        ({"coefficients": ()}, r"must be triples \(a, b, c\)"),
        ({"coefficients": ((1.0, float("nan"), 0.0),)}, r"finite numbers"),
        ({"steps": 0}, r"steps must be an integer of at least 1; got 0"),
        ({"steps": 2.5}, r"steps must be an integer of at least 1; got 2.5"),
        ({"scaling": "nuclear"}, r"Unknown scaling 'nuclear'. Write one of 'frobenius'"),
        ({"products": "float16"}, r"Unknown products 'float16'. Write 'bfloat16', or None"),
        (
            {"coefficients": "rational", "products": "bfloat16"},
            r"cancel in rational functions and in polynomials",
        ),
        ({"products": "bfloat16"}, r"degree above five. Write coefficients='six-step', or triples"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        mo.Spectral(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "at least 1; got 0"),
        ((1.5,), "at least 1; got 1.5"),
        ((3, 0.0), r"lower_bound in \(0, 1\]; got 0.0"),
        ((3, 2.0), r"lower_bound in \(0, 1\]; got 2.0"),
    ],
)
def test_polar_express_refuses_what_it_cannot_compute(arguments, message):
    with pytest.raises(ValueError, match=message):
        mo.polar_express(*arguments)
    with pytest.raises(ValueError, match=r"safety factor of at least 1; got 0\.5"):
        mo.polar_express(3, safety=0.5)


@pytest.mark.parametrize("shape", [(6, 4), (3, 16)])
def test_no_scale_on_the_way_to_zero_gives_what_is_not_finite(shape, key):
    # momentum passes through every one of these when gradients stop
    scales = jnp.asarray(10.0 ** -np.arange(28.0, 46.0), jnp.float32)
    x = scales[:, None, None] * jax.random.normal(key, (1, *shape))
    values = jnp.linalg.svdvals(jax.jit(mo.polar)(x))
    assert jnp.isfinite(values).all()
    assert values.max() <= 1.0
    # normal numbers keep their direction
    np.testing.assert_allclose(values[scales > 1e-37, 0], 1.0, atol=1e-3)
