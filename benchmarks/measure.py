"""Measuring: compilation and run time of functions in turn, and where the numbers come from."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

import modula_optax


def gpt2(layers: int, width: int = 768) -> dict[str, jax.ShapeDtypeStruct]:
    """The matrices of a GPT-2; width 768 is its small one, of 12 layers."""
    sizes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
    return {
        f"layer{i}/{name}": jax.ShapeDtypeStruct(size, jnp.float32)
        for i in range(layers)
        for name, size in sizes.items()
    }


def gaussian(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Random gradients of these shapes."""
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.standard_normal(s.shape, np.float32)) for name, s in shapes.items()}


def rolled_up(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Muon of Optax's main branch, whose iteration is a loop: that 0.2.8 asks to have it unrolled is not heard here."""

    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None) -> Any:
        with mock.patch.object(jax.lax, "fori_loop", lambda *arguments, unroll=None: fori_loop(*arguments)):
            return tx.update(updates, state, params)

    fori_loop = jax.lax.fori_loop
    return optax.GradientTransformation(tx.init, update)


class Compiled(NamedTuple):
    """A compiled function with its arguments, and what it cost to compile."""

    run: Callable[[], Any]
    compile_seconds: float
    temporary_megabytes: float
    program: Any


def compiled(function: Callable[..., Any], *arguments: Any) -> Compiled:
    """Compiles a function for its arguments, without running it."""
    lowered_at = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - lowered_at
    analysis = program.memory_analysis()
    memory = analysis.temp_size_in_bytes / 1e6 if analysis else float("nan")
    return Compiled(lambda: jax.block_until_ready(program(*arguments)), seconds, memory, program)


def in_turn(programs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every program, run in turn so that a change of the machine's load meets all of them."""
    for run in programs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, run in programs.items():
            started_at = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started_at)
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Ratio of two series measured in turn: the median of the ratios of each turn, and their range."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def machine() -> dict[str, Any]:
    """Device, cores and versions that a result belongs to."""
    return {
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "optax": version("optax"),
        # not that of the metadata, which an editable install keeps from the day it was made
        "modula_optax": modula_optax.__version__,
    }
