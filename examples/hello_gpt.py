"""Modula's "hello, GPT" on plain Flax: a transformer built for the modular norm, on State of the Union addresses.

    python examples/hello_gpt.py
    python examples/hello_gpt.py --blocks 8 --width 64     # the same learning rate

Its sensitivities are read off the network, and the masses are Modula's: a seventh of a step for the embedding, another
for the output layer, the rest for the blocks, however many there are.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import modula_optax as mo
from common.command import run_command
from common.modula_gpt import ModulaGPT
from gpt.cli import Parser, learning_rate, whole_number, width
from gpt.config import Config
from gpt.corpus import load_corpus, training_batch, validation_batch
from gpt.training import State, loss, make_step

BLOCKS_MASS = 5.0
SHOWN = 10  # lines of the table


def norms(model: ModulaGPT) -> tuple[Any, Any]:
    """Shapes of the parameters, and the specs that Modula gives them."""
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    specs = mo.infer_specs(model.apply, params, tokens, sensitivity="traced")
    return params, mo.tare(mo.tare(specs, r".*/block.*", BLOCKS_MASS), r".*", 1.0)


def train(model: Any, config: Config, rate: float, path: Path | None) -> None:
    """Trains, and prints losses in nats per byte."""
    corpus = load_corpus(path, config.context)
    shapes, specs = norms(model)
    params = mo.initialize(jax.random.key(config.seed), shapes, specs)
    tx = optax.chain(
        optax.ema(0.95),
        mo.dualize(specs),
        optax.scale_by_learning_rate(optax.linear_schedule(rate, 0.0, config.steps)),
    )
    state, step = State(params, tx.init(params), jnp.int32(0)), make_step(model, tx)
    held_out, evaluate = validation_batch(corpus, config), jax.jit(loss, static_argnums=0)
    print(" step  training  validation")
    every = max(1, config.steps // SHOWN)
    for i in range(config.steps):
        state, value = step(state, training_batch(corpus, config, i))
        if (i + 1) % every == 0 or i + 1 == config.steps:
            print(f"{i + 1:5}{float(value):10.3f}{float(evaluate(model, state.params, held_out)):12.3f}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""

    def body() -> None:
        parser = Parser(description="Modula's GPT on plain Flax, trained as Modula trains it.")
        parser.add_argument("--steps", type=whole_number(1), default=300, help="default: %(default)s")
        parser.add_argument("--width", type=width, default=128, help="a multiple of 16; default: %(default)s")
        parser.add_argument("--blocks", type=whole_number(1), default=4, help="default: %(default)s")
        parser.add_argument("--learning-rate", type=learning_rate, default=0.1, help="default: %(default)s")
        parser.add_argument("--seed", type=whole_number(0), default=0, help="default: %(default)s")
        parser.add_argument("--corpus", type=Path, help="a text file; default: State of the Union addresses")
        arguments = parser.parse_args(argv)
        config = Config(arguments.steps, arguments.width, arguments.blocks, arguments.seed, batch=12)
        model = ModulaGPT(256, arguments.width, config.heads, arguments.blocks)
        train(model, config, arguments.learning_rate, arguments.corpus)

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
