"""A norm, a constraint and a primitive of your own, in a training run: what to define, and where it goes from there.

python examples/extend.py
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

import modula_optax as mo
from modula_optax import constraints, norms


@norms.register  # lets spec trees with it be written to JSON
@dataclasses.dataclass(frozen=True)
class KyFan(mo.Norm):
    """Sum of the k largest singular values: steps are of rank one, or orthogonal where the gradient is spread out."""

    # so that SpectralCap and its like can hold its weights; without an annotation it is no field
    measures_singular_values = True

    k: int = 2

    def norm(self, w):
        return jnp.max(jnp.sum(norms.singular_values(w)[..., : self.k], axis=-1), axis=-1)

    def dual_norm(self, g):
        s = norms.singular_values(g)
        return jnp.sum(jnp.maximum(s[..., 0], jnp.sum(s, axis=-1) / self.k), axis=-1)

    def dualize(self, g):
        # the extreme points of the unit ball: matrices of rank one, and orthogonal ones over k
        u, s, v = norms.power_iteration(g, norms.leading_direction(g), 2)
        spread = jnp.sum(norms.singular_values(g), axis=-1) / self.k
        rank_one = u[..., :, None] * v[..., None, :]
        return jnp.where((s >= spread)[..., None, None], rank_one, norms.polar(g) / self.k)

    def project(self, w):
        largest = self.norm(w)[..., None, None, None]
        return w / jnp.where(largest == 0.0, 1.0, largest)


@constraints.register
@dataclasses.dataclass(frozen=True)
class NonNegative(mo.Constraint):
    """Weights that are not negative."""

    def retract(self, norm, w, memory, step):
        return jnp.maximum(w, 0.0), memory


def snake(x):
    """An activation as a kernel of your own would compute it: x + sin(x)^2, whose slope is at most 2."""
    return SNAKE.bind(x)


SNAKE = Primitive("snake")
SNAKE.def_abstract_eval(lambda x: x)
mlir.register_lowering(SNAKE, mlir.lower_fun(lambda x: x + jnp.sin(x) ** 2, multiple_results=False))
ad.defjvp(SNAKE, lambda tangent, x: tangent * (1.0 + jnp.sin(2.0 * x)))
batching.defvectorized(SNAKE)
# how roles pass through it, and how steep it is; of what does not work entry by entry, as fused layers, a function
# of JAX that computes the same says both: mo.register_primitive("fused", lambda x, w: jnp.tanh(x @ w))
mo.register_primitive("snake", slope=2.0)


def network(params, x):
    """The model that is trained."""
    return snake(x @ params["hidden"]) @ params["out"]


RULES = mo.NormRegistry(
    mo.Rule("hidden", KyFan(2), constraint=mo.SpectralCap(4.0)),
    mo.Rule("out", mo.Spectral(), constraint=NonNegative()),
)


def train(steps: int = 200) -> tuple[float, float, dict]:
    """Fits a small network; returns its first and last loss and its weights."""
    x = jax.random.normal(jax.random.key(0), (256, 8))
    target = jnp.tanh(x @ jax.random.normal(jax.random.key(1), (8, 4)))
    shapes = {"hidden": jnp.zeros((8, 16)), "out": jnp.zeros((16, 4))}
    specs = mo.infer_specs(network, shapes, x, overrides=RULES)  # norms of RULES, along the axes that are inferred
    assert mo.specs_from_json(mo.specs_to_json(specs)) == specs
    params = mo.initialize(jax.random.key(2), shapes, specs)

    def loss(params):
        return jnp.mean((network(params, x) - target) ** 2)

    tx = mo.modular(optax.linear_schedule(0.1, 0.0, steps), specs, weight_decay=0.0)

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))((params, tx.init(params)))
    return float(losses[0]), float(losses[-1]), params


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    first, last, trained = train()
    print(f"loss {first:.3f} -> {last:.3f}")
    print(f"the output moves by at most {mo.lipschitz_bound(network, trained, jnp.ones((1, 8))):.1f} times its input")
