"""The examples about norms: what they print and write on the smallest runs, and what they refuse in one line."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import lipschitz_transformer  # noqa: E402
import weight_erasure  # noqa: E402
from lipschitz.model import LipschitzGPT  # noqa: E402
from lipschitz.training import caps_for, certified, initial, specs_of  # noqa: E402

PROSE = "It was the best of times, it was the worst of times, it was the age of wisdom. "


@pytest.fixture(autouse=True)
def defaults():
    # a user's script, which runs under JAX's own settings and not under the strict ones of this suite
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.slow
def test_weights_of_the_transformer_at_their_caps_certify_what_was_asked_for():
    model, caps = LipschitzGPT(8, depth=1), caps_for(8.0, depth=1)
    params = initial(model, seed=1)
    at_caps = jax.tree.map(lambda spec, w: spec.constraint.radius * w, specs_of(model, params, caps), params)
    # of another width, and from another seed, than those that the caps were found with
    assert certified(model, at_caps) == pytest.approx(8.0, rel=5e-3)


@pytest.mark.slow
def test_erasure_measures_how_far_the_middle_layer_went(tmp_path, capsys):
    assert weight_erasure.main(["--widths", "28", "--steps=5", f"--out={tmp_path}"]) == 0
    runs = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert [(run["optimizer"], run["width"]) for run in runs] == [("Adam", 28), ("modular", 28)]
    adam, modular = runs
    assert 0.9 < adam["trace"] < 1.0
    # after five steps at a rate of 0.1, falling, a layer has moved by at most 0.3 in its norm
    assert 0.0 < modular["change"] * np.linalg.norm(initial_middle(28), 2) <= 0.3 * (1 + 1e-3)
    assert (tmp_path / "erasure.png").stat().st_size > 1000
    assert "correlation" in capsys.readouterr().out


def initial_middle(width):
    _, weights = jax.random.split(jax.random.key(0))
    return np.asarray(weight_erasure.initial(weights, width)["middle"])


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (lipschitz_transformer, ["--lipschitz=-1"], "must be positive and finite; got -1"),
        (lipschitz_transformer, ["--corpus=/nowhere"], "cannot read the corpus /nowhere"),
        (weight_erasure, ["--widths", "8"], "must be at least 28"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(script, arguments, message, capsys, tmp_path):
    assert script.main([*arguments, f"--out={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
