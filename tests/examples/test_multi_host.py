"""The example on several processes: it agrees with one device, and no process outlives another that died."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import multi_host  # noqa: E402
from gpt.errors import UserError  # noqa: E402
from hosts import launch  # noqa: E402
from hosts.comparison import Comparison, relative_differences  # noqa: E402
from hosts.problem import Problem  # noqa: E402
from hosts.task import Layout, Report, Task  # noqa: E402

PROSE = "It was the best of times, it was the worst of times, it was the age of wisdom. "
SOON = 30  # seconds, on a busy core; what hangs waits for minutes


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(PROSE * 100)
    return path


@pytest.fixture
def temporary(tmp_path):
    path = tmp_path / "temporary"
    path.mkdir()
    return path


@pytest.fixture
def script(corpus, temporary):
    def run(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, EXAMPLES / "multi_host.py", f"--corpus={corpus}", *arguments]
        environment = os.environ | {
            "PYTHONPATH": str(EXAMPLES.parent),
            "TMPDIR": str(temporary),
            # compiling is most of what it does
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return run


def children(process: subprocess.Popen) -> list[int]:
    """The processes that a process has started and not yet waited for."""
    tasks = Path(f"/proc/{process.pid}/task")
    return [int(pid) for path in tasks.glob("*/children") for pid in path.read_text().split()]


def wait_for_group(process: subprocess.Popen) -> list[int]:
    while len(pids := children(process)) < 2:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    return pids


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@contextmanager
def handled_by(number: int, handler: Any) -> Iterator[None]:
    """Processes started within ignore a signal if this handler does, whatever started the tests: a shell may."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")


# the command


def test_half_on_eight_devices_and_half_on_two_is_the_training_on_one(script, temporary):
    process = script("--first=2x4", "--then=1x2", "--dtype=float64")
    output, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    rows = [line.split() for line in output.splitlines()]
    # an eighth, then a half of the state on each device
    assert ["1-6", "2", "x", "4", "12.5%"] in [row[:5] for row in rows]
    assert ["7-12", "1", "x", "2", "50.0%"] in [row[:5] for row in rows]
    assert not list(temporary.iterdir())


@needs_proc
@pytest.mark.parametrize("victim", [0, 1])
def test_death_of_one_process_ends_all_soon(victim, script, temporary):
    process = script()
    pids = wait_for_group(process)
    os.kill(pids[victim], signal.SIGKILL)
    _, error = process.communicate(timeout=SOON)
    assert process.returncode == 1
    assert error.startswith("multi_host.py: process ")
    assert "of 2 was killed by SIGKILL" in error
    assert not any(map(is_running, pids))
    assert not list(temporary.iterdir())


@needs_proc
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_ended_from_outside_it_leaves_nothing_behind(number, status, script, temporary):
    with handled_by(number, signal.default_int_handler):
        process = script()
    pids = wait_for_group(process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=SOON)
    assert process.returncode == status, errors
    assert not any(map(is_running, pids))
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("layout", ["2", "0x4", "2x", "2x3", "4x8", "-1x2", "axb", "2x4x1"])
def test_bad_layout_is_one_line(layout, capsys):
    assert multi_host.main([f"--first={layout}"]) == 1
    output, error = capsys.readouterr()
    assert output == ""
    assert error.count("\n") == 1
    assert "--first" in error


# groups


def test_error_in_one_process_ends_the_group_soon(corpus, tmp_path):
    good = Task(Problem(), corpus, Layout(2, 1), None, 1, tmp_path, SOON)
    bad = dataclasses.replace(good, corpus=tmp_path / "nowhere")
    port = str(launch.free_port())
    commands = [
        [sys.executable, "-m", "hosts.worker", task.to_json(), port, str(i)] for i, task in enumerate((good, bad))
    ]
    env = launch.environment(1)
    env["PYTHONPATH"] += f"{os.pathsep}{EXAMPLES.parent}"
    with pytest.raises(UserError, match=r"process 1 of 2 failed with status 1: UserError: cannot read .*nowhere"):
        launch.run_together(commands, env, tmp_path, SOON)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_processes_that_hang_are_given_up(tmp_path):
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"2 processes had not finished after 0.5 seconds"):
        launch.run_together([python("import time; time.sleep(60)")] * 2, dict(os.environ), tmp_path, 0.5)
    assert time.monotonic() - begin < SOON


def test_interruption_that_is_ignored_ends_nothing(tmp_path):
    end = tmp_path / "end"
    interrupt = f"import os, signal; os.kill({os.getpid()}, signal.SIGINT)"
    finish = f"import time; time.sleep(0.5); open({str(end)!r}, 'w')"
    with handled_by(signal.SIGINT, signal.SIG_IGN):
        launch.run_together([python(f"{interrupt}; {finish}")], dict(os.environ), tmp_path, SOON)
    assert end.exists()


def test_last_words_of_a_process_are_shown(tmp_path):
    commands = [python("import time; time.sleep(60)"), python("import sys; print('first'); sys.exit('last')")]
    with pytest.raises(UserError, match=r"^process 1 of 2 failed with status 1: last$"):
        launch.run_together(commands, dict(os.environ), tmp_path, SOON)


def test_task_survives_the_command_line(tmp_path):
    task = Task(Problem(seed=3), tmp_path / "corpus", Layout(2, 4), None, 6, tmp_path, 9)
    assert Task.from_json(task.to_json()) == task


# the comparison


def comparison(losses=(2.0, 1.0), **parameters):
    return Comparison([(Layout(1, 1), Report(list(losses), 8))], [2.0, 1.0], {"w": 0.0} | parameters, 8)


def test_agreement_up_to_rounding_is_accepted():
    comparison((2.00001, 1.0), w=5e-4).refuse_disagreement("float32")


@pytest.mark.parametrize(
    ("found", "offender"),
    [
        (comparison((2.0, 1.001)), "the loss of step 2"),
        (comparison((2.0, math.nan)), "the loss of step 2"),
        (comparison(w=0.01), "w"),
        (comparison(w=math.nan), "w"),
    ],
)
def test_disagreement_is_refused(found, offender):
    with pytest.raises(UserError, match=f": {offender}$"):
        found.refuse_disagreement("float32")


def test_relative_difference_is_that_of_norms():
    found, expected = {"a": {"b": np.array([3.0, 4.5])}}, {"a": {"b": np.array([3.0, 4.0])}}
    assert relative_differences(found, expected) == {"a/b": 0.1}
