"""The registry: paths of every framework, strict rules, errors that list all offenders."""

from typing import NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import ninjax as nj
import optax
import pytest
from flax import nnx

import modula_optax as mo
from modula_optax._paths import flatten_with_paths, is_absent

X = jnp.ones((1, 4))


def paths(tree):
    return [path for path, leaf in flatten_with_paths(tree)[0] if not is_absent(leaf)]


def linen():
    return nn.Sequential([nn.Dense(3), nn.Dense(2)]).init(jax.random.key(0), X)


def boxed_linen(box=nn.with_partitioning):
    init = box(nn.initializers.normal(), ("in", "out"))
    return nn.Sequential([nn.Dense(3, kernel_init=init), nn.Dense(2)]).init(jax.random.key(0), X)


def logical_linen():
    return boxed_linen(nn.with_logical_partitioning)


def nnx_module():
    return nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(0)))


def flax_nnx():
    return nnx.state(nnx_module(), nnx.Param)


def pure_nnx():
    return nnx.to_pure_dict(flax_nnx())


def haiku():
    return hk.transform(lambda x: hk.nets.MLP([3, 2])(x)).init(jax.random.key(0), X)


class Affine(nj.Module):
    def __call__(self, x):
        return x @ self.value("kernel", jnp.ones, (4, 3)) + self.value("bias", jnp.zeros, 3)


def ninjax():
    net = Affine(name="net")  # pyright: ignore[reportCallIssue]
    return nj.init(lambda x: net(x))({}, X, seed=0)


class Attention(NamedTuple):
    key: jax.Array
    value: jax.Array


def equinox():
    return eqx.filter(eqx.nn.MLP(4, 2, 3, 1, key=jax.random.key(0)), eqx.is_inexact_array)


LINEN_PATHS = ["params/layers_0/bias", "params/layers_0/kernel", "params/layers_1/bias", "params/layers_1/kernel"]
NNX_PATHS = ["layers/0/bias", "layers/0/kernel", "layers/1/bias", "layers/1/kernel"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (linen, LINEN_PATHS),
        (boxed_linen, LINEN_PATHS),
        (logical_linen, LINEN_PATHS),
        (flax_nnx, NNX_PATHS),
        (pure_nnx, NNX_PATHS),
        (nnx_module, NNX_PATHS),
        (haiku, ["mlp/~/linear_0/b", "mlp/~/linear_0/w", "mlp/~/linear_1/b", "mlp/~/linear_1/w"]),
        (ninjax, ["net/bias", "net/kernel"]),
        (equinox, ["layers/0/weight", "layers/0/bias", "layers/1/weight", "layers/1/bias"]),
        (lambda: {"attention": Attention(jnp.ones(1), jnp.ones(1))}, ["attention/key", "attention/value"]),
        (lambda: [jnp.ones(1), (jnp.ones(2), {"a": jnp.ones(3)})], ["0", "1/0", "1/1/a"]),
        (lambda: jnp.ones(2), [""]),
    ],
)  # fmt: skip
def test_paths_are_clean_in_every_framework(params, expected):
    assert paths(params()) == expected


@pytest.mark.parametrize("params", [linen, boxed_linen, flax_nnx, haiku, ninjax, equinox])
def test_a_registry_and_its_spec_tree_train_every_framework(params):
    params = params()
    registry = mo.NormRegistry(mo.Rule(r".*/(kernel|w|weight)", mo.Spectral()), mo.Rule(r".*/(bias|b)", mo.RMS()))
    specs = registry.resolve(params)
    assert jax.tree.structure(specs) == jax.tree.structure(params)
    start = mo.initialize(jax.random.key(0), params, specs)
    for accepted in (registry, specs, registry.resolve):
        tx = mo.modular(0.1, accepted, weight_decay=0.0)
        state = tx.init(start)
        updates, state = tx.update(start, state, start)
        updates, _ = tx.update(updates, state, start)
        assert mo.modular_norm(updates, specs) == pytest.approx(0.1, rel=0.02)


def test_the_first_rule_that_matches_wins():
    registry = mo.NormRegistry(mo.Rule(r"a/.*", mo.Sign()), mo.Rule(r".*", mo.Spectral()))
    specs = registry.resolve({"a": {"w": jnp.ones((2, 2))}, "b": jnp.ones((2, 2))})
    assert (specs["a"]["w"].norm, specs["b"].norm) == (mo.Sign(), mo.Spectral())


def test_a_function_may_choose_a_registry():
    params = {"w": jnp.ones((2, 2))}
    assert mo.modular_norm(params, lambda tree: mo.NormRegistry(default=mo.Frobenius())) == pytest.approx(2.0)


def test_shapes_are_enough():
    registry = mo.NormRegistry(mo.Rule(r".*", mo.Spectral()))
    assert registry.resolve(jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)) == mo.NormSpec(mo.Spectral())


def test_absent_leaves_keep_their_place():
    tree = {"w": jnp.ones((2, 2)), "static": None, "masked": optax.MaskedNode(), "empty": {}}
    registry = mo.NormRegistry(mo.Rule(r"w", mo.Spectral()), mo.Rule(r"masked", mo.RMS()))
    specs = registry.resolve(tree)
    assert (specs["static"], specs["masked"], specs["empty"]) == (None, optax.MaskedNode(), {})


def test_specs_of_what_is_absent_name_no_unknown_parameter():
    spec, w = mo.NormSpec(mo.RMS()), jnp.ones(3)
    specs = {"a": spec, "b": {"inside": spec}, "c": spec}
    for tree in ({"a": w, "b": None, "c": {"x": None}}, {"a": w, "b": optax.MaskedNode(), "c": None}):
        assert mo.leaf_norms(tree, specs)["a"] == 1.0
    with pytest.raises(ValueError, match=r"1 spec names no parameter:\n  c\n"):
        mo.leaf_norms({"a": w, "b": None}, specs)


