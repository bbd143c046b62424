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
        layers=4,
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


def test_an_older_text_that_says_atoms_is_read():
    text = mo.specs_to_json(SPECS)
    assert text.count('"layers"') == 3
    assert mo.specs_from_json(text.replace('"layers"', '"atoms"')) == SPECS


@dataclasses.dataclass(frozen=True)
class MyNorm(mo.RMS):
    pass


@pytest.mark.parametrize(
    "text", ["nonsense", "", "[]", '{"version": 1, "specs": []}', '{"version": 1}', '{"version": 0, "specs": {}}']
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="This is no"):
        mo.specs_from_json(text)


def broken(*changes):
    """The text of a tree with one spec, of which some fields were changed."""
    content = json.loads(mo.specs_to_json({"layer": {"w": SPECS["a"]}}))
    for keys, value in changes:
        node = content["specs"]["layer/w"]
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
    return json.dumps(content)


TAMPERED = {
    "a field that no spec has": ((["norme"], 3), "NormSpec has no norme; its fields are norm, axes, mass"),
    "a field that no norm has": ((["norm", "radius"], 3), "Spectral has no radius; its fields are coefficients"),
    "a field that axes do not have": ((["axes", "fan"], 3), "Axes has no fan; its fields are fan_in, fan_out"),
    "a class that does not exist": (
        (["norm", "name"], "Nuclear"),
        "norm must be one of Blocks, Diagonal, Embedding, .*Nuclear",
    ),
    "a class that is no norm": ((["norm", "name"], "Axes"), "norm must be one of Blocks, Diagonal, Embedding"),
    "the protocol": ((["norm", "name"], "Norm"), "norm must be one of Blocks, Diagonal, Embedding"),
    "a function": ((["norm", "name"], "polar"), "norm must be one of Blocks, Diagonal, Embedding"),
    "something private": ((["norm", "name"], "__builtins__"), "norm must be one of Blocks, Diagonal, Embedding"),
    "a norm as constraint": ((["constraint", "name"], "RMS"), "constraint must be one of .*UnitSphere"),
    "no norm": ((["norm"], None), "norm must be one of .*got None"),
    "a norm by its name alone": ((["norm"], "RMS"), r"""norm must be one of .*, as \{"name": "..."\}; got 'RMS'"""),
    "a name that is no text": ((["norm", "name"], ["RMS"]), "norm must be one of"),
    "an argument of the wrong type": ((["norm", "coefficients"], 3), "[Cc]oefficients"),
    "an unknown scaling": ((["norm", "scaling"], "none"), "scaling"),
    "axes that are no object": ((["axes"], [0, 1]), "Axes must be an object of its fields; got"),
    "axes that are no integers": ((["axes", "fan_in"], "0"), "fan_in must be an axis"),
    "axes named twice": ((["axes", "fan_out"], [1]), "axis 1 is named twice"),
    "a mass that is a text": ((["mass"], "1"), "mass must be a finite number"),
    "a mass that is no number": ((["mass"], float("nan")), "mass must be a finite number"),
    "a role that does not exist": ((["role"], "layer"), "role must be one of linear"),
    "layers beside their old name": ((["atoms"], 2), "NormSpec has no atoms"),
    "layers that count nothing": ((["layers"], 0.5), "layers must be an integer"),
    "blocks that are one number": ((["blocks"], 3), "blocks must be a tuple of sizes"),
}


@pytest.mark.parametrize("name", TAMPERED)
@pytest.mark.parametrize("params", [None, {"layer": {"w": jnp.ones((4, 2, 3))}}])
def test_a_tampered_entry_is_refused_by_its_path(name, params):
    change, message = TAMPERED[name]
    with pytest.raises(ValueError, match=f"^layer/w: .*{message}"):
        mo.specs_from_json(broken(change), params)


def test_an_entry_that_is_no_object_is_refused_by_its_path():
    text = json.dumps({"version": 1, "specs": {"w": "RMS"}})
    with pytest.raises(ValueError, match=r"^w: NormSpec must be an object of its fields; got 'RMS'\.$"):
        mo.specs_from_json(text)


def test_paths_that_are_both_a_leaf_and_a_branch_are_refused():
    entry = json.loads(mo.specs_to_json({"w": SPECS["a"]}))["specs"]["w"]
    with pytest.raises(ValueError, match="w/b: its parent w is a spec, too"):
        mo.specs_from_json(json.dumps({"version": 1, "specs": {"w": entry, "w/b": entry}}))


def test_norms_of_others_are_refused():
    with pytest.raises(ValueError, match=r"w: MyNorm.* is not one of this package's"):
        mo.specs_to_json({"w": mo.NormSpec(MyNorm())})
    with pytest.raises(ValueError, match=r"1 leaf of the spec tree is no NormSpec:\n  w  RMS\n"):
        mo.specs_to_json({"w": mo.RMS()})
