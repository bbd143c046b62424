"""The benchmarks of training: the search finds optima, sweeps resume, and nothing tuned lies on an edge."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import learning_rate_transfer  # noqa: E402
import training  # noqa: E402
from sweeps.problem import shifted  # noqa: E402
from sweeps.run import Curve, Hyper, Run, Setting  # noqa: E402
from sweeps.runner import Runner, problem_of  # noqa: E402
from sweeps.search import FACTOR, bracketed, learning_rate, tuned, values_of  # noqa: E402
from sweeps.summary import at, basin  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
TINY = Setting(width=16, depth=1, steps=4, batch=2, context=8, evaluations=2)


@pytest.fixture(autouse=True)
def defaults():
    # a script of a user, which runs under JAX's own settings and not under the strict ones of this suite
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("start", [-6, 0, 3, 9])
def test_the_search_finds_the_bottom_of_a_valley_from_both_sides(start):
    assert bracketed(lambda i: (i - 3.2) ** 2, start) == 3


def test_a_grid_with_an_end_is_searched_up_to_its_end():
    assert bracketed(lambda i: -i, 1, count=4) == 3
    assert bracketed(lambda i: i, 2, count=4) == 0


def test_the_search_ends_on_a_plateau():
    assert bracketed(lambda i: 0.0, 5) == 5


def test_where_tuning_ends_no_single_change_is_better():
    def loss(values):
        # the best learning rate is lower, the larger the other number
        return (math.log(values["learning_rate"] / 0.2) + 0.5 * values["b2"]) ** 2 + (values["b2"] - 0.9) ** 2

    b2 = (0.0, 0.5, 0.9, 1.2)
    best = values_of(tuned(loss, {"learning_rate": -5, "b2": 0}, {"b2": b2}), {"b2": b2})
    changes = [best | {"learning_rate": learning_rate(i)} for i in range(-9, 15)] + [best | {"b2": b} for b in b2]
    assert loss(best) == min(map(loss, changes))


def test_steps_to_a_loss_lie_between_evaluations():
    curve = Curve([10, 20, 30], [3.0, 2.0, 1.5])
    assert curve.steps_to(2.5) == 15
    assert curve.steps_to(1.5) == 30
    assert curve.steps_to(1.0) == math.inf
    assert at(curve, 29.9) == 2.0


def test_the_basin_of_a_parabola_is_as_wide_as_it_is():
    # 1 + 0.01 (x / 2)^2 is within one percent up to x = 2 on both sides: four steps of the grid
    losses = {i: 1 + 0.01 * (i / 2) ** 2 for i in range(-4, 5)}
    assert basin(losses) == pytest.approx(FACTOR**4)
    # a grid that ends inside the basin counts as far as it goes
    assert basin({i: losses[i] for i in range(-4, 2)}) == pytest.approx(FACTOR**3)


def test_a_sweep_resumes_where_it_was_interrupted(tmp_path, capsys):
    runs = [Run(TINY, "adamw", Hyper(rate), seed) for rate in (0.01, 0.02) for seed in (0, 1)]
    first = Runner(tmp_path, len(runs))(runs[:3])
    assert capsys.readouterr().out.count("min left") == 3
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    every = Runner(tmp_path, len(runs))(runs)
    # only what was missing is trained, and what was read is what was written
    assert capsys.readouterr().out.count("min left") == 1
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert {run: every[run] for run in runs[:3]} == first
    # learning rates and seeds make runs what they are
    assert len({tuple(curve.losses) for curve in every.values()}) == len(runs)


def test_runs_that_differ_in_their_norms_alone_are_different_runs():
    run = Run(TINY, "modular", Hyper(0.1))
    assert run.key("Spectral()") != run.key("Frobenius()")
    assert run.key("Spectral()") == run.key("Spectral()")


def test_all_optimizers_see_the_same_bytes_and_seeds_see_others():
    problem = problem_of(TINY)
    assert (problem.batch(0, 3) == problem.batch(0, 3)).all()
    assert (problem.batch(0, 3) != problem.batch(1, 3)).any()
    # nothing that is validated on is trained on: the text is split before sequences are drawn
    assert problem.held_out.shape == (128, TINY.context + 1)


def test_digits_are_shifted_and_those_that_are_validated_on_are_others():
    problem = problem_of(dataclasses.replace(TINY, task="digits"))
    images, labels = problem.batch(0, 3)
    assert images.shape == (TINY.batch, 8, 8, 1)
    assert labels.shape == (TINY.batch,)
    assert (images == problem.batch(0, 3)[0]).all()
    assert (images != problem.batch(1, 3)[0]).any()
    held_out = {image.tobytes() for image in problem.held_out[0]}
    assert not held_out & {image.tobytes() for position in range(200) for image in problem.batch(0, position)[0]}
    one = np.arange(9.0).reshape(1, 3, 3, 1)
    moved = shifted(one, np.array([1]), np.array([-1]))[0, :, :, 0]
    assert moved.tolist() == [[0, 0, 0], [1, 2, 0], [4, 5, 0]]


class Valleys:
    """Runs whose losses are known: a parabola in the learning rate for every width, whose bottom moves as it says."""

    def __init__(self, bottoms):
        self.bottoms = bottoms

    def one(self, run):
        distance = math.log(run.hyper.learning_rate / learning_rate(self.bottoms[run.setting.width]), FACTOR)
        return Curve([run.setting.steps], [2.0 + 0.1 * distance**2 + 0.001 * run.seed])

    def __call__(self, runs):
        return {run: self.one(run) for run in runs}


def test_a_moving_best_learning_rate_is_found_at_every_size():
    widths = {16: 3, 32: 2, 64: -4}
    settings = [Setting(width=width, depth=2, steps=10) for width in widths]
    result = learning_rate_transfer.swept(settings, "width", "modular", 3, Valleys(widths))
    assert result["learning_rate"] == learning_rate(3)
    assert [size["steps_of_the_grid_moved"] for size in result["sizes"]] == [0, -1, -7]
    for size, moved in zip(result["sizes"], (0, 1, 7), strict=True):
        best = 2.0 + 0.001  # of three seeds the median
        assert size["best_loss"] == pytest.approx(best)
        assert size["transferred_excess"] == pytest.approx(0.1 * moved**2 / best)
        rates = [point["learning_rate"] for point in size["points"]]
        assert min(rates) < size["best_learning_rate"] < max(rates)


def test_tuning_says_what_it_tried():
    entry, trials = training.tune(
        Setting(width=64, depth=2, steps=10), training.ENTRIES["modular"], None, 3, Valleys({64: 5})
    )
    assert entry.beginning == {"learning_rate": 5}
    assert {trial["learning_rate"] for trial in trials} == {learning_rate(i) for i in range(2, 7)}


# text, and images: what the names of results end in
DATA = ("", "_digits", "_images_of_fashion-mnist")


def results(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize("data", DATA)
def test_nothing_that_was_tuned_lies_on_the_edge_of_what_was_tried(data):
    for comparison in results(f"training{data}")["comparisons"]:
        for name, result in comparison["optimizers"].items():
            best = result["hyper"]
            others = {key: value for key, value in best.items() if key != "learning_rate"}
            rates = [
                trial["learning_rate"] for trial in result["trials"] if {key: trial[key] for key in others} == others
            ]
            assert min(rates) < best["learning_rate"] < max(rates), name
            for key, value in others.items():
                tried = [trial[key] for trial in result["trials"]]
                # there is no decay below none; the wider network has the numbers of the narrower one
                assert min(tried) < value < max(tried) or value == 0 or len(set(tried)) == 1, (name, key)
    for content in results(f"learning_rate_transfer{data}")["growths"].values():
        for result in content["optimizers"].values():
            for size in result["sizes"]:
                rates = [point["learning_rate"] for point in size["points"]]
                assert min(rates) < size["best_learning_rate"] < max(rates)
