"""Evaluation: operations of a program run on arrays, one by one."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from modula_optax._jaxpr._program import Op, Program


def apply(op: Op, operands: Sequence[Any]) -> Sequence[Any]:
    """Runs one operation."""
    if op.name == "resize":
        raise ValueError("a change of shape between shards")
    primitive = op.eqn.primitive
    result = primitive.bind(*map(jnp.asarray, operands), **op.params)
    return result if primitive.multiple_results else [result]


def evaluate(position: int, known: dict[int, Any], producers: Mapping[int, Op]) -> Any:
    """A value computed from those that are `known`, which what is computed joins."""
    if position not in known:
        op = producers[position]
        known.update(zip(op.outs, apply(op, [evaluate(i, known, producers) for i in op.ins]), strict=True))
    return known[position]


def constant(program: Program, position: int) -> Any:
    """A literal or a captured array of a program, as an array of NumPy's."""
    return concrete(program.constants[position], program.avals[position].dtype)


def concrete(x: Any, dtype: Any) -> Any:
    """A value as an array of NumPy's; random keys as they are."""
    return x if jnp.issubdtype(dtype, jax.dtypes.prng_key) else np.asarray(x, dtype)
