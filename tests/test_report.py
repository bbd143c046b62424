"""The table of `summarize`."""

import jax
import jax.numpy as jnp

import modula_optax as mo


def test_every_parameter_has_a_line_with_all_that_decides_its_step():
    params = {
        "conv": jax.ShapeDtypeStruct((3, 3, 4, 8), jnp.float32),
        "gain": jnp.ones(()),
        "out": {"kernel": jnp.ones((8, 10)), "bias": jnp.ones(10)},
        "static": None,
    }
    specs = {
        "conv": mo.NormSpec(mo.Spectral(), mo.Axes(-2, -1, taps=(0, 1), groups=2), mass=0.5, sensitivity=4.0),
        "gain": mo.NormSpec(mo.Diagonal()),
        "out": mo.NormRegistry(mo.Rule("kernel", mo.RowL2()), default=mo.Unnormed()).resolve(params["out"]),
        "static": None,
    }
    lines = mo.summarize(specs, params).splitlines()
    assert lines[0].split() == ["path", "shape", "norm", "axes", "mass", "sensitivity", "target", "norm", "share"]
    assert [line.split() for line in lines[1:]] == [
        ["conv", "3x3x4x8", "Spectral", "taps=(0,1)", "in=(2)", "out=(3)", "groups=2", "0.5", "4", "0.125", "76.0%"],
        ["gain", "scalar", "Diagonal", "1", "1", "1", "0.3%"],
        ["out/bias", "10", "Unnormed", "2.6%"],
        ["out/kernel", "8x10", "RowL2", "in=(0)", "out=(1)", "1", "1", "1", "21.1%"],
    ]
    assert len({line.index("out=") for line in lines if "in=(0)" in line}) == 1


def test_an_empty_tree_has_an_empty_table():
    assert mo.summarize(mo.NormRegistry(), {}).splitlines()[1:] == []
