"""The interpreter: runs a program on bounds, from the input to the output, with all constants at hand."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from modula_optax._jax import UnfamiliarError, familiar
from modula_optax._jaxpr import Block, Loop, Op, Program, apply, concrete, constant, source, untold
from modula_optax._lipschitz._activations import activation
from modula_optax._lipschitz._entry_rules import of_iterations
from modula_optax._lipschitz._normalisation import normalised, softmax
from modula_optax._lipschitz._proofs import proof_for
from modula_optax._lipschitz._rearrange import rearranged
from modula_optax._lipschitz._states import Bound, Fixed, Known, NoRuleError, State, Unproven, length, proper
from modula_optax._lipschitz._view import View

# computations of several operations that are Lipschitz although one of the operations is not, or more so than these are
_PATTERNS = (activation, softmax, normalised, rearranged)


class Interpreter:
    """States of all values of a program.

    Args:
      program: see `flatten`.
      lookups: the bound on rows that integers of the input look up in a table, from the position of these rows and
        how long they are.
    """

    def __init__(self, program: Program, lookups: Callable[[int, Bound], Bound]):
        self.view = View(program)
        self.program, self.lookups = program, lookups
        self.looked_up = False
        self._iterations: dict[int, list[State]] = {}

    def run(self, inputs: Sequence[State]) -> list[State]:
        """States of the outputs."""
        states = self.view.states
        states.update({position: constant(self.program, position) for position in self.program.constants})
        for position, state in zip(self.program.inputs, inputs, strict=True):
            states[position] = proper(state, self.view.shape(position))
        self._block(self.program.block)
        return [states[position] for position in self.program.outputs]

    def _block(self, block: Block) -> None:
        kept = {op.ins[0] for op in block if isinstance(op, Op) and op.name == "scan_stack"}
        for op in block:
            if isinstance(op, Loop):
                self._loop(op, kept)
                continue
            self.view.producers.update(dict.fromkeys(op.outs, op))
            for position, state in zip(op.outs, self._operation(op), strict=True):
                self.view.states[position] = proper(state, self.view.shape(position))

    def _operation(self, op: Op) -> Sequence[State]:
        ins = [self.view.states[position] for position in op.ins]
        if op.name == "scan_stack":
            iterations = self._iterations.get(op.ins[0], [ins[0]] * self.view.shape(op.outs[0])[0])
            unproven = [state for state in iterations if isinstance(state, Unproven)]
            return [unproven[0] if unproven else of_iterations(iterations, self.view.shape(op.ins[0]))]
        if op.name == "scan_slice" and isinstance(ins[0], Known):
            return [concrete(ins[0][self.view.step], ins[0].dtype)]
        if all(isinstance(state, Known) for state in ins) and op.name != "resize":
            return [concrete(x, x.dtype) for x in apply(op, ins)]
        try:
            with familiar(op.name):
                return self._moving(op, ins)
        except (NoRuleError, UnfamiliarError) as error:
            reason = error.reason if isinstance(error, UnfamiliarError) else error
            if all(_is_still(state) for state in ins):
                # whatever the operation is, it makes the same of the same
                return [Bound(frozenset(), math.inf, 0.0) if self.view.is_real(out) else Fixed() for out in op.outs]
            where = source(*op.calls)
            return [Unproven(f"{op.name}{' at ' + where if where else ''} {reason}")] * len(op.outs)

    def _moving(self, op: Op, ins: Sequence[State]) -> Sequence[State]:
        for pattern in _PATTERNS:
            found = pattern(self.view, op)
            if found is not None:
                return [found]
        unproven = next((state for state in ins if isinstance(state, Unproven)), None)
        if unproven is not None:
            return [unproven] * len(op.outs)
        if all(isinstance(state, Fixed | Known) for state in ins) and op.name != "select_n":
            return [self._of_fixed(op, ins, out) for out in op.outs]
        rule = proof_for(op.name)
        if rule is None or not all(self.view.is_real(out) for out in op.outs):
            raise NoRuleError(untold("has no proven rule", op.name))
        result = rule(self.view, op, ins)
        results = result if isinstance(result, tuple) else (result,)
        for state in results:
            if isinstance(state, Bound) and not math.isfinite(state.lipschitz):
                raise NoRuleError("has no finite Lipschitz constant")
        return results

    def _of_fixed(self, op: Op, ins: Sequence[State], out: int) -> State:
        """What is computed from integers of the input: integers, rows of a table, or other numbers."""
        if not self.view.is_real(out):
            return Fixed()
        if op.name in ("gather", "dynamic_slice") and isinstance(ins[0], np.ndarray):
            self.looked_up = True
            return self.lookups(out, _rows(op, ins[0]))
        if op.name == "convert_element_type" and str(self.view.avals[op.ins[0]].dtype) == "bool":
            return Bound(frozenset(), 1.0, 0.0)
        return Bound(frozenset(), math.inf, 0.0)

    def _loop(self, loop: Loop, kept: Iterable[int]) -> None:
        states, view = self.view.states, self.view
        if loop.length is None:
            why = Unproven(f"while at {source(loop.eqn)} runs as often as it likes")
            states.update({carry.inside: why for carry in loop.carries})
            return
        outer, ends = view.step, [states[carry.start] for carry in loop.carries]
        iterations: dict[int, list[State]] = {position: [] for position in kept}
        steps = range(loop.length)
        for view.step in reversed(steps) if loop.reverse else steps:
            states.update(zip((carry.inside for carry in loop.carries), ends, strict=True))
            self._block(loop.body)
            ends = [states[carry.end] for carry in loop.carries]
            for position in kept:
                if position in states:
                    iterations[position].append(states[position])
        view.step = outer
        if not loop.length:
            states.update(zip((carry.end for carry in loop.carries), ends, strict=True))
        if loop.reverse:
            iterations = {position: list(reversed(found)) for position, found in iterations.items()}
        self._iterations.update({position: found for position, found in iterations.items() if found})


def _is_still(state: State) -> bool:
    """Whether a value is the same for both inputs."""
    return isinstance(state, Known | Fixed) or (isinstance(state, Bound) and state.lipschitz == 0)


def _rows(op: Op, table: np.ndarray) -> Bound:
    """What can be looked up in a table: a slice of a row is no longer than the row."""
    if op.name == "dynamic_slice":
        kept = [axis for axis, size in enumerate(op.params["slice_sizes"]) if size == table.shape[axis]]
        return Bound(frozenset(kept), length(table, kept), 0.0)
    numbers = op.params["dimension_numbers"]
    indexed = [*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())]
    kept = [axis for axis in range(table.ndim) if axis not in indexed]
    return Bound(frozenset(numbers.offset_dims), length(table, kept), 0.0)
