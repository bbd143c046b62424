"""Trains a byte-level GPT on real prose under modular duality, Muon and AdamW, and compares them.

    python examples/train_gpt.py                          # all three: some minutes on two cores
    python examples/train_gpt.py --optimizer modular      # one of them
    python examples/train_gpt.py --optimizer whitened     # the one with a learned metric
    python examples/train_gpt.py --resume                 # goes on where it was interrupted

The lines that a user of modula_optax writes are in `gpt/contenders.py`; the model and the training loop know nothing
of them. Results go to `out/`: `loss.png`, `norms.png` (what the parameters did under `modular`), `summary.json` and
checkpoints.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.command import run_command
from gpt.checkpoint import Checkpoints
from gpt.cli import parse_arguments
from gpt.config import Config
from gpt.contenders import COMPARED, LEARNING_RATES, READERS, start
from gpt.corpus import Corpus, load_corpus
from gpt.errors import UserError
from gpt.model import GPT
from gpt.results import Result, summary, table, write_pictures, write_summary
from gpt.sampling import readable, sample
from gpt.training import Record, State, train


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: arguments; `None`: those of the process.

    Returns:
      The exit status: 0, 1 for what the user can put right, 130 for an interruption.
    """
    return run_command(
        lambda: compare(parse_arguments(argv)),
        "train_gpt.py",
        "interrupted; the same command with --resume goes on from the last checkpoint",
    )


def compare(arguments: argparse.Namespace) -> None:
    """Trains with every optimizer that was asked for, and reports."""
    config = Config(arguments.steps, arguments.width, arguments.depth, arguments.seed)
    names = list(COMPARED) if arguments.optimizer == "all" else [arguments.optimizer]
    refuse_what_does_not_fit(config)
    corpus = load_corpus(arguments.corpus, config.context)
    prepare_directory(arguments.out)
    model = GPT(config.width, config.depth, config.heads)
    console = Console()

    results, states = {}, {}
    with progress_bar(console) as progress:
        for name in names:
            learning_rate = arguments.learning_rate or LEARNING_RATES[name]
            states[name], record = run(name, model, learning_rate, config, corpus, arguments, progress)
            results[name] = Result(learning_rate, record)

    numbers = summary(results, dataclasses.asdict(config) | {"parameters": config.parameters, "corpus": corpus.name})
    write_summary(arguments.out / "summary.json", numbers)
    pictures = write_pictures(arguments.out, results)
    console.print(table(numbers["runs"]))
    best = min(results, key=lambda name: results[name].validation_loss)
    print_sample(console, best, model, states[best], config, corpus)
    written = [arguments.out / "summary.json", *pictures]
    console.print(f"Written: {', '.join(map(str, written))}", highlight=False)


def run(
    name: str,
    model: GPT,
    learning_rate: float,
    config: Config,
    corpus: Corpus,
    arguments: argparse.Namespace,
    progress: Progress,
) -> tuple[State, Record]:
    """Trains with one optimizer, from the start or from its last checkpoint."""
    params, tx = start(name, model, learning_rate, config.steps, config.seed)
    state, record = State(params, tx.init(params), jnp.int32(0)), Record()
    identity = dataclasses.asdict(config) | {"learning_rate": learning_rate, "corpus": corpus.fingerprint}
    checkpoints = Checkpoints(arguments.out / "checkpoints" / name, identity)
    if arguments.resume and (saved := checkpoints.restore(state)):
        state, record = saved[0], Record(**saved[1])
    elif arguments.resume:
        progress.console.print(f"{name}: no checkpoint in {checkpoints.directory}, starting at step 0", highlight=False)

    task = progress.add_task(name, total=config.steps, completed=int(state.position), loss="")
    state = train(
        model,
        tx,
        state,
        record,
        config=config,
        corpus=corpus,
        checkpoints=checkpoints,
        on_step=lambda done, loss: progress.update(task, completed=done, loss=f"loss {loss:.3f}"),
        read_norms=READERS.get(name),
    )
    return state, record


def refuse_what_does_not_fit(config: Config) -> None:
    """Refuses a model that the memory of this machine cannot hold."""
    # parameters, gradients and two moments in float32; the batch comes on top
    needed, memory = 16 * config.parameters, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"a model of {config.parameters:,} parameters takes {needed / 1e9:,.0f} GB to train, and this machine has "
            f"{memory / 1e9:,.0f}; lower --width or --depth"
        )


def prepare_directory(out: Path) -> None:
    """Makes the output directory, and finds out before the training whether it can be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"cannot write to the directory {out}: {error.strerror}") from None


def progress_bar(console: Console) -> Progress:
    """A line for each optimizer: how far it is, its loss, and how long it will take."""
    return Progress(
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )


def print_sample(console: Console, name: str, model: GPT, state: State, config: Config, corpus: Corpus) -> None:
    """Lets the model go on from the beginning of the validation text."""
    prompt = corpus.validation[: config.context]
    text = sample(model, state.params, prompt, 300, jax.random.key(config.seed))
    shown = f"{readable(prompt)}|{text}"
    console.print(f"\nWritten by the model trained with {name}, after the bar:", highlight=False)
    # not every terminal can show every character, and square brackets are markup to rich
    console.print(shown.encode(console.encoding, "replace").decode(console.encoding), markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
