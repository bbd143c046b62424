"""The tables that laws are claimed over: every norm on every shape it takes, and matrices of known singular values."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import modula_optax as mo

# the oldest supported versions of JAX have it under another name
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else getattr(jax.experimental, "enable_x64")  # noqa: B009

MATRIX_NORMS = (mo.Spectral(), mo.Frobenius(), mo.Embedding(), mo.RowL2(), mo.Sign())
VECTOR_NORMS = (mo.RMS(), mo.Diagonal())

MATRICES = (
    ((6, 10), None),
    ((10, 6), mo.Axes(fan_in=-1, fan_out=-2)),
    ((1, 7), None),
    ((2, 3, 4, 5), None),
    ((2, 4, 6), mo.Axes(fan_in=(0, 1), fan_out=2)),
    ((3, 2, 4, 6), mo.Axes(fan_in=-2, fan_out=-1, taps=(0, 1))),
    ((8, 2, 3), mo.Axes(fan_in=1, fan_out=0, taps=2, groups=4)),
    ((5,), mo.Axes(fan_in=0, fan_out=())),
    ((6, 8), mo.Axes(fan_in=0, fan_out=1, groups=2, in_groups=3)),
)
VECTORS = (
    ((8,), None),
    ((), None),
    ((3, 4), None),
    ((3, 4), mo.Axes(fan_in=(), fan_out=-1)),
)

# every norm on every shape
LEAVES = tuple(
    pytest.param(
        mo.NormSpec(norm, axes), shape, id=f"{type(norm).__name__}-{'x'.join(map(str, shape)) or 'scalar'}-{i}"
    )
    for norms, table in ((MATRIX_NORMS, MATRICES), (VECTOR_NORMS, VECTORS))
    for norm in norms
    for i, (shape, axes) in enumerate(table)
) + tuple(
    pytest.param(
        mo.NormSpec(mo.Blocks(mo.Spectral(), sizes), axes), shape, id=f"Blocks-{'+'.join(map(str, sizes))}-{i}"
    )
    for i, (sizes, shape, axes) in enumerate(
        [((5, 3, 2), (6, 10), None), ((1, 3), (8, 2, 3), mo.Axes(fan_in=1, fan_out=0, taps=2, groups=2))]
    )
)

# every norm, on the first of its shapes
NORMS = tuple(leaf for leaf in LEAVES if str(leaf.id).endswith("-0"))

# singular values, largest first
SPECTRA = {
    "orthogonal": np.ones(12),
    "linear": np.linspace(1, 0.05, 12),
    "condition 1e2": np.logspace(0, -2, 12),
    "condition 1e4": np.logspace(0, -4, 12),
    "condition 1e8": np.logspace(0, -8, 12),
    "one outlier": np.array([1.0, *[1e-2] * 11]),
    "rank one": np.array([1.0, *[0.0] * 11]),
    "rank six": np.array([*[1.0] * 6, *[0.0] * 6]),
    "zero": np.zeros(12),
}


def with_spectrum(seed: int, shape: tuple[int, int], spectrum: np.ndarray):
    """A matrix with these singular values, and the factors U and V of its decomposition, in float64."""
    rng = np.random.default_rng(seed)
    rank = min(shape)
    u, v = (np.linalg.qr(rng.standard_normal((size, rank)))[0] for size in shape)
    values = spectrum[:rank]
    return (u * values) @ v.T, u, v


def untyped(x) -> Any:
    """The same. Optax's types of trees are unions, which let nothing be indexed or computed with."""
    return x


@contextmanager
def compilations(name: str) -> Iterator[list[str]]:
    """What JAX reports of compiling the function of this name, meanwhile: a line for each program."""
    found = []

    class Reports(logging.Handler):
        def emit(self, record):
            if f"Finished XLA compilation of jit({name})" in record.getMessage():
                found.append(record.getMessage())

    reports = Reports()
    logging.getLogger("jax").addHandler(reports)
    try:
        with jax.log_compiles():
            yield found
    finally:
        logging.getLogger("jax").removeHandler(reports)


def random_like(key, shape, dtype=jnp.float32):
    return jax.random.normal(key, shape, jnp.float32).astype(dtype)


def normal(seed, *shape):
    """Normal numbers in float64, made by NumPy so that nothing is compiled."""
    return np.random.default_rng(seed).standard_normal(shape)


def kinds(tree):
    """The shape and the dtype of every leaf."""
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def lowered_for_accelerators(function, *arguments):
    """What their compilers would be given; refused if an operation in it is known to CPUs only."""
    return export.export(jax.jit(function), platforms=("cuda", "rocm", "tpu"))(*arguments)
