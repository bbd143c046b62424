"""Activations: computations that are, operation by operation, those of a function whose largest slope is proven."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modula_optax._jaxpr import Op, Program, Slope, apply, constant, flatten, operations, producers_of
from modula_optax._lipschitz._entry_rules import sloped
from modula_optax._lipschitz._states import Bound, State, euclidean
from modula_optax._lipschitz._view import View


class Activation(NamedTuple):
    """A function that works entry by entry, of a slope that is rounded up."""

    function: Callable[[jax.Array], jax.Array]
    slope: Slope


# what primitives have rules for, such as relu and tanh, is not in the table
ACTIVATIONS: tuple[Activation, ...] = (
    Activation(functools.partial(jax.nn.gelu, approximate=True), Slope(1.1290)),
    Activation(functools.partial(jax.nn.gelu, approximate=False), Slope(1.1290)),
    Activation(jax.nn.silu, Slope(1.0999)),
    Activation(jax.nn.mish, Slope(1.0886)),
    Activation(jax.nn.softplus, Slope(1.0, at_zero=math.log(2.0))),
    Activation(jax.nn.elu, Slope(1.0)),
    Activation(jax.nn.celu, Slope(1.0)),
    Activation(jax.nn.selu, Slope(1.7581)),
    Activation(jax.nn.leaky_relu, Slope(1.0)),
    Activation(jax.nn.hard_silu, Slope(1.5)),
    Activation(jax.nn.hard_tanh, Slope(1.0)),
    Activation(jax.nn.soft_sign, Slope(1.0)),
    Activation(lambda x: jnp.where(x > 0, x, 0.0), Slope(1.0)),
)


def activation(view: View, op: Op) -> State | None:
    """The bound on what an operation ends, if that is one of the activations above."""
    for entry in ACTIVATIONS:
        last = _traced(entry.function, (), np.dtype(np.float32)).last
        if last != op.name:
            continue
        aval = view.avals[op.outs[0]]
        program = _traced(entry.function, aval.shape, aval.dtype)
        root = _Match(view, program).root(op.outs[0])
        bound = None if root is None else view.states.get(root)
        if root is not None and isinstance(bound, Bound) and view.shape(root) == aval.shape:
            return sloped(euclidean(bound), entry.slope, aval.shape)
    return None


class _Traced(NamedTuple):
    program: Program
    producers: dict[int, Op]
    constants: dict[int, np.ndarray]  # what does not depend on the input

    @property
    def last(self) -> str:
        return self.producers[self.program.outputs[0]].name


@functools.cache
def _traced(function: Callable, shape: tuple[int, ...], dtype: np.dtype) -> _Traced:
    program = flatten(jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, dtype)))
    constants = {position: constant(program, position) for position in program.constants}
    for op in operations(program.block):
        if all(i in constants for i in op.ins):
            constants.update(zip(op.outs, map(np.asarray, apply(op, [constants[i] for i in op.ins])), strict=True))
    return _Traced(program, producers_of(program.block), constants)


class _Match:
    """Compares two computations from their ends on, down to the input of the one."""

    def __init__(self, view: View, traced: _Traced):
        self.view, self.traced = view, traced
        self.found: dict[int, int] = {}

    def root(self, position: int) -> int | None:
        """What stands in the place of the input, if the computations are the same."""
        program = self.traced.program
        return self.found.get(program.inputs[0]) if self._same(program.outputs[0], position) else None

    def _same(self, theirs: int, ours: int) -> bool:
        if theirs in self.traced.constants:
            a, b = self.traced.constants[theirs], self.view.known(ours)
            return b is not None and a.shape == b.shape and bool(np.all(a == b))
        if theirs in self.found:
            return self.found[theirs] == ours
        self.found[theirs] = ours
        if theirs in self.traced.program.inputs:
            return True
        op, other = self.traced.producers[theirs], self.view.producers.get(ours)
        return (
            other is not None
            and op.name == other.name
            and op.outs.index(theirs) == other.outs.index(ours)
            and str(sorted(op.params.items())) == str(sorted(other.params.items()))
            and all(self._same(a, b) for a, b in zip(op.ins, other.ins, strict=True))
        )
