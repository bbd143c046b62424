"""Laws of every norm on every shape that it takes: steepest, scale-free, dual, on the sphere."""

import dataclasses
import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import modula_optax as mo
from tests import trees
from tests.cases import LEAVES, NORMS, SPECTRA, enable_x64, random_like, untyped, with_spectrum

pytestmark = [pytest.mark.usefixtures("strict_promotion"), pytest.mark.optimized]

STARTS = [
    pytest.param(*leaf.values, dtype, id=f"{leaf.id}-{dtype.__name__}")
    for leaf in NORMS
    for dtype in (jnp.bfloat16, jnp.float16)
]
# a unit step may fall short of the sphere by what the six steps leave of the singular values that they are given
POLAR_SLACK = 0.02
seeds = st.integers(0, 2**31 - 1)
scales = st.floats(-30, 30).map(lambda exponent: 10.0**exponent)
laws = settings(max_examples=8, deadline=None, derandomize=True)


def one(spec):
    """The same spec with an exact polar factor, for laws that hold to rounding."""
    exact = mo.Spectral(mo.polar_express(14, 1e-7))
    norm = exact if isinstance(spec.norm, mo.Spectral) else spec.norm
    norm = mo.Blocks(exact, norm.sizes) if isinstance(norm, mo.Blocks) else norm
    return mo.NormSpec(norm, spec.axes)


@functools.cache
def compiled(function, spec):
    return jax.jit(lambda *arrays: function(*arrays, spec))


def _project(w, spec):
    """Weights on the sphere, and the norm of each of their atoms, by one program."""
    spec = mo.NormSpec(spec.norm, spec.axes, constraint=mo.UnitSphere())
    w = mo.project(w, spec)
    return w, mo.leaf_norms(w, spec)


def _dualize(g, spec):
    tx = mo.dualize(spec)
    return tx.update(g, tx.init(g))[0]


def dualize(g, spec):
    return compiled(_dualize, spec)(g)


def project(w, spec):
    return compiled(_project, spec)(w)


def modular_norm(w, spec):
    return compiled(mo.modular_norm, spec)(w)


def dual_norm(g, spec):
    return compiled(mo.dual_norm, spec)(g)


def test_every_norm_of_the_package_stands_in_the_tables():
    public = {n for n in vars(mo).values() if dataclasses.is_dataclass(n) and mo.Norm in inspect.getmro(untyped(n))}
    tabled = {type(untyped(leaf.values[0]).norm) for leaf in NORMS} | set(map(type, trees.NORMS))
    assert tabled == public


@pytest.mark.parametrize(("spec", "shape"), LEAVES)
@given(seed=seeds)
@laws
def test_the_dual_has_norm_one_and_no_feasible_direction_beats_it(spec, shape, seed):
    keys = jax.random.split(jax.random.key(seed), 2)
    g, other = random_like(keys[0], shape), random_like(keys[1], shape)
    exact = one(spec)
    step = dualize(g, exact)
    assert step.shape == shape
    assert modular_norm(step, exact) == pytest.approx(1, abs=2e-5)
    steepest = float(jnp.vdot(g, step))
    assert steepest == pytest.approx(float(dual_norm(g, exact)), rel=2e-4)
    # rivals: a random direction, the gradient itself, and a small change of the steepest direction
    for rival in (other, g, step + 0.1 * other):
        assert float(jnp.vdot(g, rival)) <= steepest * float(modular_norm(rival, exact)) * (1 + 1e-4)


@pytest.mark.parametrize(("spec", "shape"), LEAVES)
@given(seed=seeds)
@laws
def test_the_default_step_never_leaves_the_unit_ball(spec, shape, seed):
    g = random_like(jax.random.key(seed), shape)
    norm = float(modular_norm(dualize(g, spec), spec))
    assert 1 - POLAR_SLACK < norm <= 1 + 1e-6


@pytest.mark.parametrize(("spec", "shape"), LEAVES)
@given(seed=seeds)
@laws
def test_norms_are_norms(spec, shape, seed):
    keys = jax.random.split(jax.random.key(seed), 2)
    w, v = random_like(keys[0], shape), random_like(keys[1], shape)
    for norm in (modular_norm, dual_norm):
        length = float(norm(w, spec))
        assert length > 0
        assert float(norm(-3.0 * w, spec)) == pytest.approx(3 * length, rel=1e-5)
        assert float(norm(w + v, spec)) <= (length + float(norm(v, spec))) * (1 + 1e-5)
        assert norm(jnp.zeros(shape), spec) == 0


