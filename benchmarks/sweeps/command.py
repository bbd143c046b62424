"""The command line that the sweeps share: how much to run, on which data, and where results go."""

import argparse
from pathlib import Path
from typing import NamedTuple

from gpt.errors import UserError
from sweeps.problem import add_images


class Command(NamedTuple):
    """What was asked for.

    Attributes:
      extent: `"quick"`, `"default"` or `"full"`.
      task: a key of `problem.TASKS`.
      seeds: how many runs are reported.
      results: path of the results, without a suffix.
      cache: where runs are kept; of files, in a directory that goes by what is in them.
    """

    extent: str
    task: str
    seeds: int
    results: Path
    cache: Path


def parse(description: str | None, results: Path) -> Command:
    """Reads the command line.

    Args:
      description: what `--help` says.
      results: path of the results, without a suffix; the name of other data than text is added to it.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", dest="extent", action="store_const", const="quick", help="minutes")
    extent.add_argument("--full", dest="extent", action="store_const", const="full", help="hours, or a GPU")
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--digits", dest="task", action="store_const", const="digits", help="classify digits instead")
    data.add_argument("--data", type=Path, help="classify the images of a directory of IDX files instead")
    parser.add_argument("--seeds", type=int, help="runs of what is reported (3, of images 9)")
    parser.add_argument("--out", type=Path, default=results.parent, help="where results go (benchmarks/results)")
    arguments = parser.parse_args()
    task, cache = arguments.task or "gpt", Path("out/sweeps")
    if arguments.data is not None:
        try:
            task, identity = add_images(arguments.data)
        except UserError as error:
            parser.error(str(error))
        cache /= identity
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = results.name if task == "gpt" else f"{results.name}_{task.replace(' ', '_')}"
    seeds = arguments.seeds or (3 if task == "gpt" else 9)
    return Command(arguments.extent or "default", task, seeds, arguments.out / name, cache)
