"""Spec trees as JSON."""

import dataclasses
import json

import jax.numpy as jnp
import pytest

import modula_optax as mo
from tests.test_zoo import infer
from tests.zoo import ZOO

SPECS = {
    "a": mo.NormSpec(
        mo.Spectral(coefficients=((3.0, -2.0, 0.5),), scaling="frobenius"),
        mo.Axes(1, (0, 2), groups=2),
        mass=0.1,
        sensitivity=3.0,
        constraint=mo.UnitSphere(),
        role="linear",
        place="head",
        confidence="evidence",
        atoms=4,
        blocks=(3, 3),
        why="dot_general at model.py:3",
    ),
    "b": {"c": mo.NormSpec(mo.RMS()), "d": mo.NormSpec(mo.Unnormed())},
}


def test_a_spec_tree_comes_back_as_it_was():
    back = mo.specs_from_json(mo.specs_to_json(SPECS))
    assert back == SPECS
    assert back["a"].why == SPECS["a"].why


def test_parameters_give_the_structure():
    params = {"a": jnp.ones((4, 2, 3)), "b": {"c": jnp.ones(2), "d": jnp.ones(2)}, "e": None}
    assert mo.specs_from_json(mo.specs_to_json(SPECS), params) == SPECS | {"e": None}


@pytest.mark.parametrize("name", ["linen.vit", "haiku.transformer", "plain.mamba"])
def test_inferred_specs_survive(name):
    specs = infer(ZOO[name]())
    assert infer(ZOO[name]()) == {
        path: mo.specs_from_json(mo.specs_to_json({"x": spec}))["x"] for path, spec in specs.items()
    }


def test_other_paths_are_refused():
    text = mo.specs_to_json(SPECS)
    with pytest.raises(ValueError, match=r"3 paths differ:\n  z: has no spec.*\n  b/c: is no parameter"):
        mo.specs_from_json(text, {"a": jnp.ones((4, 2, 3)), "z": jnp.ones(3)})


@dataclasses.dataclass(frozen=True)
class MyNorm(mo.RMS):
    pass


@pytest.mark.parametrize("text", ["nonsense", "[]", json.dumps({"version": 0, "specs": {}})])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="This is no"):
        mo.specs_from_json(text)


def test_norms_of_others_are_refused():
    with pytest.raises(ValueError, match=r"w: MyNorm.* is not one of this package's"):
        mo.specs_to_json({"w": mo.NormSpec(MyNorm())})
    with pytest.raises(ValueError, match=r"w: RMS\(\) is no NormSpec"):
        mo.specs_to_json({"w": mo.RMS()})
