"""Norms, constraints and primitives of others: they train, are saved and read, and what they lack is named."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import Primitive

import modula_optax as mo
from examples import extend  # pyright: ignore[reportAttributeAccessIssue]  (not tests/examples)
from tests.cases import random_like
from tests.zoo._model import array

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
def test_constraints_on_singular_values_hold_them_under_whatever_norm_measures_them(constraint, key):
    w = 3 * jax.random.normal(key, (6, 4))
    held, spectral = (mo.project(w, mo.NormSpec(norm, constraint=constraint)) for norm in (KY_FAN, mo.Spectral()))
    assert not np.allclose(held, w)
    np.testing.assert_array_equal(held, spectral)


def test_a_norm_of_vectors_takes_all_axes_where_none_are_named():
    class OfVectors(mo.Sign):
        takes_vectors = True

    assert mo.leaf_norms(jnp.array([[1.0], [-2.0]]), mo.NormSpec(OfVectors())) == 2.0


class Unhashable(mo.RMS):
    def __init__(self, scales):
        object.__setattr__(self, "scales", scales)

    __hash__ = None  # pyright: ignore[reportAssignmentType]


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
        (lambda: mo.NormSpec(Duck()), r"It has no .*dual_norm.*: derive Duck from mo\.Norm"),  # pyright: ignore[reportArgumentType]
        (lambda: mo.NormSpec(Half()), r"Half must define dual_norm, dualize, project; see mo\.Norm"),  # pyright: ignore[reportAbstractUsage]
        (lambda: mo.NormSpec(mo.RMS(), constraint=Nowhere()), r"Nowhere must define retract; see mo\.Constraint"),  # pyright: ignore[reportAbstractUsage]
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
class Transposed(mo.Frobenius):
    def dualize(self, g):
        return super().dualize(g).mT


@dataclasses.dataclass(frozen=True)
class Summed(mo.Constraint):
    def retract(self, norm, w, memory, step):
        return w.sum(-1), memory


def test_an_array_of_another_shape_is_told_by_who_made_it_and_never_taken_for_the_parameter(key):
    w = random_like(key, (4, 3))
    with pytest.raises(ValueError, match=r"Transposed\(\) returned float32\[1, 1, 3, 4\] for atoms \[1, 4, 3\] of"):
        mo.dualize(mo.NormSpec(Transposed())).update(w, optax.EmptyState())
    with pytest.raises(ValueError, match=r"RMS\(\), or Summed\(\), returned float32\[1, 1, 1\] for atoms"):
        mo.project(w, mo.NormSpec(mo.RMS(), constraint=Summed()))


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


def primitive(name, shape_of):
    """A primitive of which nothing can be known but what it is registered with."""
    made = Primitive(name)
    made.def_abstract_eval(lambda *operands, **params: operands[0].update(shape=shape_of(*operands)))
    return made.bind


def normalised_dense(x, kernel, bias, *, swapped):
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-3)
    return jnp.tanh(x @ (kernel.T if swapped else kernel) + bias)


fused = primitive("fused_dense", lambda x, kernel, bias: (*x.shape[:-1], *bias.shape))
mo.register_primitive("fused_dense", normalised_dense)


def attention(q, k, v):
    return jax.nn.softmax(q @ k.mT / q.shape[-1]) @ v


fused_attention = primitive("fused_attention", lambda q, k, v: v.shape)
mo.register_primitive("fused_attention", attention)


def layers(dense, attend, p, x):
    hidden = dense(x, p["kernel"], p["bias"], swapped=True)
    return attend(hidden, hidden, hidden) @ p["out"]


@pytest.fixture
def layer_params(key):
    keys = jax.random.split(key, 3)
    shapes = {"kernel": (5, 3), "bias": (5,), "out": (5, 2)}
    return {name: jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


@pytest.mark.parametrize(
    "read",
    [
        lambda apply, p: mo.infer_specs(apply, p, array(2, 4, 3)),
        lambda apply, p: mo.infer_specs(apply, p, array(2, 4, 3), sensitivity="traced"),
        lambda apply, p: mo.lipschitz_bound(apply, p, array(2, 4, 3)),
    ],
    ids=["roles", "sensitivities", "bound"],
)
def test_a_primitive_with_a_reference_is_read_as_what_it_computes(read, layer_params):
    def without_places(found):
        return (
            {k: dataclasses.replace(spec, why=None) for k, spec in found.items()} if isinstance(found, dict) else found
        )

    ours = read(lambda p, x: layers(fused, fused_attention, p, x), layer_params)
    theirs = read(lambda p, x: layers(normalised_dense, attention, p, x), layer_params)
    assert without_places(ours) == without_places(theirs)


def test_a_primitive_with_a_slope_works_entry_by_entry():
    params = {"hidden": 0.5 * jnp.eye(4), "out": jnp.eye(4)}
    specs = mo.infer_specs(extend.network, params, array(6, 4), sensitivity="traced")
    assert {name: spec.role for name, spec in specs.items()} == {"hidden": "linear", "out": "linear"}
    assert (specs["hidden"].sensitivity, specs["out"].sensitivity) == (2.0, 1.0)
    assert mo.lipschitz_bound(extend.network, params, array(6, 4)) == pytest.approx(1.0)


def test_a_slope_that_is_registered_holds(key):
    x = 10.0 * jax.random.normal(key, (10_000,))
    assert float(jnp.max(jnp.abs(jax.jit(jax.vmap(jax.grad(extend.snake)))(x)))) <= 2.0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (extend.SNAKE, {"slope": 2.0}, r"name must be .* as a string; got snake: write primitive\.name"),
        ("tanh", {"slope": 1.0}, r"tanh is a primitive of JAX, which modula_optax knows"),
        ("scan", {"slope": 1.0}, r"scan is a primitive of JAX"),
        ("swirl", {}, r"swirl needs .*write mo\.register_primitive\('swirl', slope=1\.0\)"),
        ("swirl", {"slope": 1.0, "reference": jnp.sin}, r"swirl needs .* not both"),
        ("swirl", {"reference": 2.0}, r"must be a function of its operands; got 2\.0: write slope=2\.0"),
        ("swirl", {"slope": -1.0}, r"slope must be a finite number of at least 0; got -1"),
    ],
)
def test_what_says_nothing_of_a_primitive_is_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        mo.register_primitive(name, **arguments)


@pytest.mark.parametrize(
    "read",
    [
        lambda apply, p: mo.infer_specs(lambda p, x: x @ apply(p["w"]), p, array(4, 3)),
        lambda apply, p: mo.infer_specs(lambda p, x: apply(x @ p["w"]), p, array(4, 3), sensitivity="traced"),
        lambda apply, p: mo.lipschitz_bound(lambda p, x: apply(x @ p["w"]), p, array(4, 3)),
    ],
    ids=["roles", "sensitivities", "bound"],
)
def test_how_to_tell_of_a_primitive_is_said_where_it_is_met(read):
    with pytest.raises(ValueError, match=r"mo\.register_primitive\('stranger', \.\.\.\) says what it computes"):
        read(primitive("stranger", lambda x: x.shape), {"w": jnp.eye(3)})


narrowed = primitive("narrowed", lambda x: (*x.shape[:-1], 1))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"slope": 1.0}, r"narrowed was registered by its slope.* float32\[4, 1\] of float32\[4, 3\]"),
        ({"reference": jnp.sin}, r"reference of narrowed makes float32\[4, 3\] .*narrowed makes float32\[4, 1\]"),
        ({"reference": narrowed}, r"reference of narrowed computes with narrowed itself"),
        ({"reference": lambda x: x @ jnp.ones((7, 7))}, r"Raised by the reference of narrowed"),
    ],
    ids=["slope", "shapes", "itself", "error"],
)
def test_what_does_not_fit_a_primitive_is_told_where_it_is_met(told, message):
    mo.register_primitive("narrowed", **told)
    with pytest.raises((ValueError, TypeError)) as raised:
        mo.infer_specs(lambda p, x: narrowed(x @ p["w"]), {"w": jnp.eye(3)}, array(4, 3))
    assert re.search(message, "\n".join([str(raised.value), *getattr(raised.value, "__notes__", ())]))
