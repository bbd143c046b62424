"""Axes: arrays of any layout as canonical matrices, and back."""

import jax.numpy as jnp
import numpy as np
import pytest

import modula_optax as mo
from modula_optax._axes import from_canonical, to_canonical
from tests.cases import random_like

pytestmark = pytest.mark.usefixtures("strict_promotion")

LAYOUTS = [
    # (shape, axes, canonical shape)
    ((4, 6), mo.Axes(), (1, 4, 6)),
    ((6, 4), mo.Axes(fan_in=-1, fan_out=-2), (1, 4, 6)),
    ((5, 4, 6), mo.Axes(), (5, 1, 4, 6)),
    ((5, 4, 6), mo.Axes(fan_in=1, fan_out=(0, 2)), (1, 4, 30)),
    ((5, 4, 6), mo.Axes(fan_in=(0, 1), fan_out=2), (1, 20, 6)),
    ((5, 4, 6), mo.Axes(fan_in=0, fan_out=2), (4, 1, 5, 6)),
    ((3, 2, 4, 6), mo.Axes(fan_in=2, fan_out=3, taps=(0, 1)), (6, 4, 6)),
    ((7, 3, 2, 4, 6), mo.Axes(fan_in=-2, fan_out=-1, taps=(1, 2)), (7, 6, 4, 6)),
    ((3, 4, 10), mo.Axes(fan_in=1, fan_out=2, taps=0, groups=5), (5, 3, 4, 2)),
    ((2, 12, 4), mo.Axes(fan_in=2, fan_out=1, groups=3), (2, 3, 1, 4, 4)),
    ((8,), mo.Axes(fan_in=(), fan_out=0), (1, 1, 8)),
    ((8,), mo.Axes(fan_in=0, fan_out=()), (1, 8, 1)),
    ((), mo.Axes(fan_in=(), fan_out=()), (1, 1, 1)),
]


@pytest.mark.parametrize(("shape", "axes", "canonical"), LAYOUTS)
def test_canonical_and_back(shape, axes, canonical, key):
    x = random_like(key, shape)
    y = to_canonical(x, axes)
    assert y.shape == canonical
    assert jnp.array_equal(from_canonical(y, axes, shape), x)


def test_attention_kernels_are_the_matrices_that_they_stand_for(key):
    """`[d, heads, head_dim]` maps d inputs to heads x head_dim outputs, `[heads, head_dim, d]` the other way."""
    query = random_like(key, (6, 2, 4))
    out = jnp.transpose(query, (1, 2, 0))
    x, z = random_like(key, (6,)), random_like(key, (2, 4))
    matrix = to_canonical(query, mo.Axes(fan_in=0, fan_out=(1, 2)))[0]
    np.testing.assert_allclose(x @ matrix, jnp.einsum("d,dhk->hk", x, query).ravel(), rtol=1e-5)
    matrix = to_canonical(out, mo.Axes(fan_in=(0, 1), fan_out=2))[0]
    np.testing.assert_allclose(z.ravel() @ matrix, jnp.einsum("hk,hkd->d", z, out), rtol=1e-5)


def test_groups_are_the_blocks_of_a_grouped_convolution(key):
    import jax

    kernel, x = random_like(key, (3, 2, 6)), random_like(key, (1, 9, 4))
    dims = ("NWC", "WIO", "NWC")
    whole = jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=dims, feature_group_count=2)
    blocks = to_canonical(kernel, mo.Axes(fan_in=1, fan_out=2, taps=0, groups=2))
    parts = [
        jax.lax.conv_general_dilated(part, block, (1,), "SAME", dimension_numbers=dims)
        for part, block in zip(jnp.split(x, 2, axis=-1), blocks, strict=True)
    ]
    np.testing.assert_allclose(whole, jnp.concatenate(parts, axis=-1), rtol=1e-5)


def test_orientation_decides_the_scale(key):
    w = random_like(key, (4, 16))
    kernel = mo.NormSpec(mo.Spectral())
    transposed = mo.NormSpec(mo.Spectral(), mo.Axes(fan_in=-1, fan_out=-2))
    np.testing.assert_allclose(mo.modular_norm(w, transposed), 4 * mo.modular_norm(w, kernel), rtol=1e-5)
    np.testing.assert_allclose(mo.modular_norm(w.T, transposed), mo.modular_norm(w, kernel), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fan_in": 0, "fan_out": 0}, r"axis 0 is named twice in fan_in=\(0,\), fan_out=\(0,\)"),
        ({"taps": -1}, r"axis -1 is named twice"),
        ({"fan_in": "0"}, r"fan_in must be an axis or a sequence of axes \(integers\); got '0'"),
        ({"fan_out": 1.0}, r"fan_out must be an axis or a sequence of axes \(integers\); got 1.0"),
        ({"groups": 0}, r"groups must be an integer of at least 1; got 0"),
    ],
)
def test_wrong_axes_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        mo.Axes(**arguments)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (mo.Axes(fan_in=2, fan_out=1), r"fan_in=\(2,\) names axis 2, but there are 2 axes"),
        (mo.Axes(fan_in=0, fan_out=-3), r"fan_out=\(-3,\) names axis -3, but there are 2 axes"),
        (mo.Axes(fan_in=0, fan_out=-2), r"axis 0 is named twice"),
        (mo.Axes(fan_in=(), fan_out=()), r"fan_in and fan_out are both empty"),
        (mo.Axes(groups=4), r"groups=4 does not divide the fan-out of 6"),
    ],
)
@pytest.mark.parametrize("norm", [mo.Spectral(), mo.RMS()])
def test_axes_that_do_not_fit_are_refused_with_the_path(norm, axes, message):
    params = {"decoder": {"kernel": jnp.zeros((4, 6))}}
    with pytest.raises(ValueError, match=rf"decoder/kernel  float32\[4, 6\]: .*{message}"):
        mo.NormRegistry(mo.Rule(r".*", norm, axes=axes)).resolve(params)
