"""Trains a GPT on several processes, saves, restores on another number of devices, and checks what comes out.

    python examples/multi_host.py                            # a minute on one core
    python examples/multi_host.py --first 1x2 --then 2x2     # processes x devices of each

The first half of the steps runs on one group of processes, the second on another that restores what the first has
saved. The processes of a group are connected by `jax.distributed` and hold parameters and optimizer state in shards.
The same training on one device, without any of this, must give the same losses and parameters.

All processes are started from here, on the CPU of this machine. What several hosts need is in `hosts/worker.py` and
`hosts/fsdp.py`; model, optimizer and step are those of `train_gpt.py`.
"""

import argparse
import re
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
from rich.console import Console

from common.command import run_command
from gpt.checkpoint import read_state
from gpt.cli import Parser, whole_number
from gpt.corpus import load_corpus, training_batch
from gpt.training import State, make_step
from hosts.comparison import PARAMETER_TOLERANCE, Comparison, relative_differences
from hosts.launch import run_group
from hosts.problem import Problem, run_steps, set_up
from hosts.task import Layout, Report, Task


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: arguments; `None`: those of the process.

    Returns:
      The exit status: 0, 1 if a process died or the results differ, 130 for an interruption.
    """

    def body() -> None:
        arguments = parse_arguments(argv)
        with tempfile.TemporaryDirectory(prefix="multi_host_") as directory:
            run(arguments, Path(directory), Console())

    return run_command(body, "multi_host.py")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, checked.

    Raises:
      UserError: an argument is unknown or has no good value.
    """
    parser = Parser(description="Trains on several processes, resumes on another number of devices, checks the result.")
    parser.add_argument("--first", type=layout, default=Layout(2, 4), help="where it starts; default: 2x4")
    parser.add_argument("--then", type=layout, default=Layout(1, 2), help="where it is resumed; default: 1x2")
    parser.add_argument(
        "--dtype", choices=list(PARAMETER_TOLERANCE), default=Problem.dtype, help="default: %(default)s"
    )
    parser.add_argument("--corpus", type=Path, help="a text file; default: State of the Union addresses")
    parser.add_argument("--timeout", type=whole_number(1), default=300, help="seconds per group; default: %(default)s")
    return parser.parse_args(argv)


def layout(text: str) -> Layout:
    """Processes and devices, which together divide the batch."""
    match = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)", text)
    if match is None or Problem.batch % (int(match[1]) * int(match[2])):
        raise argparse.ArgumentTypeError(
            f"must be PROCESSESxDEVICES with a product that divides {Problem.batch}; got {text}"
        )
    return Layout(int(match[1]), int(match[2]))


def run(arguments: argparse.Namespace, directory: Path, console: Console) -> None:
    """Trains both ways, prints the table and refuses what does not agree."""
    problem = Problem(dtype=arguments.dtype)
    console.print(f"Training on one device: {problem.steps} steps, {problem.parameters:,} parameters, {problem.dtype}")
    losses, state = train_alone(problem, arguments.corpus)

    stretches, previous = [], None
    for group, until in ((arguments.first, problem.steps // 2), (arguments.then, problem.steps)):
        console.print(f"{'Starting' if previous is None else 'Resuming'} on {group} devices, up to step {until}")
        out = directory / f"until_{until}"
        out.mkdir()
        run_group(Task(problem, arguments.corpus, group, previous, until, out, arguments.timeout))
        stretches.append((group, Report.read(out)))
        previous = out

    # once more on another number of devices: the one of this process
    found = read_state(out / "state", state)
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    comparison = Comparison(stretches, losses, relative_differences(found.params, state.params), whole)
    console.print(comparison.table())
    comparison.refuse_disagreement(problem.dtype)


def train_alone(problem: Problem, corpus_path: Path | None) -> tuple[list[float], State]:
    """The loss of every step and the last state of the same training on one device of this process."""
    # the others are on the CPU
    jax.config.update("jax_platforms", "cpu")
    corpus = load_corpus(corpus_path, problem.context)
    initial_state, model, tx = set_up(problem)
    batch_at = partial(training_batch, corpus, problem)
    state, losses = run_steps(make_step(model, tx), jax.jit(initial_state)(), batch_at, problem.steps)
    return losses, state


if __name__ == "__main__":
    # as an exception, so that no process and no directory is left behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