@pytest.mark.parametrize(("spec", "shape"), LEAVES)
@given(seed=seeds, scale=scales)
@laws
def test_only_the_direction_of_a_gradient_counts(spec, shape, seed, scale):
    g = random_like(jax.random.key(seed), shape)
    np.testing.assert_allclose(dualize(g * scale, spec), dualize(g, spec), rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize(("spec", "shape"), LEAVES)
def test_zero_has_no_direction(spec, shape):
    assert not jnp.any(dualize(jnp.zeros(shape), spec))
    assert not jnp.any(project(jnp.zeros(shape), spec)[0])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize(("spec", "shape"), LEAVES)
def test_what_is_not_finite_never_becomes_a_plausible_step(spec, shape, bad, key):
    g = random_like(key, shape).ravel().at[0].set(bad).reshape(shape)
    assert jnp.isnan(dualize(g, spec)).any()


@pytest.mark.parametrize(("spec", "shape"), NORMS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_half_precision_keeps_its_dtype_and_its_unit_step(spec, shape, dtype, key):
    g = random_like(key, shape, dtype)
    step = dualize(g, spec)
    assert step.dtype == dtype
    epsilon = float(jnp.finfo(dtype).eps)
    assert 1 - POLAR_SLACK - epsilon < float(modular_norm(step, spec)) < 1 + epsilon
    expected = dualize(g.astype(jnp.float32), spec)
    np.testing.assert_allclose(step.astype(jnp.float32), expected, rtol=epsilon, atol=1e-7)


@pytest.mark.parametrize(("spec", "shape"), NORMS)
def test_float64_is_computed_in_float64(spec, shape):
    with enable_x64(True):
        g = jax.random.normal(jax.random.key(0), shape, jnp.float64)
        exact = one(spec)
        step = dualize(g, exact)
        assert step.dtype == jnp.float64
        assert float(jnp.vdot(g, step)) == pytest.approx(float(dual_norm(g, exact)), rel=1e-10)


@pytest.mark.parametrize(("spec", "shape"), LEAVES)
def test_projection_lands_on_the_sphere_and_stays_there(spec, shape, key):
    w, norms = project(0.3 * random_like(key, shape), spec)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    np.testing.assert_allclose(project(w, spec)[0], w, atol=2e-6)


@pytest.mark.parametrize(("spec", "shape", "dtype"), STARTS)
def test_initialization_has_norm_one_in_half_precision(spec, shape, dtype):
    """On every shape, and from usual keys, whose bits take half of compiling, in test_project.py."""
    key = jax.random.key(0, impl="unsafe_rbg")
    w, norms = jax.jit(lambda key: (w := mo.initialize(key, jnp.zeros(shape, dtype), spec), mo.leaf_norms(w, spec)))(
        key
    )
    assert (w.shape, w.dtype) == (shape, dtype)
    np.testing.assert_allclose(norms, 1, rtol=2 * float(jnp.finfo(dtype).eps) + 1e-5)


@pytest.mark.parametrize(("spec", "shape"), LEAVES)
def test_unequal_rows_absent_rows_and_tiny_rows(spec, shape, key):
    rows = random_like(key, shape).reshape(-1)
    factors = jnp.resize(jnp.array([1.0, 0.0, 1e-24, 1e20]), rows.shape)
    step = dualize((rows * factors).reshape(shape), spec)
    assert jnp.isfinite(step).all()
    assert 0 <= float(modular_norm(step, spec)) <= 1 + 1e-5


@pytest.mark.parametrize("scale", [1.0, 1e-24, 1e24])
def test_embedding_rows_are_unit_or_absent(scale):
    g = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-24, 0.0], [0.0, -1.0]]) * jnp.array([[scale], [1.0], [1.0], [scale]])
    expected = np.array([[0.6, 0.8], [0, 0], [1, 0], [0, -1]]) * math.sqrt(2)
    np.testing.assert_allclose(dualize(g, mo.NormSpec(mo.Embedding())), expected, rtol=1e-6)


def svd_truth(w):
    return np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)


def test_spectral_is_the_operator_norm_between_root_mean_squares(key):
    w = random_like(key, (6, 15))
    s = svd_truth(w)
    assert float(modular_norm(w, mo.NormSpec(mo.Spectral()))) == pytest.approx(math.sqrt(6 / 15) * s[0], rel=1e-5)
    assert float(dual_norm(w, mo.NormSpec(mo.Spectral()))) == pytest.approx(math.sqrt(15 / 6) * s.sum(), rel=1e-5)
    # the same numbers from the definition: no input has a larger gain, and the leading singular vector has that gain
    x = jax.random.normal(jax.random.key(1), (1000, 6))
    rms = lambda v: jnp.sqrt(jnp.mean(v**2, axis=-1))  # noqa: E731
    gains = rms(x @ w) / rms(x)
    assert gains.max() <= modular_norm(w, mo.NormSpec(mo.Spectral()))


