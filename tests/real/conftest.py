"""Counts leaves that are right, unsure and wrong over all tests, prints them, and writes them down on request."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

# before any package imports Keras
os.environ.setdefault("KERAS_BACKEND", "jax")

# only the tests: what else is here is imported by these
collect_ignore_glob = ["[!t]*.py"]

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "real_models.json"
Counts = dict[str, int]


def counts_of(leaves: int, unsure: int, wrong: int) -> Counts:
    return {"leaves": leaves, "right": leaves - unsure - wrong, "unsure": unsure, "wrong": wrong}


def together(models: Mapping[str, Counts]) -> Counts:
    """The sum over models, and how many these are."""
    return {"models": len(models)} | {key: sum(counts[key] for counts in models.values()) for key in counts_of(0, 0, 0)}


def pytest_addoption(parser):
    parser.addoption("--write-counts", action="store_true", help="pins the counts of leaves that are found now")


@pytest.fixture(scope="session")
def pinned(request) -> dict[str, Counts] | None:
    """The counts of every model as they were written down; `None` where they are written anew."""
    return None if request.config.getoption("--write-counts") else json.loads(RESULTS.read_text())["models"]


def pytest_terminal_summary(terminalreporter, config):
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    properties = [value for report in reports for name, value in report.user_properties if name == "leaves"]
    models = dict(sorted((name, counts) for name, counts in properties))
    packages = sorted({name.partition("/")[0] for name in models})
    totals = {
        package: together({name: counts for name, counts in models.items() if name.startswith(f"{package}/")})
        for package in packages
    }
    totals["all"] = together(models)
    terminalreporter.section("leaves of real models")
    for package, counts in totals.items():
        terminalreporter.write_line(f"{package:14}" + "".join(f"{counts[key]:7} {key}" for key in counts))
    if config.getoption("--write-counts") and models:
        RESULTS.write_text(json.dumps({"packages": totals, "models": models}, indent=2) + "\n")
