"""The rational function that polar factors begin with on CPUs, and its inverses, against decompositions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modula_optax as mo
from modula_optax._coefficients import COEFFICIENTS
from modula_optax._polar import polar_by_formula
from modula_optax._rational import inverse_of_definite
from tests.cases import enable_x64, lowered_for_accelerators, with_spectrum

pytestmark = [pytest.mark.usefixtures("strict_promotion"), pytest.mark.optimized]

# of 256 singular values: those that rounding of the Gram matrix moves the most are small and close together
SPECTRA = {
    "flat": np.ones(256),
    "condition 1e6": np.geomspace(1, 1e-6, 256),
    "power law": 1 / np.arange(1, 257),
    "one outlier": np.r_[1, np.full(255, 1e-2)],
    "clusters": np.r_[np.ones(64), np.full(192, 3e-3)],
    "rank one": np.r_[1, np.zeros(255)],
}


@pytest.fixture(scope="module")
def polar():
    return jax.jit(mo.polar)


@pytest.mark.parametrize("shape", [(256, 256), (256, 300), (300, 256)])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_large_matrices_become_orthogonal_and_none_is_above_one(spectrum, shape, polar):
    x, u, v = with_spectrum(0, shape, spectrum)
    turned = u.T @ np.asarray(polar(jnp.asarray(x, jnp.float32)), np.float64) @ v
    assert 0.9985 < np.linalg.norm(turned, 2) <= 1
    # as with polynomials of the Gram matrix, which knows small singular values to the root of the rounding
    assert np.abs(turned - np.diag(np.diag(turned))).max() < 2.5e-3
    assert np.diag(turned)[spectrum > 0.01 * np.linalg.norm(spectrum)].min() > 0.998


def test_large_matrices_go_through_the_formula_on_cpus_and_through_polynomials_alone_elsewhere(polar):
    large, small = (jax.random.normal(jax.random.key(0), shape) for shape in ((256, 260), (255, 260)))
    np.testing.assert_array_equal(polar(large), mo.polar(large, "rational"))
    np.testing.assert_array_equal(polar(small), mo.polar(small, "three-step"))
    elsewhere = lowered_for_accelerators(mo.polar, jnp.zeros((256, 260))).mlir_module()
    assert "while" in lowered_for_accelerators(lambda x: mo.polar(x, "rational"), jnp.zeros((256, 260))).mlir_module()
    assert "while" not in elsewhere


def test_what_is_not_finite_or_zero_stays_so_and_spoils_no_neighbour(polar):
    x = np.random.default_rng(0).standard_normal((3, 256, 256))
    spoilt = x.copy()
    spoilt[1, 2, 3] = np.nan
    spoilt[2] = 0.0
    found = polar(jnp.asarray(spoilt, jnp.float32))
    assert jnp.isnan(found[1]).all()
    assert not found[2].any()
    np.testing.assert_allclose(found[0], polar(jnp.asarray(x, jnp.float32))[0], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale, polar):
    x = np.random.default_rng(0).standard_normal((3, 256, 256)).astype(np.float32)
    np.testing.assert_allclose(polar(x * np.float32(scale)), polar(x), atol=2e-4)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_derivatives_are_those_of_the_formula(shape):
    x, tangent, cotangent = np.random.default_rng(0).standard_normal((3, *shape))
    with enable_x64(True):
        x, tangent, cotangent = map(jnp.asarray, (x, tangent, cotangent))
        found, pushed = jax.jvp(lambda x: mo.polar(x, "rational", scaling="frobenius"), (x,), (tangent,))
        expected = jax.jvp(lambda x: polar_by_formula(x, COEFFICIENTS["rational"]), (x,), (tangent,))
        np.testing.assert_allclose(found, expected[0], atol=1e-9)
        np.testing.assert_allclose(pushed, expected[1], atol=1e-7)
        (pulled,) = jax.vjp(lambda x: mo.polar(x, "rational", scaling="frobenius"), x)[1](cotangent)
        assert jnp.vdot(pulled, tangent) == pytest.approx(float(jnp.vdot(cotangent, pushed)), rel=1e-7)


@pytest.mark.parametrize("size", [1, 5, 32, 33, 100])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_inverses_are_exact_to_rounding_whatever_the_size(size, condition):
    a = np.stack([_definite(seed, np.geomspace(1, 1 / condition, size)) for seed in range(3)])
    found = np.asarray(jax.jit(inverse_of_definite)(jnp.asarray(a, jnp.float32)), np.float64)
    np.testing.assert_allclose(found @ a, np.broadcast_to(np.eye(size), a.shape), atol=2e-6 * condition)
    np.testing.assert_allclose(found, found.swapaxes(-2, -1), atol=1e-6 * condition)


def _definite(seed, eigenvalues):
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))[0]
    return (q * eigenvalues) @ q.T
