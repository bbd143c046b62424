"""Benchmarks of speed: the one for accelerators runs from end to end on any machine, and the track tells what grew."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fine_tuning
import gpu
import track
import wall_clock
from sweeps.run import Hyper, Run, Setting
from sweeps.whole import train


@pytest.fixture(autouse=True)
def defaults():
    # a script of a user, which runs under JAX's own settings and not under the strict ones of this suite
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_the_benchmark_for_accelerators_runs_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--trees", "tiny", "--repeats", "1"])
    gpu.main()
    (path,) = tmp_path.glob("gpu-*.json")
    record = json.loads(path.read_text())
    assert record["polar_error"] < 2e-3
    assert {name.rpartition(", ")[2] for name in record["results"]} >= {gpu.OURS, gpu.THEIRS}
    assert all(cost["gigaflops"] > 0 and cost["of_peak"] > 0 for cost in record["results"].values())
    assert "of peak" in capsys.readouterr().out


def test_the_track_tells_what_grew_and_nothing_else():
    before = {"date": "2026-01-01", "ratios": {"count": {"a": 1.0, "b": 1.0}, "seconds": {"c": 1.0}}}
    now = {"date": "2026-01-02", "ratios": {"count": {"a": 1.02, "b": 0.5, "new": 9.0}, "seconds": {"c": 1.1}}}
    assert track.worse(now, before) == ["a: 1.020, 1.000 on 2026-01-01"]


def test_fine_tuning_measures_both_texts_before_and_after_at_every_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "NETWORK", fine_tuning.GPT(width=16, depth=1))
    monkeypatch.setattr(fine_tuning, "GRIDS", {"mo.modular": (0.001, 0.05), "optax.adamw": (0.001,)})
    results = tmp_path / "fine_tuning.json"
    arguments = ["--steps", "20", "--pretraining", "40", "--seeds", "2", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["fine_tuning.py", *arguments])
    fine_tuning.main()
    losses = json.loads(results.read_text())["losses"]
    new, old = (
        {rate: after[text][0] for rate, after in losses["mo.modular"].items()} for text in ("new text", "old text")
    )
    assert losses["before"]["new text"][0] > new["0.001"] > new["0.05"]
    assert losses["before"]["old text"][0] < old["0.05"]
    assert set(losses["optax.adamw"]) == {"0.001"}


def test_timed_runs_end_where_the_same_runs_of_the_panel_end():
    run = Run(Setting(width=16, depth=1, steps=20, batch=2, context=8, task="usual gpt"), "modular", Hyper(0.05))
    seconds, losses = (wall_clock.timed({"ours": run}, [0, 1])["ours"][what] for what in ("seconds", "losses"))
    assert min(seconds) > 0
    assert losses == [train(dataclasses.replace(run, seed=seed), None).final for seed in (0, 1)]
