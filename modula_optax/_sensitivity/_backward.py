"""Traced sensitivity: how much the output moves, at most, per unit that a parameter moves in its norm."""

import math

from modula_optax._jaxpr import PRIMITIVES, Block, Kind, Loop, Model, Op, Program, named, source, untold
from modula_optax._sensitivity._origins import Origins
from modula_optax._sensitivity._regions import REARRANGING, Regions
from modula_optax._sensitivity._statistics import Statistics

LARGEST = 100.0  # residual scaling makes small sensitivities, never large ones: beyond, the estimate means nothing
LONGEST_RECURRENCE = 32

_ONE = REARRANGING | named(
    *(Kind.SUM, Kind.SELECT, Kind.EXTREME, Kind.LOOKUP, Kind.COMPLEX, Kind.LOOP, Kind.CONVOLUTION),
)
_ONE |= {"dynamic_update_slice", "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"}
_PRODUCTS, _CONTRACTIONS = named(Kind.PRODUCT), named(Kind.CONTRACTION)


class UnsoundError(Exception):
    """The estimate would mean nothing; the message says why."""


def sensitivities(model: Model, program: Program, origins: Origins) -> list[float]:
    r"""Sensitivity of every parameter, from the same jaxpr as its role.

    From the output backwards: chains multiply, branches add, scalars count by their absolute value, atoms count 1,
    entrywise functions their largest slope, linear maps without parameters their norm from RMS to RMS.

    Raises:
      ValueError: where the estimate is not sound; names the operation and the parameter that it follows.
    """
    backward = _Backward(model, program, origins)
    positions = program.inputs[: len(model.leaves)]
    try:
        found = backward.run()
    except UnsoundError as reason:
        raise ValueError(
            f"sensitivity='traced' is refused: {reason}. Use sensitivity='unit', the practice for such networks."
        ) from None
    result = [found.get(position, 0.0) or 1.0 for position in positions]
    for path, value in zip(model.paths, result, strict=True):
        if not value <= LARGEST:
            raise ValueError(
                f"sensitivity='traced' is refused: that of {path} is {value:.3g}, above {LARGEST:g}. Residual branches "
                "need scaling, x <- (1 - 1/(2L)) x + f(x)/(2L); use sensitivity='unit' for plain residual networks."
            )
    return result


