"""Statistics: which values are a softmax, and which are a mean or a length that others are divided by."""

from collections.abc import Mapping

from modula_optax._jaxpr import REDUCING, Kind, Op, Program, named, operations, softmax_of
from modula_optax._sensitivity._origins import Origin
from modula_optax._sensitivity._regions import REARRANGING

_MIXING = named(Kind.CONTRACTION, Kind.CONVOLUTION, Kind.LOOKUP) | {"concatenate"}


class Statistics:
    """The softmaxes of a program, by position, and the statistics."""

    def __init__(self, program: Program, values: Mapping[int, Origin], producers: Mapping[int, Op]):
        self.values, self.producers = values, producers
        found = ((op, softmax_of(op, self._arranged, self._arranged)) for op in operations(program.block))
        self.softmaxes = {op.outs[0]: softmax for op, softmax in found if softmax is not None}

    def _arranged(self, position: int) -> Op | None:
        """What computed a value before its entries were moved or repeated."""
        op = self.producers.get(position)
        while op is not None and op.name in REARRANGING and len(op.ins) == 1:
            op = self.producers.get(op.ins[0])
        return op

    def is_distribution(self, position: int) -> bool:
        op = self._arranged(position)
        return op is not None and op.outs[0] in self.softmaxes

    def is_statistic(self, op: Op, i: int) -> bool:
        """Whether an operand is a mean or a length that a normalisation subtracts or divides by."""
        return self._reduces(op.ins[i]) and not self._reduces(op.ins[1 - i])

    def _reduces(self, position: int) -> bool:
        op = self.producers.get(position)
        if op is None or self.values[position].is_constant:
            return False
        if op.name in REDUCING:
            return True
        if op.name in _MIXING or op.outs[0] in self.softmaxes:
            return False
        moving = [operand for operand in op.ins if not self.values[operand].is_constant]
        return bool(moving) and all(self._reduces(operand) for operand in moving)
