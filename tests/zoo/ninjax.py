"""Ninjax: flat parameters under slash paths; layouts as written in the model."""

import jax
import jax.numpy as jnp
import ninjax as nj

from tests.zoo._model import array, tokens, zoo_model


class Linear(nj.Module):
    def __init__(self, units):
        self.units = units

    def __call__(self, x):
        w = self.value("kernel", jnp.ones, (x.shape[-1], self.units))
        b = self.value("bias", jnp.zeros, (self.units,))
        return x @ w + b


class Net(nj.Module):
    def __init__(self, vocab=11):
        self.vocab = vocab

    def __call__(self, idx):
        table = self.value("embed", jnp.ones, (self.vocab, 6))
        x = table[idx]
        for i in range(2):
            x = x + self.sub(f"h{i}", Linear, 6)(jax.nn.silu(self.sub(f"g{i}", Linear, 9)(rms_norm(self, f"n{i}", x))))
        return self.sub("head", Linear, self.vocab)(x)


def rms_norm(module, name, x):
    scale = module.value(name, jnp.ones, (x.shape[-1],))
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def built(make, *inputs):
    model = make()
    pure = nj.pure(lambda *a: model(*a))
    params = jax.eval_shape(lambda *a: pure({}, *a, seed=0, create=True)[0], *inputs)

    def apply(p, *a):
        return pure(p, *a, seed=0)[1]

    return apply, params, inputs


@zoo_model(
    truth={r".*embed": "embedding 0 > 1", r".*kernel": "linear 0 > 1", r".*bias": "bias > 0", r".*n\d": "gain > 0"}
)
def residual_mlp():
    return built(lambda: Net(name="model"), tokens(3, 5))  # pyright: ignore[reportCallIssue]


class WorldModel(nj.Module):
    """A recurrent state-space core, as Ninjax is used for."""

    def __call__(self, x):
        initial = jnp.zeros((x.shape[0], 6))

        def step(carry, inputs):
            gates = self.sub("gates", Linear, 18)(jnp.concatenate([carry, inputs], -1))
            reset, candidate, update = jnp.split(gates, 3, -1)
            carry = jax.nn.sigmoid(update) * jnp.tanh(jax.nn.sigmoid(reset) * candidate) + (1 - update) * carry
            return carry, carry

        x = self.sub("enc", Linear, 5)(x)
        _, states = nj.scan(step, initial, x.swapaxes(0, 1), axis=0)
        return self.sub("dec", Linear, 4)(states)


@zoo_model(truth={r".*kernel": "linear 0 > 1", r".*bias": "bias > 0"})
def world_model():
    return built(lambda: WorldModel(name="model"), array(3, 5, 4))  # pyright: ignore[reportCallIssue]