class _Backward:
    def __init__(self, model: Model, program: Program, origins: Origins):
        self.model, self.program, self.origins = model, program, origins
        self.values = origins.values
        self.regions = Regions(program, self.values)
        self.statistics = Statistics(program, self.values, self.regions.producers)

    def run(self) -> dict[int, float]:
        found = dict.fromkeys(self.program.outputs, 1.0)
        self._block(self.program.block, found)
        return found

    def _block(self, block: Block, found: dict[int, float]) -> None:
        for op in reversed(block):
            if isinstance(op, Loop):
                self._loop(op, found)
                continue
            for out in op.outs:
                after = found.get(out, 0.0)
                if after:
                    self._operation(op, out, after, found)

    def _operation(self, op: Op, out: int, after: float, found: dict[int, float]) -> None:
        if op.name == "stop_gradient" or not self._moves(out):
            return
        if op.name in self.origins.unfamiliar:
            raise UnsoundError(self.origins.unfamiliar[op.name])
        if out in self.statistics.softmaxes:
            # from l-infinity to l1; what is exponentiated counts, its maximum and the normaliser do not
            _add(found, self.statistics.softmaxes[out].scores, after)
            return
        region = self.regions.region(out)
        if region.root != out and (region.joined or not region.is_linear):
            try:
                slope = self.regions.slope(out)
            except ValueError as error:
                raise UnsoundError(f"{self._where(op)} has {error}") from None
            if not slope < 1e3:
                raise UnsoundError(f"{self._where(op)} has no bound on its slope")
            _add(found, region.root, after * slope)
            return
        for i, operand in enumerate(op.ins):
            if self._moves(operand):
                _add(found, operand, after * self._factor(op, i))

    def _moves(self, position: int) -> bool:
        value, aval = self.values[position], self.program.avals[position]
        return not value.is_constant and getattr(aval, "dtype", None) is not None and aval.dtype.kind in "fcV"

    def _factor(self, op: Op, i: int) -> float:
        """Lipschitz constant of an operation in one of its operands, the others at norm one."""
        if (op.name == "sub" or op.name in _PRODUCTS) and self.statistics.is_statistic(op, i):
            return 0.0
        if op.name in _PRODUCTS:
            return self._product(op, i)
        if op.name in _CONTRACTIONS:
            return self._contraction(op)
        if op.name in ("reduce_sum", "reduce_window_sum"):
            return self._shrinkage(op)
        if op.name in _ONE:
            return 1.0
        row = PRIMITIVES.get(op.name)
        if row is not None and row.slope is not None:
            return row.slope.largest
        raise UnsoundError(untold(f"{self._where(op)} has no rule", op.name))

    def _product(self, op: Op, i: int) -> float:
        if self.regions.is_constant(op.ins[1 - i]):
            constant = self.regions.constant(op.ins[1 - i])
            if constant is None:
                raise UnsoundError(f"{self._where(op)} scales by a number that a loop changes")
            largest = float(abs(constant).max())
            return largest if op.name == "mul" else 1.0 / float(abs(constant).min())
        either = self.values[op.ins[0]].is_weight or self.values[op.ins[1]].is_weight
        if either or self.statistics.is_statistic(op, 1 - i):
            return 1.0
        raise UnsoundError(f"{self._where(op)} multiplies two activations, which no norm here bounds")

    def _contraction(self, op: Op) -> float:
        left, right = (self.values[i] for i in op.ins[:2])
        if left.is_weight or right.is_weight or op.outs[0] in self.origins.used:
            return 1.0
        if any(self.statistics.is_distribution(i) for i in op.ins[:2]):
            return 1.0
        if op.name != "dot_general":
            raise UnsoundError(f"{self._where(op)} has no rule")
        (contracted, _), _ = op.params["dimension_numbers"]
        # entries of norm one each, as queries and keys are: their product is as large as there are
        return float(math.prod(self.regions.shape(op.ins[0])[i] for i in contracted))

    def _shrinkage(self, op: Op) -> float:
        if op.name == "reduce_window_sum":
            return float(math.prod(op.params["window_dimensions"]))
        return math.prod(self.regions.shape(op.ins[0])) / math.prod(self.regions.shape(op.outs[0]))

    def _loop(self, loop: Loop, found: dict[int, float]) -> None:
        if not any(found.get(out) for out in _written(loop)):
            return
        if loop.length is None:
            raise UnsoundError(f"a while loop at {source(loop.eqn)} runs as often as it likes")
        slices = [op for op in loop.body if isinstance(op, Op) and op.name == "scan_slice"]
        is_recurrence = any(self.values[op.ins[0]].data for op in slices) or not slices
        if is_recurrence and loop.length > LONGEST_RECURRENCE:
            raise UnsoundError(f"a recurrence of {loop.length} steps at {source(loop.eqn)} is too long for a bound")
        inner = set(_written(loop))
        outside = {position: found.pop(position, 0.0) for position in inner}
        carried = {c.end: 0.0 for c in loop.carries}
        largest: dict[int, float] = {}
        here: dict[int, float] = {}
        for step in range(loop.length):
            here = {p: v for p, v in outside.items() if v and (step == 0 or p not in carried)}
            for carry_end, value in carried.items():
                _add(here, carry_end, value)
            self._block(loop.body, here)
            carried = dict.fromkeys(carried, 0.0)
            for carry in loop.carries:
                carried[carry.end] += here.get(carry.inside, 0.0)
            stacks = {op.ins[0] for op in slices}
            for position, value in here.items():
                if position in stacks:
                    largest[position] = max(largest.get(position, 0.0), value)
                elif position not in inner:
                    _add(found, position, value)
        for carry in loop.carries:
            _add(found, carry.start, here.get(carry.inside, 0.0))
        for position, value in largest.items():
            _add(found, position, value)

    def _where(self, op: Op) -> str:
        """An operation, its place, and the parameter that it follows."""
        after = next((f", after {self.model.paths[param]}" for param in self.origins.follows(op)), "")
        return f"{op.name} at {source(*op.calls)}{after}"


def _add(found: dict[int, float], position: int, value: float) -> None:
    if value:
        found[position] = found.get(position, 0.0) + value


def _written(loop: Loop) -> list[int]:
    """All positions that a loop computes."""
    positions = [c.inside for c in loop.carries]
    for op in loop.body:
        positions += _written(op) if isinstance(op, Loop) else op.outs
    return positions