def test_the_formulas_of_the_table(key):
    w = random_like(key, (6, 15))
    a = np.asarray(w, np.float64)
    expected = {
        mo.Frobenius(): (math.sqrt(6 / 15) * np.linalg.norm(a), math.sqrt(15 / 6) * np.linalg.norm(a)),
        mo.Embedding(): (
            np.sqrt((a**2).mean(1)).max(),
            math.sqrt(15) * np.linalg.norm(a, axis=1).sum(),
        ),
        mo.RowL2(): (math.sqrt(6) * np.linalg.norm(a, axis=0).max(), np.linalg.norm(a, axis=0).sum() / math.sqrt(6)),
        mo.Sign(): (6 * np.abs(a).max(), np.abs(a).sum() / 6),
        mo.RMS(): (np.sqrt((a**2).mean()), math.sqrt(90) * np.linalg.norm(a)),
        mo.Diagonal(): (np.abs(a).max(), np.abs(a).sum()),
    }
    for norm, (length, dual) in expected.items():
        assert float(modular_norm(w, mo.NormSpec(norm))) == pytest.approx(length, rel=1e-5)
        assert float(dual_norm(w, mo.NormSpec(norm))) == pytest.approx(dual, rel=1e-5)


def test_taps_share_the_step_of_a_convolution(key):
    kernel = random_like(key, (3, 3, 4, 8))
    spec = mo.NormSpec(mo.Spectral(mo.polar_express(12, 1e-6)), mo.Axes(fan_in=2, fan_out=3, taps=(0, 1)))
    per_tap = np.stack([svd_truth(tap) for tap in np.asarray(kernel).reshape(9, 4, 8)])
    assert float(modular_norm(kernel, spec)) == pytest.approx(9 * math.sqrt(4 / 8) * per_tap.max(), rel=1e-5)
    assert float(dual_norm(kernel, spec)) == pytest.approx(math.sqrt(8 / 4) * per_tap.sum() / 9, rel=1e-5)
    step = np.asarray(dualize(kernel, spec)).reshape(9, 4, 8)
    np.testing.assert_allclose([svd_truth(tap) for tap in step], math.sqrt(8 / 4) / 9, rtol=1e-4)


def test_groups_are_convolutions_of_their_own(key):
    kernel = random_like(key, (3, 4, 10))
    grouped = mo.NormSpec(mo.Spectral(), mo.Axes(fan_in=1, fan_out=2, taps=0, groups=5))
    alone = mo.NormSpec(mo.Spectral(), mo.Axes(fan_in=1, fan_out=2, taps=0))
    blocks = [dualize(kernel[..., 2 * i : 2 * i + 2], alone) for i in range(5)]
    np.testing.assert_allclose(dualize(kernel, grouped), jnp.concatenate(blocks, axis=-1), atol=1e-6)


def test_batch_axes_are_independent_atoms(key):
    stack = random_like(key, (3, 4, 6)) * jnp.array([1.0, 1e-3, 1e3])[:, None, None]
    spec = mo.NormSpec(mo.Spectral())
    np.testing.assert_allclose(dualize(stack, spec), jnp.stack([dualize(w, spec) for w in stack]), atol=1e-6)
    assert mo.leaf_norms(stack, spec).shape == (3,)


@pytest.mark.parametrize("name", ["linear", "condition 1e4", "one outlier", "rank one"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_cheap_direction_is_the_gradient_over_its_largest_singular_value(name, scale):
    w, _, _ = with_spectrum(0, (12, 30), SPECTRA[name])
    step = dualize(jnp.asarray(scale * w, jnp.float32), mo.NormSpec(mo.SpectralNormalized()))
    # the largest singular value of each of these spectra is 1
    np.testing.assert_allclose(step, math.sqrt(30 / 12) * w, atol=0.03)
    longest = modular_norm(step, mo.NormSpec(mo.Spectral()))
    assert 1 - 1e-5 <= float(longest) <= 1.03


def test_the_cheap_direction_comes_closer_with_every_iteration(key):
    g = random_like(key, (3, 20, 40)).at[0].set(0.0)
    lengths = [
        mo.leaf_norms(dualize(g, mo.NormSpec(mo.SpectralNormalized(n))), mo.NormSpec(mo.Spectral())) for n in (1, 8, 64)
    ]
    assert all(length[0] == 0 for length in lengths)
    assert np.all(np.diff(np.stack(lengths)[:, 1:], axis=0) <= 1e-6)
    np.testing.assert_allclose(lengths[-1][1:], 1.0, rtol=1e-3)
    with pytest.raises(ValueError, match=r"iterations must be an integer of at least 1; got 0"):
        mo.SpectralNormalized(0)
