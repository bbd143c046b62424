"""Modula's "hello, GPT" on plain Flax: its network, its characters and its setting, under today's defaults.

    python examples/hello_gpt.py                              # State of the Union addresses
    python examples/hello_gpt.py --corpus input.txt           # any text; Modula's notebook has tinyshakespeare
    python examples/hello_gpt.py --corpus input.txt --original    # with Modula's own masses and sensitivities

The last tenth of the text is held out. Losses are in nats per character; at the end, over all of what was held out.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import modula_optax as mo
from common.command import run_command
from common.modula_gpt import ModulaGPT
from gpt.cli import Parser, learning_rate, whole_number, width
from gpt.config import Config
from gpt.corpus import read_sotu
from gpt.errors import UserError
from gpt.training import loss

CONTEXT, BATCH = 64, 12  # as in Modula's notebook
CHUNK = 256  # sequences that are evaluated at a time
SHOWN = 10  # lines of the table

# Modula's own: a seventh of a step for the embedding, another for the output layer, the rest for all blocks together
BLOCKS_MASS = 5.0


def characters(path: Path | None) -> tuple[np.ndarray, int]:
    """A text as numbers of characters, and how many there are.

    Raises:
      UserError: the file cannot be read, or is too short to hold a tenth out.
    """
    if path is None:
        text = b"".join(read_sotu()).decode()
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the corpus {path}: {error}") from None
    if len(text) < 20 * (CONTEXT + 1):
        raise UserError(f"the corpus is too short: {len(text)} characters, and it takes {20 * (CONTEXT + 1)}")
    alphabet, numbers = np.unique(np.array(list(text)), return_inverse=True)
    return numbers.astype(np.int32), len(alphabet)


def norms(model: ModulaGPT) -> tuple[Any, Any]:
    """Shapes of the parameters, and the specs that Modula gives them."""
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    specs = mo.infer_specs(model.apply, params, tokens, sensitivity="traced")
    return params, mo.tare(mo.tare(specs, r".*/block.*", BLOCKS_MASS), r".*", 1.0)


def start(model: ModulaGPT, schedule: optax.Schedule, seed: int) -> tuple[Any, optax.GradientTransformation]:
    """The weights that Flax starts at, and the optimizer: with its defaults, and nothing else."""
    tokens = jnp.zeros((2, 8), jnp.int32)
    params = model.init(jax.random.key(seed), tokens)
    return params, mo.modular(schedule, mo.infer_specs(model.apply, params, tokens))


def start_original(model: ModulaGPT, schedule: optax.Schedule, seed: int) -> tuple[Any, optax.GradientTransformation]:
    """Weights of norm one, and the optimizer of Modula's notebook."""
    shapes, specs = norms(model)
    params = mo.initialize(jax.random.key(seed), shapes, specs)
    return params, optax.chain(optax.ema(0.95), mo.dualize(specs), optax.scale_by_learning_rate(schedule))


def windows(text: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Stretches of the text, each a character longer than the context: the last one is only predicted."""
    return text[starts[:, None] + np.arange(CONTEXT + 1)]


def train(text: np.ndarray, vocabulary: int, config: Config, rate: float, original: bool) -> float:
    """Trains, prints losses, and returns the last one."""
    training, held_out = np.split(text, [int(0.9 * len(text))])
    held_out = windows(held_out, np.arange(0, len(held_out) - CONTEXT, CONTEXT))
    model = ModulaGPT(vocabulary, config.width, config.heads, config.depth)
    schedule = optax.linear_schedule(rate, 0.0, config.steps)
    params, tx = (start_original if original else start)(model, schedule, config.seed)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch):
        value, grads = jax.value_and_grad(partial(loss, model))(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    evaluate = jax.jit(partial(loss, model))

    def validation(sequences: np.ndarray) -> float:
        pieces = np.split(sequences, range(CHUNK, len(sequences), CHUNK))
        return float(np.average([evaluate(params, piece) for piece in pieces], weights=[len(p) for p in pieces]))

    state, rng, every = tx.init(params), np.random.default_rng(config.seed), max(1, config.steps // SHOWN)
    value = jnp.inf
    print(" step  training  validation")
    for i in range(1, config.steps + 1):
        batch = windows(training, rng.integers(0, len(training) - CONTEXT, BATCH))
        params, state, value = step(params, state, batch)
        if i % every == 0 and i < config.steps:
            print(f"{i:5}{float(value):10.3f}{validation(held_out[:CHUNK]):12.3f}", flush=True)
    final = validation(held_out)
    print(f"{config.steps:5}{float(value):10.3f}{final:12.3f}")
    return final


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""

    def body() -> None:
        parser = Parser(description="Modula's GPT on plain Flax, in the setting of Modula's notebook.")
        parser.add_argument("--steps", type=whole_number(1), default=2000, help="default: %(default)s")
        parser.add_argument("--width", type=width, default=128, help="a multiple of 16; default: %(default)s")
        parser.add_argument("--blocks", type=whole_number(1), default=4, help="default: %(default)s")
        parser.add_argument("--learning-rate", type=learning_rate, help="default: 0.05; 0.1 with --original")
        parser.add_argument("--seed", type=whole_number(0), default=0, help="default: %(default)s")
        parser.add_argument("--corpus", type=Path, help="a text file; default: State of the Union addresses")
        parser.add_argument("--original", action="store_true", help="Modula's masses, sensitivities and momentum")
        arguments = parser.parse_args(argv)
        config = Config(arguments.steps, arguments.width, arguments.blocks, arguments.seed)
        rate = arguments.learning_rate or (0.1 if arguments.original else 0.05)
        train(*characters(arguments.corpus), config, rate, arguments.original)

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
