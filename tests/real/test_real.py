"""Inference on models of packages from PyPI: every leaf as the framework documents it, or said to be unsure.

`gemma` and `kauldron` are left out, since they bring TensorFlow and 130 other packages; `optax` has no modules; MaxText
and Levanter are on no index in a version that installs beside these, and their conventions stand in `tests/zoo/`.
"""

import re
import warnings

import pytest

import modula_optax as mo
from modula_optax._paths import flatten_with_paths
from tests.notation import axes_of, pasted
from tests.real.conftest import counts_of

with warnings.catch_warnings():
    # these packages warn of one another as they are imported
    warnings.simplefilter("ignore")
    from tests.real import (
        diffusion,
        equinox_models,
        haiku_models,
        hugging_face,
        keras_models,
        linen_models,
        nnx_models,
        penzai_models,
    )
    from tests.real._model import MODELS

PACKAGES = (
    *(diffusion, equinox_models, haiku_models, hugging_face, keras_models),
    *(linen_models, nnx_models, penzai_models),
)
pytestmark = pytest.mark.filterwarnings("ignore")


def without_single(text: str, shape: tuple[int, ...]) -> str:
    """A layout without axes of one entry, which make no difference."""
    axes, slash, groups = text.partition("/")
    kept = re.sub(r"\d+", lambda match: "" if shape[int(match[0])] == 1 else match[0], axes)
    return " ".join(kept.split()) + slash + groups


@pytest.mark.parametrize("name", sorted(MODELS))
def test_no_leaf_is_silently_wrong(name, record_property, pinned):
    model = MODELS[name]()
    leaves = {path: leaf for path, leaf in flatten_with_paths(model.params)[0] if hasattr(leaf, "shape")}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        specs = mo.infer_specs(model.apply, model.params, *model.inputs, unknown=mo.Unnormed())
    found = {path: spec for path, spec in flatten_with_paths(specs)[0] if isinstance(spec, mo.NormSpec)}
    documented = model.documented(leaves)

    def is_right(path: str) -> bool:
        shape = leaves[path].shape
        return without_single(axes_of(found[path]), shape) == without_single(documented[path], shape)

    others = {path: spec for path, spec in found.items() if not is_right(path)}
    unsure = {path for path, spec in others.items() if spec.role == "unknown" or spec.confidence == "guess"}
    counts = counts_of(len(found), len(unsure), len(others) - len(unsure))
    record_property("leaves", (name, counts))
    wrong = {path: (axes_of(others[path]), documented[path], others[path].why) for path in others.keys() - unsure}
    assert not wrong
    offered = refused_but_told(model, found) | guessed_and_told(found, [str(warning.message) for warning in caught])
    told = {path: axes_of(spec) for path, spec in offered.items()}
    assert told == {path: documented[path] for path in told}
    assert pinned is None or counts == pinned[name]


def refused_but_told(model, found) -> dict[str, mo.NormSpec]:
    """What the error of a model offers for parameters whose role is unknown, where it says their axes."""
    unknown = [path for path, spec in found.items() if spec.role == "unknown"]
    if not unknown:
        return {}
    with pytest.raises(ValueError, match="that cannot be told") as raised:
        mo.infer_specs(model.apply, model.params, *model.inputs)
    rules = pasted(str(raised.value))[0].rules
    return by_path(rules, unknown)


def guessed_and_told(found, messages) -> dict[str, mo.NormSpec]:
    """What the warning of a model offers to settle its guesses with."""
    guessed = [path for path, spec in found.items() if spec.confidence == "guess"]
    if not guessed:
        return {}
    (message,) = (message for message in messages if "is settled by" in message)
    return by_path(pasted(message)[0].rules, guessed)


def by_path(rules, paths) -> dict[str, mo.NormSpec]:
    offered = {path: next((rule.spec for rule in rules if rule.matches(path)), None) for path in paths}
    return {path: spec for path, spec in offered.items() if spec is not None}


def test_the_counts_are_those_of_these_models(pinned):
    assert pinned is None or pinned.keys() == MODELS.keys()
