"""The optimizers that are compared."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import modula_optax as mo
from gpt.contenders import muon_dimension_numbers, schedule
from sweeps.problem import Problem
from sweeps.run import Hyper

B1 = 0.9  # for so few steps a short average is better, for all of them
Specs = Callable[[Problem], Any]
Transform = Callable[[Hyper, int, Any], optax.GradientTransformation]


class Contender(NamedTuple):
    """An optimizer and the weights it starts from.

    Attributes:
      transform: of the tuned numbers, how many steps there will be, and the specs.
      specs: what the norm of each parameter is; `None` for an optimizer without norms.
      start_at_norm_one: whether the weights are initialized by their norms, instead of by the framework.
    """

    transform: Transform
    specs: Specs | None = None
    start_at_norm_one: bool = False

    def params(self, problem: Problem, seed: int) -> Any:
        """The weights that training starts from."""
        params = problem.init(jax.random.key(seed))
        if self.specs is None or not self.start_at_norm_one:
            return params
        return mo.initialize(jax.random.key(seed), params, self.specs(problem))

    def norms(self, problem: Problem) -> str:
        """Text of the specs, without what they were inferred from."""
        if self.specs is None:
            return ""
        spec_tree = self.specs(problem)
        return repr(jax.tree.map(lambda spec: dataclasses.replace(spec, why=None), spec_tree)) + str(
            self.start_at_norm_one
        )


def inferred(change: Callable[[mo.NormSpec], mo.NormSpec] = lambda spec: spec, **options: Any) -> Specs:
    """Specs by inference, with options of `infer_specs`, and something changed of each."""

    def specs(problem: Problem) -> Any:
        params = jax.eval_shape(problem.init, jax.random.key(0))
        return jax.tree.map(change, mo.infer_specs(problem.predict, params, problem.inputs, **options))

    return specs


def modular(hyper: Hyper, steps: int, specs: Any) -> optax.GradientTransformation:
    """The defaults."""
    rate = schedule(hyper.learning_rate, steps)
    return mo.modular(rate, specs, weight_decay=hyper.weight_decay)


def scion(hyper: Hyper, steps: int, specs: Any) -> optax.GradientTransformation:
    """Scion, its radii those of its paper for language models."""
    return mo.scion(schedule(hyper.learning_rate, steps), specs, momentum=1 - B1)


def ball(spec: mo.NormSpec) -> mo.NormSpec:
    """The head's ball 60 times that of all other matrices, as in Scion's paper."""
    radius = 60.0 if spec.place == "head" and spec.role == "linear" else 1.0
    return dataclasses.replace(spec, mass=0.1 if spec.role == "gain" else radius)


def muon(hyper: Hyper, steps: int, specs: Any) -> optax.GradientTransformation:
    """Optax's Muon for the matrices of the blocks; its Adam for embedding, head and gains at a rate of its own."""
    del specs
    rate = schedule(hyper.learning_rate, steps)
    return optax.contrib.muon(
        rate,
        beta=B1,
        muon_weight_dimension_numbers=muon_dimension_numbers,
        adam_learning_rate=lambda step: hyper.second_rate * rate(step),
        adam_b2=hyper.b2,
        weight_decay=hyper.weight_decay,
    )


def adamw(hyper: Hyper, steps: int, specs: Any) -> optax.GradientTransformation:
    """AdamW for everything."""
    del specs
    return optax.adamw(schedule(hyper.learning_rate, steps), b1=B1, b2=hyper.b2, weight_decay=hyper.weight_decay)


OPTIMIZERS: dict[str, Contender] = {
    "modular": Contender(modular, inferred()),
    "muon": Contender(muon),
    "adamw": Contender(adamw),
    "scion": Contender(scion, inferred(ball, head=mo.Sign()), start_at_norm_one=True),
}
