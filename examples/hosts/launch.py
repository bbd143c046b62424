"""Groups of processes on this machine: all of them end well, or none is left running."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt.errors import UserError
from hosts.task import Task

EXAMPLES = Path(__file__).parents[1]


def run_group(task: Task) -> None:
    """Runs the processes of a task side by side.

    Raises:
      UserError: one of them died or they took too long; the others are killed.
    """
    port = free_port()
    workers = range(task.layout.processes)
    commands = [[sys.executable, "-m", "hosts.worker", task.to_json(), str(port), str(process)] for process in workers]
    run_together(commands, environment(task.layout.devices), task.out, task.timeout)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    """That of this process, with a number of CPU devices and the modules of the examples."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH")])),
    }


def run_together(commands: list[list[str]], env: dict[str, str], logs: Path, timeout: float) -> None:
    """Runs commands side by side, until all have ended or one has failed.

    Args:
      commands: one per process.
      env: their environment.
      logs: a directory for what they print.
      timeout: seconds until they are taken to hang.

    Raises:
      UserError: one failed, or the time is over; none of them is left.
    """
    files = [logs / f"process_{i}.log" for i in range(len(commands))]
    processes = []
    with signals_held() as arrived:
        try:
            for command, path in zip(commands, files, strict=True):
                with path.open("wb") as log:
                    processes.append(
                        subprocess.Popen(
                            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                        )
                    )
            wait_for(processes, files, timeout, arrived)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()


@contextmanager
def signals_held() -> Iterator[list[int]]:
    """Signals that end this process are collected, and do so afterwards.

    One that came while another process is being started would leave that one running, and an exception raised from
    within a callback of the garbage collector is ignored. Those that a shell has this process ignore, as of what it
    runs in the background, stay ignored.
    """
    arrived: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)


def wait_for(processes: list[subprocess.Popen], logs: list[Path], timeout: float, arrived: list[int]) -> None:
    """Returns when all have ended well or a signal has arrived; raises as soon as one has not ended well."""
    deadline = time.monotonic() + timeout
    while not arrived:
        statuses = [process.poll() for process in processes]
        died = [
            f"process {i} of {len(processes)} {cause(status)}{last_line(log)}"
            for i, (status, log) in enumerate(zip(statuses, logs, strict=True))
            if status
        ]
        if died:
            raise UserError("; ".join(died))
        if None not in statuses:
            return
        if time.monotonic() > deadline:
            raise UserError(f"{len(processes)} processes had not finished after {timeout:g} seconds (--timeout)")
        time.sleep(0.05)


def cause(status: int) -> str:
    """What the exit status of a process says, in words."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"failed with status {status}"


def last_line(log: Path) -> str:
    """The last thing that a process said, if it said anything."""
    lines = log.read_text(errors="replace").split("\n")
    return next((f": {textwrap.shorten(line, 200)}" for line in reversed(lines) if line.strip()), "")
