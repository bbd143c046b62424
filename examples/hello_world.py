"""Modula's "hello, world" on plain Flax: a perceptron learns random targets by dualized gradient descent.

    python examples/hello_world.py

Masses sum to one and sensitivities are read off the network, as in Modula: a step of 0.1 moves the outputs by a tenth.
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import modula_optax as mo
from common.command import run_command
from gpt.cli import Parser, learning_rate, whole_number

INPUTS, WIDTH, OUTPUTS, BATCH = 784, 256, 10, 128
SHOWN = 10  # lines of the table


class MLP(nn.Module):
    """Three linear layers without biases."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """As many outputs as there are targets."""
        for _ in range(2):
            x = nn.relu(nn.Dense(WIDTH, use_bias=False)(x))
        return nn.Dense(OUTPUTS, use_bias=False)(x)


def train(steps: int, rate: float, seed: int) -> None:
    """Trains, and prints the loss."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x, y = jax.random.normal(keys[0], (BATCH, INPUTS)), jax.random.normal(keys[1], (BATCH, OUTPUTS))
    model = MLP()
    params = jax.eval_shape(model.init, keys[2], x)
    specs = mo.tare(mo.infer_specs(model.apply, params, x, sensitivity="traced"), r".*", 1.0)
    params = mo.initialize(keys[2], params, specs)
    print(mo.summarize(specs, params))
    tx = optax.chain(mo.dualize(specs), optax.scale_by_learning_rate(optax.linear_schedule(rate, 0.0, steps)))

    @jax.jit
    def step(params, opt_state):
        def loss_fn(params):
            return ((jnp.asarray(model.apply(params, x)) - y) ** 2).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state = tx.init(params)
    print("\n step   loss")
    for i in range(steps):
        params, opt_state, loss = step(params, opt_state)
        if i % max(1, steps // SHOWN) == 0 or i == steps - 1:
            print(f"{i:5}{float(loss):7.3f}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""

    def body() -> None:
        parser = Parser(description=(__doc__ or "").partition("\n")[0])
        parser.add_argument("--steps", type=whole_number(1), default=300, help="default: %(default)s")
        parser.add_argument("--learning-rate", type=learning_rate, default=0.1, help="default: %(default)s")
        parser.add_argument("--seed", type=whole_number(0), default=0, help="default: %(default)s")
        arguments = parser.parse_args(argv)
        train(arguments.steps, arguments.learning_rate, arguments.seed)

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
