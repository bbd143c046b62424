"""Norms and constraints of others: they train, they are saved, and what they lack is named."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modula_optax as mo
from examples import extend

KY_FAN = extend.KyFan(2)


def test_the_example_trains_and_keeps_its_constraints():
    first, last, params = extend.train(100)
    assert last < 0.5 * first
    assert (params["out"] >= 0.0).all()
    assert np.linalg.svd(params["hidden"], compute_uv=False)[0] <= 4.0 * np.sqrt(16 / 8) + 1e-3


def test_the_norm_of_the_example_is_one_with_its_dual(key):
    g = jax.random.normal(key, (1, 1, 6, 4))
    low_rank = g[..., :1] * jnp.ones((1, 1, 1, 4)) + 0.01 * g
    for x in (g, low_rank):
        step = KY_FAN.dualize(x)
        assert KY_FAN.norm(step)[0] == pytest.approx(1.0, rel=1e-2)
        assert jnp.sum(x * step) == pytest.approx(float(KY_FAN.dual_norm(x)[0]), rel=1e-2)


@pytest.mark.parametrize(
    "constraint", [mo.SpectralCap(2.0), mo.SoftCap(2.0), mo.Hammer(2.0), mo.SpectralNormalize(2.0)]
)
def test_constraints_on_singular_values_hold_what_measures_them(constraint):
    mo.dualize(mo.NormSpec(KY_FAN, constraint=constraint)).init(jnp.ones((4, 3)))


class Unhashable(mo.RMS):
    def __init__(self, scales):
        object.__setattr__(self, "scales", scales)

    __hash__ = None


class Duck:
    def dualize(self, g):
        return g


class Half(mo.Norm):
    def norm(self, w):
        return w


class Nowhere(mo.Constraint):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mo.NormSpec(Duck()), r"It has no .*dual_norm.*: derive Duck from mo\.Norm"),
        (lambda: mo.NormSpec(Half()), r"Half must define dual_norm, dualize, project; see mo\.Norm"),
        (lambda: mo.NormSpec(mo.RMS(), constraint=Nowhere()), r"Nowhere must define retract; see mo\.Constraint"),
        (
            lambda: mo.NormSpec(Unhashable([1.0])),
            r"not hashable(.|\n)*Write @dataclasses.dataclass\(frozen=True\) over class Unhashable",
        ),
        (lambda: mo.norms.register(Duck), r"is no dataclass that derives from mo\.Norm"),
    ],
)
def test_what_a_class_of_ones_own_lacks_is_named_when_the_spec_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@dataclasses.dataclass(frozen=True)
class Stranger(mo.RMS):
    pass


def test_json_reads_registered_classes_only_and_imports_nothing():
    specs = {"w": mo.NormSpec(Stranger())}
    with pytest.raises(ValueError, match=re.escape("write mo.norms.register(Stranger)")):
        mo.specs_to_json(specs)
    entry = json.loads(mo.specs_to_json({"w": mo.NormSpec(KY_FAN, constraint=extend.NonNegative())}))
    assert entry["specs"]["w"]["norm"] == {"name": "examples.extend.KyFan", "k": 2}
    entry["specs"]["w"]["norm"]["name"] = "os.system"
    with pytest.raises(ValueError, match=r"norm must be one of .*examples\.extend\.KyFan(.|\n)*os\.system"):
        mo.specs_from_json(json.dumps(entry))