PARAMS = {"dense": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}, "scale": jnp.ones(())}


def test_unmatched_parameters_are_all_listed_with_a_rule_to_paste():
    with pytest.raises(ValueError, match="2 parameters match no rule") as error:
        mo.NormRegistry(mo.Rule(r".*/kernel", mo.Spectral())).resolve(PARAMS)
    for part in ("dense/bias  float32[2]", "scale  float32[]", "Rule(r'dense/bias'", "default=Unnormed()"):
        assert part in str(error.value)


def test_default_takes_what_no_rule_matches():
    specs = mo.NormRegistry(mo.Rule(r".*/kernel", mo.Spectral()), default=mo.Unnormed()).resolve(PARAMS)
    assert specs["scale"] == mo.NormSpec(mo.Unnormed())


def test_rules_that_match_nothing_are_all_listed():
    rules = [
        mo.Rule(r"kernel", mo.Spectral()),
        mo.Rule(r".*", mo.RMS()),
        mo.Rule(r"scale", mo.Diagonal()),
    ]
    with pytest.raises(ValueError, match="2 rules match no parameter") as error:
        mo.NormRegistry(*rules).resolve(PARAMS)
    assert "Rule('kernel', Spectral()): no path" in str(error.value)
    assert "write Rule('.*/kernel', Spectral()), not 'kernel'" in str(error.value)
    assert "Rule('scale', Diagonal()): earlier rules take all that it matches" in str(error.value)
    assert "dense/kernel" in str(error.value)


def test_all_parameters_that_do_not_suit_their_norm_are_listed():
    params = {
        "bias": jnp.ones(3),
        "count": jnp.ones((2, 2), jnp.int32),
        "wave": jnp.ones((2, 2), jnp.complex64),
        "empty": jnp.ones((0, 4)),
        "fine": jnp.ones((2, 2)),
    }
    with pytest.raises(ValueError, match="4 parameters do not fit their specs") as error:
        mo.NormRegistry(mo.Rule(r".*", mo.Spectral())).resolve(params)
    message = str(error.value)
    assert "bias  float32[3]: Spectral needs at least two axes, [fan_in, fan_out]; write NormSpec(RMS()), in" in message
    assert "count  int32[2, 2]: Spectral needs real floating-point numbers; write NormSpec(Unnormed())" in message
    assert "wave  complex64[2, 2]: Spectral needs real floating-point numbers" in message
    assert "empty  float32[0, 4]: has no entries; write NormSpec(Unnormed()), in a registry Rule(" in message
    assert "fine" not in message


def test_invalid_patterns_are_named():
    with pytest.raises(ValueError, match=r"'\(kernel' is not a valid regular expression: missing \)"):
        mo.Rule(r"(kernel", mo.Spectral())
    with pytest.raises(ValueError, match=r"None is not a valid regular expression"):
        mo.Rule(None, mo.Spectral())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"b'kernel' is not a valid .* of a path, which is a text: leave the b out"):
        mo.Rule(b"kernel", mo.Spectral())  # pyright: ignore[reportArgumentType]


def test_a_registry_is_made_of_rules():
    with pytest.raises(ValueError, match=r"A registry is made of rules; got \('.*', Spectral"):
        mo.NormRegistry((".*", mo.Spectral()))  # pyright: ignore[reportArgumentType]


def test_a_registry_shows_its_rules():
    registry = mo.NormRegistry(mo.Rule(r".*/w", mo.RMS()), default=mo.Unnormed())
    assert repr(registry).startswith("NormRegistry(Rule('.*/w', RMS())")
    assert repr(registry).endswith("default=Unnormed())")


def test_specs_of_another_model_are_refused_with_all_paths():
    specs = {"dense": {"kernel": mo.NormSpec(mo.Spectral())}, "old": mo.NormSpec(mo.RMS())}
    with pytest.raises(ValueError, match="2 parameters have no spec") as error:
        mo.dualize(specs).init(PARAMS)
    assert "dense/bias  float32[2]" in str(error.value)
    assert "1 spec names no parameter:\n  old" in str(error.value)
    assert "make them anew: registry.resolve(params) or infer_specs" in str(error.value)
    specs = {"dense": mo.NormSpec(mo.RMS()), "scale": mo.NormSpec(mo.RMS()), "old": mo.NormSpec(mo.RMS())}
    with pytest.raises(ValueError, match=r"1 spec names no parameter:\n  old"):
        mo.dualize(specs).init(PARAMS)


def test_a_norm_in_place_of_its_spec_says_what_to_write():
    with pytest.raises(ValueError, match=r"scale  float32\[\]: its spec is RMS\(\); write NormSpec\(RMS\(\)\)"):
        mo.modular_norm({"scale": jnp.ones(())}, {"scale": mo.RMS()})
    with pytest.raises(ValueError, match=r"scale  float32\[\]: its spec is 'rms'; specs are made by infer_specs"):
        mo.modular_norm({"scale": jnp.ones(())}, {"scale": "rms"})


def test_two_parameters_of_one_path_are_refused():
    with pytest.raises(ValueError, match="1 path is that of several parameters:\n  a/b"):
        mo.NormRegistry(mo.Rule(r".*", mo.RMS())).resolve({"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)})


def test_an_unnormed_parameter_cannot_be_constrained():
    with pytest.raises(ValueError, match=r"Unnormed\(\) cannot be held to UnitSphere\(\); write constraint=None"):
        mo.NormRegistry(mo.Rule(r".*", mo.Unnormed(), constraint=mo.UnitSphere())).resolve(jnp.ones(2))
