"""Normalisations: which values are a softmax, and which are a mean or a length that others are divided by."""

from collections.abc import Mapping

from modula_optax._infer._program import Block, Loop, Op, Program
from modula_optax._infer._regions import STRUCTURAL
from modula_optax._infer._values import Value


class Normalisations:
    """The softmaxes of a program, by position, and the statistics."""

    def __init__(self, program: Program, values: Mapping[int, Value], producers: Mapping[int, Op]):
        self.values, self.producers = values, producers
        self.softmaxes: set[int] = set()
        self._mark_softmaxes(program.block)

    def _mark_softmaxes(self, block: Block) -> None:
        for op in block:
            if isinstance(op, Loop):
                self._mark_softmaxes(op.body)
            elif op.name == "div" and self._is_softmax(op):
                self.softmaxes.add(op.outs[0])

    def _is_softmax(self, op: Op) -> bool:
        numerator, total = op.ins
        producer = self.producers.get(numerator)
        if producer is None or producer.name != "exp":
            return False
        summed = self._before_reshaping(total)
        return (
            summed is not None
            and summed.name == "reduce_sum"
            and self._origin(summed.ins[0]) == self._origin(numerator)
        )

    def _before_reshaping(self, position: int) -> Op | None:
        op = self.producers.get(position)
        while op is not None and op.name in STRUCTURAL and len(op.ins) == 1:
            op = self.producers.get(op.ins[0])
        return op

    def _origin(self, position: int) -> int:
        op = self._before_reshaping(position)
        return op.outs[0] if op is not None else position

    def is_distribution(self, position: int) -> bool:
        return self._origin(position) in self.softmaxes

    def is_statistic(self, op: Op, i: int) -> bool:
        """Whether an operand is a mean or a length that a normalisation subtracts or divides by."""
        return self._reduces(op.ins[i]) and not self._reduces(op.ins[1 - i])

    def _reduces(self, position: int) -> bool:
        op = self.producers.get(position)
        if op is None or self.values[position].is_constant:
            return False
        if op.name.startswith("reduce_") and op.name not in ("reduce_precision",):
            return True
        if op.name in ("dot_general", "conv_general_dilated", "gather", "concatenate") or op.outs[0] in self.softmaxes:
            return False
        moving = [operand for operand in op.ins if not self.values[operand].is_constant]
        return bool(moving) and all(self._reduces(operand) for operand in moving)
