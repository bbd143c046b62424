"""Benchmarks of speed: the one for accelerators runs from end to end on any machine, and the track tells what grew."""

import json
import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu
import track


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
