"""The program as rules see it: shapes, constants and bounds by position, and what computed a value."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from modula_optax._jaxpr import Kind, Op, Program, named
from modula_optax._lipschitz._states import Bound, State

_SAME, _SUMS = named(Kind.SAME), named(Kind.SUM)
_ENTRYWISE = named(
    *(Kind.SAME, Kind.NEGATION, Kind.SUM, Kind.PRODUCT, Kind.EXTREME, Kind.SELECT, Kind.ENTRYWISE, Kind.PAIRWISE),
    *(Kind.STEP, Kind.COMPARISON, Kind.LOGIC),
)


class View:
    """States by position; of a loop, those of the iteration that is being run."""

    def __init__(self, program: Program):
        self.avals = program.avals
        self.states: dict[int, State] = {}
        self.producers: dict[int, Op] = {}
        self.step = 0  # of the innermost scan

    def shape(self, position: int) -> tuple[int, ...]:
        return tuple(getattr(self.avals[position], "shape", ()))

    def known(self, position: int) -> np.ndarray | None:
        """A constant, if this is one."""
        state = self.states.get(position)
        return state if isinstance(state, np.ndarray) else None

    def bound(self, position: int) -> Bound | None:
        state = self.states.get(position)
        return state if isinstance(state, Bound) else None

    def is_real(self, position: int) -> bool:
        return jnp.issubdtype(getattr(self.avals[position], "dtype", np.int32), jnp.floating)

    def producer(self, position: int) -> Op | None:
        """What computed a value, looking through casts."""
        return self.producers.get(self.origin(position))

    def origin(self, position: int) -> int:
        """Where a value was before it was cast, or zeros were added to it."""
        while (op := self.producers.get(position)) is not None and (op.name in _SAME or self._adds_nothing(op)):
            position = op.passed(position) if op.name in _SAME else op.ins[0]
        return position

    def _adds_nothing(self, op: Op) -> bool:
        """A mean that a normalisation leaves out is a zero to subtract."""
        other = self.known(op.ins[1]) if op.name in _SUMS else None
        return other is not None and not np.any(other)

    def unbroadcast(self, position: int) -> Op | None:
        """What computed a value before it was repeated along axes, or given axes of size 1."""
        op = self.producer(position)
        while op is not None and self._only_repeats(op):
            op = self.producer(op.ins[0])
        return op

    def _only_repeats(self, op: Op) -> bool:
        if op.name in ("reshape", "squeeze"):
            before, after = self.shape(op.ins[0]), self.shape(op.outs[0])
            return [n for n in before if n > 1] == [n for n in after if n > 1]
        return op.name == "broadcast_in_dim"

    def is_constant_along(self, position: int, axes: Iterable[int]) -> bool:
        """Whether all entries of a value along these axes are proven to be the same."""
        axes = {axis for axis in axes if self.shape(position)[axis] > 1} if self.shape(position) else set()
        if not axes:
            return True
        known, op = self.known(position), self.producers.get(position)
        if known is not None:
            return bool(np.all(known == np.take(known, [0], axis=min(axes)))) if len(axes) == 1 else False
        if op is None:
            return False
        if op.name == "broadcast_in_dim":
            dimensions = op.params["broadcast_dimensions"]
            return self.is_constant_along(op.ins[0], [i for i, axis in enumerate(dimensions) if axis in axes])
        return op.name in _ENTRYWISE and all(self.is_constant_along(i, axes) for i in op.ins)
