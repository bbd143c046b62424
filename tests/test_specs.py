"""Specs: masses, their taring, and what cannot be a spec."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modula_optax as mo
from tests.cases import untyped

SPECS = {
    "embed": mo.NormSpec(mo.Embedding()),
    "blocks": {"w": mo.NormSpec(mo.Spectral(), mass=2.0, layers=3), "b": mo.NormSpec(mo.RMS())},
    "other": mo.NormSpec(mo.Unnormed()),
    "none": None,
}


def test_taring_a_group_sets_its_sum_and_keeps_its_proportions():
    tared = mo.tare(SPECS, r"blocks/.*", 5.0)
    w, b = tared["blocks"]["w"], tared["blocks"]["b"]
    assert 3 * w.mass + b.mass == pytest.approx(5.0)
    assert w.mass == pytest.approx(2 * b.mass)
    assert tared["embed"] == SPECS["embed"]
    assert tared["none"] is None


def test_taring_everything_to_one_is_the_convention_of_the_papers():
    tared = mo.tare(SPECS, r".*", 1.0)
    assert tared["embed"].mass + 3 * tared["blocks"]["w"].mass + tared["blocks"]["b"].mass == pytest.approx(1.0)
    assert tared["other"] == SPECS["other"]


def test_a_predicate_selects_by_path_and_spec():
    tared = mo.tare(SPECS, lambda path, spec: path.startswith("blocks") and isinstance(spec.norm, mo.RMS), 4.0)
    assert tared["blocks"]["b"].mass == 4.0
    assert tared["blocks"]["w"] == SPECS["blocks"]["w"]


def test_stacked_layers_count_as_often_as_they_are():
    params = {"scan": jnp.zeros((3, 4, 4)), "grouped": jnp.zeros((3, 4, 4)), "head": jnp.zeros((4, 2))}
    registry = mo.NormRegistry(
        mo.Rule("grouped", mo.Spectral(), axes=mo.Axes(taps=0, fan_in=1, fan_out=2, groups=2)),
        mo.Rule(".*", mo.Spectral()),
    )
    specs = registry.resolve(params)
    assert {name: spec.layers for name, spec in specs.items()} == {"scan": 3, "grouped": 1, "head": 1}
    tared = mo.tare(specs, r".*", 1.0)
    assert tared["scan"].mass == pytest.approx(0.2)


@pytest.mark.parametrize("select", [r"nothing", r"none|other", lambda path, spec: False])
def test_taring_nothing_is_an_error_that_lists_what_there_is(select):
    with pytest.raises(ValueError, match=r"found no mass to scale(.|\n)*blocks/w"):
        mo.tare(SPECS, select, 1.0)


def test_taring_masses_of_zero_is_an_error():
    with pytest.raises(ValueError, match="found no mass to scale"):
        mo.tare({"w": mo.NormSpec(mo.Spectral(), mass=0.0)}, r".*", 1.0)


@pytest.mark.parametrize("absolute", [-1.0, float("nan"), float("inf")])
def test_a_tare_to_no_mass_is_an_error(absolute):
    with pytest.raises(ValueError, match="absolute must be a finite number of at least 0; got"):
        mo.tare(SPECS, r".*", absolute)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": mo.Spectral}, r"norm must be an atomic norm such as Spectral\(\) or Unnormed\(\); got <class"),
        ({"norm": "spectral"}, r"norm must be an atomic norm .*; got 'spectral'"),
        ({"axes": (0, 1)}, r"axes must be an Axes, such as Axes\(fan_in=-1, fan_out=-2\), or None; got \(0, 1\)"),
        ({"mass": -1.0}, r"mass must be a finite number of at least 0; got -1.0"),
        ({"mass": float("nan")}, r"mass must be a finite number of at least 0; got nan"),
        ({"mass": 10**400}, r"mass must be a finite number of at least 0; got 1000"),
        ({"mass": "1"}, r"mass must be a finite number of at least 0; got '1'"),
        ({"sensitivity": 0.0}, r"sensitivity must be a finite number above 0; got 0.0"),
        ({"sensitivity": -2.0}, r"sensitivity must be a finite number above 0; got -2.0"),
        ({"sensitivity": float("inf")}, r"sensitivity must be a finite number above 0; got inf"),
        ({"constraint": mo.UnitSphere}, r"constraint must be one such as UnitSphere\(\), or None; got <class"),
        ({"role": "layer"}, "role must be one of linear, .*unknown, or None; got 'layer'"),
        ({"place": ["head"]}, r"place must be one of input, hidden, head, or None; got \['head'\]"),
        ({"confidence": 1.0}, "confidence must be one of certain, evidence, guess, or None; got 1.0"),
        ({"layers": 0}, "layers must be an integer of at least 1; got 0"),
        ({"blocks": (3, 0)}, r"blocks must be a tuple of sizes, such as \(6, 6, 6\); got \(3, 0\)"),
        ({"why": 3}, "why must be a text, or None; got 3"),
        ({"constraint": "orthogonal"}, r"constraint must be one such as UnitSphere\(\), or None; got 'orthogonal'"),
    ],
)
def test_what_cannot_be_a_spec_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mo.NormSpec(**{"norm": mo.Spectral(), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": mo.Spectral}, "norm must be an atomic norm"),
        ({"mass": -1.0}, "mass must be a finite number of at least 0; got -1.0"),
        ({"role": "layer"}, "role must be one of linear"),
        ({"place": "first"}, "place must be one of input"),
    ],
)
def test_a_rule_that_makes_no_spec_is_refused_by_its_pattern(arguments, message):
    with pytest.raises(ValueError, match=r"Rule\('.*', \.\.\.\): " + message):
        mo.Rule(r".*", **{"norm": mo.Spectral(), **arguments})


def test_counts_and_numbers_are_taken_of_numpy_and_kept_as_those_of_python():
    sizes = np.array([2, 3])
    assert mo.Blocks(mo.Spectral(), tuple(sizes)) == mo.Blocks(mo.Spectral(), (2, 3))
    spec = mo.NormSpec(
        mo.Spectral(), mass=untyped(np.float32(2)), blocks=untyped(tuple(sizes)), layers=untyped(np.int64(3))
    )
    assert repr(spec) == repr(mo.NormSpec(mo.Spectral(), mass=2.0, blocks=(2, 3), layers=3))
    assert repr(mo.Rule("w", mo.RMS(), mass=jnp.float32(2))) == repr(mo.Rule("w", mo.RMS(), mass=2.0))


def test_the_old_name_of_layers_works_and_says_what_to_write():
    spec = mo.NormSpec(mo.Spectral(), layers=3)
    made = r"NormSpec\(atoms=...\) is .*; write NormSpec\(layers=...\)\."
    with pytest.warns(DeprecationWarning, match=r"NormSpec\.atoms is .*; write NormSpec\.layers\."):
        assert spec.atoms == 3
    with pytest.warns(DeprecationWarning, match=made):
        assert mo.NormSpec(mo.Spectral(), atoms=3) == spec  # pyright: ignore[reportCallIssue]
    with pytest.warns(DeprecationWarning, match=made):
        assert dataclasses.replace(spec, atoms=4).layers == 4
    assert dataclasses.replace(spec, mass=2.0).layers == 3


def test_specs_are_leaves_and_comparable():
    assert jax.tree.leaves(mo.NormSpec(mo.Spectral()))[0] == mo.NormSpec(mo.Spectral("auto"))
    assert hash(mo.NormSpec(mo.Spectral([[1, 2, 3]]))) == hash(mo.NormSpec(mo.Spectral(((1.0, 2.0, 3.0),))))


def test_mass_zero_is_no_step_and_leaves_no_room():
    specs = {"frozen": mo.NormSpec(mo.RMS(), mass=0.0), "free": mo.NormSpec(mo.RMS(), mass=2.0, sensitivity=4.0)}
    grads = {"frozen": jnp.ones(3), "free": jnp.ones(3)}
    step, _ = untyped(mo.dualize(specs)).update(grads, mo.dualize(specs).init(grads))
    assert not step["frozen"].any()
    assert mo.leaf_norms(step, specs)["free"] == pytest.approx(0.5)
    assert mo.modular_norm(step, specs) == pytest.approx(1.0)
    assert mo.modular_norm(grads, specs) == jnp.inf
    assert mo.dual_norm(grads, specs) == pytest.approx(0.5 * 3)
