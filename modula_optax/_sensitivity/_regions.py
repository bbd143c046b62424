"""Parts of a program without parameters: functions of one value, of which the largest slope can be computed."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modula_optax._jaxpr import Kind, Op, Program, apply, named, operations, producers_of
from modula_optax._sensitivity._origins import Origin
from modula_optax._sensitivity._slopes import GRID, largest_slope

REARRANGING = named(Kind.SAME, Kind.NEGATION, Kind.RESHAPE, Kind.SHIFT)
_LINEAR = REARRANGING | named(Kind.SUM, Kind.PRODUCT) | {"reduce_sum"}
_POINTWISE = named(
    *(Kind.SAME, Kind.NEGATION, Kind.SUM, Kind.PRODUCT, Kind.EXTREME, Kind.SELECT),
    *(Kind.ENTRYWISE, Kind.PAIRWISE, Kind.COMPARISON, Kind.LOGIC),
)
_IN_LOOPS = named(Kind.LOOP)


class Region(NamedTuple):
    """A value as a function of an earlier one, the `root`: entry by entry, or linear; `joined` if by several ways."""

    root: int
    is_pointwise: bool = True
    is_linear: bool = True
    joined: bool = False


class Regions:
    """Which values are parameter-free functions of which others, and how steep these are."""

    def __init__(self, program: Program, values: Mapping[int, Origin]):
        self.program, self.values = program, values
        self.producers = producers_of(program.block)
        self._regions: dict[int, Region] = {}
        self._slopes: dict[Hashable, float] = {}
        for op in operations(program.block):
            for out in op.outs:
                if not self.is_constant(out):
                    self._regions[out] = self._extended(op, out)

    def region(self, position: int) -> Region:
        return self._regions.get(position, Region(position))

    def shape(self, position: int) -> tuple[int, ...]:
        return tuple(self.program.avals[position].shape)

    def is_constant(self, position: int) -> bool:
        return self.values[position].is_constant

    def constant(self, position: int) -> np.ndarray | None:
        """Value of a constant, computed if need be; `None` where a loop changes it."""
        if position in self.program.constants:
            return np.asarray(self.program.constants[position])
        op = self.producers.get(position)
        if op is None or op.name in _IN_LOOPS or not self.is_constant(position):
            return None
        operands = [self.constant(i) for i in op.ins]
        if any(x is None for x in operands):
            return None
        return np.asarray(apply(op, operands)[op.outs.index(position)])

    def _extended(self, op: Op, out: int) -> Region:
        """The region of a result: that of its operands if they share one, or of the only operand."""
        operands = [i for i in op.ins if not self.is_constant(i)]
        for regions in ([self.region(i) for i in operands], [Region(i) for i in operands]):
            if len({region.root for region in regions}) != 1:
                continue
            is_linear = all(r.is_linear for r in regions) and self._is_linear(op, operands)
            is_pointwise = all(r.is_pointwise for r in regions) and self._is_pointwise(op, operands)
            if is_linear or is_pointwise:
                joined = len(operands) > 1 or any(r.joined for r in regions)
                return Region(regions[0].root, is_pointwise, is_linear, joined)
        return Region(out)

    def _is_linear(self, op: Op, operands: Sequence[int]) -> bool:
        if op.name == "div" and op.ins[0] not in operands:
            return False
        return op.name in _LINEAR and (op.name not in ("mul", "div") or len(operands) == 1)

    def _is_pointwise(self, op: Op, operands: Sequence[int]) -> bool:
        shape = self.shape(op.outs[0])
        scalars = (i for i in op.ins if self.is_constant(i))
        return (
            op.name in _POINTWISE
            and all(self.shape(i) == shape for i in operands)
            and all(self.values[i].uniform or self.shape(i) == () for i in scalars)
        )

    def slope(self, position: int) -> float:
        """Largest factor by which a change of the root can grow on the way to this value, in RMS."""
        region = self.region(position)
        # layers repeat: the same expression has the same slope
        expression = (region.is_linear, self.shape(region.root), self._expression(position, region.root))
        if expression not in self._slopes:
            self._slopes[expression] = self._computed_slope(position, region)
        return self._slopes[expression]

    def _expression(self, position: int, root: int) -> Hashable:
        if position == root:
            return "root"
        if position in self.program.constants:
            constant = np.asarray(self.program.constants[position])
            return constant.shape, str(constant.dtype), constant.tobytes()
        op = self.producers.get(position)
        if op is None:
            return position
        operands = (self._expression(i, root) for i in op.ins)
        return op.name, op.outs.index(position), str(sorted(op.params.items())), *operands

    def _computed_slope(self, position: int, region: Region) -> float:
        if region.is_pointwise and not region.is_linear:
            scalars = lambda x: jnp.broadcast_to(x.reshape(-1)[0], GRID.shape)  # noqa: E731
            return largest_slope(self._function(position, region.root, scalars))
        return self._operator_norm(position, region.root)

    def _operator_norm(self, position: int, root: int) -> float:
        """Norm of a linear map from RMS to RMS, by power iteration."""
        function = self._function(position, root, lambda x: x)
        x = jnp.asarray(np.random.default_rng(0).normal(size=self.shape(root)), jnp.float32)
        zero = jnp.zeros_like(x)

        def step(x: jax.Array) -> jax.Array:
            _, y = jax.jvp(function, (zero,), (x / jnp.linalg.norm(x),))
            return jax.vjp(function, zero)[1](y)[0]

        for _ in range(30):
            x = step(x)
        ratio = np.prod(self.shape(root)) / np.prod(self.shape(position))
        return float(jnp.sqrt(jnp.linalg.norm(x) * ratio))

    def _function(self, position: int, root: int, prepare: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The region as a function of its root; constants are `prepare`d."""

        def function(x: Any) -> Any:
            known: dict[int, Any] = {root: x}

            def value(i: int) -> Any:
                if i not in known:
                    if self.is_constant(i):
                        constant = self.constant(i)
                        if constant is None:
                            raise ValueError("a constant that a loop changes")
                        known[i] = jnp.asarray(prepare(constant))
                    else:
                        op = self.producers[i]
                        known.update(zip(op.outs, apply(op, [value(j) for j in op.ins]), strict=True))
                return known[i]

            return value(position)

        return function
