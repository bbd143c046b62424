"""A model of the zoo, and how its truth is written down."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tests.notation import axes_of as axes_of


class ZooModel(NamedTuple):
    """A model to be inferred.

    `truth` leads from regular expressions of paths to strings such as `"linear 0 > 1"`, `"conv 2 > 3 @ 0 1"` or
    `"depthwise 2 > 3 @ 0 1 / 8"`: role, fan-in > fan-out @ taps / groups. The first that matches counts.
    """

    name: str
    apply: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    truth: dict[str, str]

    def expected(self, path: str) -> str:
        return next(truth for pattern, truth in self.truth.items() if re.fullmatch(pattern, path))


ZOO: dict[str, Callable[[], ZooModel]] = {}


def zoo_model(*, truth: dict[str, str]):
    """Registers a function that builds `(apply, params, inputs)`; named after it, with its truth."""

    def register(build):
        name = f"{build.__module__.rsplit('.', 1)[-1]}.{build.__name__}"
        ZOO[name] = functools.cache(lambda: ZooModel(name, *build(), truth=truth))
        return build

    return register


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """An example input, or a parameter, without values."""
    return jax.ShapeDtypeStruct(shape, dtype)


def tokens(*shape: int) -> jax.ShapeDtypeStruct:
    return array(*shape, dtype=jnp.int32)
