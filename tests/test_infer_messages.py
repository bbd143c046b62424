"""What inference says: overrides that work when pasted, places in the model's own code, layers alike in one line."""

import dataclasses
import re
import sys
import textwrap
import warnings

import jax
import jax.numpy as jnp
import pytest

import modula_optax as mo
from modula_optax._paths import flatten_with_paths
from tests.notation import axes_of, pasted
from tests.zoo import ZOO
from tests.zoo._model import array
from tests.zoo.plain import shapes


def refusal(apply, params, *inputs):
    with pytest.raises(ValueError, match="that cannot be told") as raised:
        mo.infer_specs(apply, params, *inputs)
    return str(raised.value)


REFUSED = [name for name in sorted(ZOO) if any("unknown" in truth for truth in ZOO[name]().truth.values())]
MODELS = sorted(ZOO)
# what a leaf with the role "unknown" in the zoo is, of those whose axes are seen
TRUE_AXES = {
    "plain.hypernetwork": {"hyper1": "linear 0 > 1", "hyper_b": "bias > 0"},
    "plain_hybrids.alternating_updates": {"predict": "linear 0 > 1"},
    "plain_sciences.neural_controlled_differential_equation": {"f2": "linear 0 > 1", "f2b": "bias > 0"},
    "plain_graphs.frames_of_a_protein": {"ipa/vp": "linear 0 > 1"},
    "plain_nets.learned_threshold": {"t": "bias > 0"},
    "plain_products.vector_as_query": {"qb": "bias > 0"},
    "plain_products.bias_of_generated_kernels": {"make": "linear 0 > 1"},
    "plain_papers.edge_conditioned_convolution": {"e1": "linear 0 > 1"},
    "plain_published.gain_of_generated_kernels": {"make": "linear 0 > 1"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_pasted_override_is_right_or_says_what_to_fill_in(name):
    model = ZOO[name]()
    unknown = [path for path, _ in flatten_with_paths(model.params)[0] if model.expected(path) == "unknown"]
    registry, left = pasted(refusal(model.apply, model.params, *model.inputs))
    given = [path for path in unknown if any(rule.matches(path) for rule in registry.rules)]
    assert set(given) | {path for path in unknown if any(re.fullmatch(p, path) for p in left)} == set(unknown)
    for path in given:
        spec = next(rule.spec for rule in registry.rules if rule.matches(path))
        assert axes_of(spec) == TRUE_AXES[name][path]


def test_what_is_offered_for_guesses_settles_them_and_changes_nothing_else():
    guessing = 0
    for name in MODELS:
        model = ZOO[name]()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            specs = mo.infer_specs(model.apply, model.params, *model.inputs, unknown=mo.Unnormed())
        guessed = {path for path, spec in flatten_with_paths(specs)[0] if spec and spec.confidence == "guess"}
        if not guessed:
            continue
        guessing += 1
        (message,) = (str(warning.message) for warning in caught if "to check" in str(warning.message))
        registry, left = pasted(message)
        assert not left
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="(?s).*guessed")
            warnings.filterwarnings("ignore", message=".*to check")
            settled = mo.infer_specs(
                model.apply, model.params, *model.inputs, overrides=registry, unknown=mo.Unnormed()
            )
        for (path, before), (_, after) in zip(*(flatten_with_paths(x)[0] for x in (specs, settled)), strict=True):
            if before is None:
                continue
            expected = dataclasses.replace(before, confidence=after.confidence, why=after.why, mass=after.mass)
            assert after == expected, (name, path)
            assert after.mass == pytest.approx(before.mass, rel=1e-5)
            assert after.confidence == ("certain" if path in guessed else before.confidence)
    assert guessing > 5


LAYERS = {
    "layers": [shapes(a=(6, 2), b=(2, 6)) for _ in range(12)],
    "head": shapes(kernel=(6, 3)),
}


def test_layers_that_are_alike_are_one_line_and_one_rule():
    message = refusal(lambda p, x: sum(x @ (layer["a"] @ layer["b"]) for layer in p["layers"]), LAYERS, array(5, 6))
    assert message.startswith("24 parameters have a role that cannot be told:")
    assert "  layers/*/a  float32[6, 2] x12: a product of parameters" in message
    assert r"# mo.Rule(r'layers/\d+/a', mo.Spectral(), axes=mo.Axes(fan_in=?, fan_out=?)" in message
    assert len(message.splitlines()) == 1 + 2 + 2 + 2 + 1


def test_warnings_group_layers_too():
    params = {"layers": [shapes(w=(6, 6), spare=(3,)) for _ in range(5)]}
    with pytest.warns(UserWarning, match=r"5 things to check(?s:.*)layers/\*/spare  float32\[3\] x5: unused"):
        mo.infer_specs(lambda p, x: sum(x @ layer["w"] for layer in p["layers"]), params, array(5, 6))


def test_axes_follow_the_layout_of_leaves_of_the_same_name():
    def apply(p, x):
        return jnp.tanh(x @ p["in"]["kernel"]) @ jnp.linalg.qr(p["turned"]["kernel"])[0]

    params = {"in": shapes(kernel=(4, 6)), "turned": shapes(kernel=(6, 6))}
    registry, left = pasted(refusal(apply, params, array(5, 4)))
    specs = mo.infer_specs(apply, params, array(5, 4), overrides=registry)
    assert left == []
    assert axes_of(specs["turned"]["kernel"]) == "linear 0 > 1"


def test_special_characters_of_a_path_match_themselves():
    params = shapes(**{"a.b(c)": (4, 4)}, w=(4, 4))
    registry, left = pasted(refusal(lambda p, x: x @ p["w"] @ jnp.linalg.qr(p["a.b(c)"])[0], params, array(5, 4)))
    assert [*left, *(rule.pattern for rule in registry.rules)] == [r"a\.b\(c\)"]


def test_why_names_the_model_in_an_installed_package_and_not_the_framework(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "laboratory"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    code = """
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)
    """
    (package / "network_of_ours.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(str(package.parent))
    from laboratory.network_of_ours import Net  # pyright: ignore[reportMissingImports]

    model = Net()
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((2, 4)))
    specs = mo.infer_specs(model.apply, params, jnp.ones((2, 4)))
    assert specs["params"]["Dense_0"]["kernel"].why.startswith("dot_general at network_of_ours.py:7 (")
    sys.modules.pop("laboratory")
