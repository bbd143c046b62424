"""Runs a list of configurations, each once: what is in the cache is read from it."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sweeps.contenders import OPTIMIZERS
from sweeps.problem import TASKS, Problem
from sweeps.run import Curve, Hyper, Run, Setting


class State(NamedTuple):
    """What a step depends on."""

    params: Any
    opt_state: Any


class Program(NamedTuple):
    """What is compiled once for all learning rates and seeds of an optimizer."""

    init: Callable[[Hyper, Any], State]
    step: Callable[[Hyper, State, Any], State]
    evaluate: Callable[[State], jax.Array]


@cache
def problem_of(setting: Setting) -> Problem:
    """The network and data of a setting."""
    return TASKS[setting.task](setting)


@cache
def compiled(setting: Setting, optimizer: str) -> Program:
    """The programs of one optimizer in one setting."""
    problem, contender = problem_of(setting), OPTIMIZERS[optimizer]
    specs = contender.specs and contender.specs(problem)

    def transform(hyper: Hyper) -> optax.GradientTransformation:
        return contender.transform(hyper, setting.steps, specs)

    def init(hyper: Hyper, params: Any) -> State:
        return State(params, transform(hyper).init(params))

    def step(hyper: Hyper, state: State, batch: Any) -> State:
        grads = jax.grad(problem.loss)(state.params, batch)
        updates, opt_state = transform(hyper).update(grads, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), opt_state)

    def evaluate(state: State) -> jax.Array:
        return problem.loss(state.params, problem.held_out)

    return Program(jax.jit(init), jax.jit(step, donate_argnums=1), jax.jit(evaluate))


@cache
def norms_of(setting: Setting, optimizer: str) -> str:
    """Text of the norms that an optimizer has in a setting."""
    return OPTIMIZERS[optimizer].norms(problem_of(setting))


def train(run: Run) -> Curve:
    """Trains, and measures the validation loss at intervals; stops where it is no number any more."""
    problem, program = problem_of(run.setting), compiled(run.setting, run.optimizer)
    hyper = jax.tree.map(jnp.float32, run.hyper)
    state = program.init(hyper, OPTIMIZERS[run.optimizer].params(problem, run.seed))
    curve = Curve([], [])
    every = max(1, run.setting.steps // run.setting.evaluations)
    for done in range(1, run.setting.steps + 1):
        state = program.step(hyper, state, problem.batch(run.seed, done - 1))
        if done % every == 0 or done == run.setting.steps:
            loss = float(program.evaluate(state))
            curve.steps.append(done)
            curve.losses.append(loss if math.isfinite(loss) else math.inf)
            if curve.final == math.inf:
                break
    return curve


class Runner:
    """Runs configurations that the cache does not hold, and says how long the rest will take.

    Args:
      directory: of the cache, a file for each run; it may be deleted at any time.
      total: how many runs are expected.
    """

    def __init__(self, directory: Path, total: int):
        self.directory, self.total = directory, total
        self.done, self.trained = 0, 0
        self.started_at = time.perf_counter()
        directory.mkdir(parents=True, exist_ok=True)

    def __call__(self, runs: Iterable[Run]) -> dict[Run, Curve]:
        """The curves of these runs, trained or read."""
        return {run: self.one(run) for run in runs}

    def one(self, run: Run) -> Curve:
        """The curve of one run, trained or read."""
        path = self.directory / f"{run.key(norms_of(run.setting, run.optimizer))}.json"
        self.done += 1
        if path.exists():
            return Curve(**json.loads(path.read_text())["curve"])
        started = time.perf_counter()
        curve = train(run)
        seconds = time.perf_counter() - started
        provisional = path.with_suffix(f".{os.getpid()}")
        provisional.write_text(json.dumps({"run": run.record(), "curve": curve._asdict(), "seconds": seconds}))
        # whoever interrupts: a file is complete or absent
        provisional.rename(path)
        self.report(run, curve, seconds)
        return curve

    def report(self, run: Run, curve: Curve, seconds: float) -> None:
        """Says what a run came to, and how long the rest will take."""
        self.trained += 1
        left = (time.perf_counter() - self.started_at) / self.trained * max(0, self.total - self.done)
        s = run.setting
        hyper = " ".join(f"{name} {value:.4g}" for name, value in run.hyper._asdict().items())
        print(
            f"[{self.done}/{self.total}] {s.task} {s.width}x{s.depth} {run.optimizer} {hyper} seed {run.seed}: "
            f"{curve.final:.4f} ({seconds:.0f} s, {left / 60:.0f} min left)",
            flush=True,
        )
