"""Programs: a jaxpr with its calls inlined, as one list of operations on numbered values."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from modula_optax._jax import (
    Equation,
    Jaxpr,
    Params,
    UnfamiliarError,
    familiar,
    is_jaxpr,
    is_literal,
    opened,
    params_of,
    scan_counts,
)
from modula_optax._jaxpr._outside import from_outside
from modula_optax._jaxpr._primitives import PRIMITIVES


class Op(NamedTuple):
    """One equation; `ins` and `outs` are positions in `Program.avals`, `calls` the calls that it was inlined from."""

    name: str
    params: Params
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    eqn: Equation
    calls: tuple[Equation, ...] = ()

    def passed(self, out: int) -> int:
        """The operand that an output is, where operands are passed on as they are; `tie` has one that it is not."""
        return self.ins[len(self.ins) - len(self.outs) + self.outs.index(out)]


class Carry(NamedTuple):
    """A value that a loop passes on: what it is inside, what it starts from, what an iteration leaves."""

    inside: int
    start: int
    end: int


class Loop(NamedTuple):
    """The body of a `scan` or a `while`, once, and what it carries; `length` is `None` where it is not known."""

    body: list["Op | Loop"]
    carries: tuple[Carry, ...]
    length: int | None
    eqn: Equation
    reverse: bool = False


Block = list[Op | Loop]


def operations(block: Block) -> Iterator[Op]:
    """All operations of a block, in their order, with those of loops."""
    for op in block:
        yield from operations(op.body) if isinstance(op, Loop) else (op,)


def producers_of(block: Block) -> dict[int, Op]:
    """What computes each value."""
    return {out: op for op in operations(block) for out in op.outs}


def carries_of(block: Block) -> dict[int, Carry]:
    """What each value inside of a loop that it passes on starts from, and what an iteration leaves of it."""
    found: dict[int, Carry] = {}
    for loop in (op for op in block if isinstance(op, Loop)):
        found |= {carry.inside: carry for carry in loop.carries} | carries_of(loop.body)
    return found


class Program(NamedTuple):
    """The flat form of a jaxpr.

    `constants` holds the literals and captured arrays by position; `inputs` and `outputs` are positions;
    `unfamiliar` says of primitives, by name, why they could not be looked into.
    """

    block: Block
    avals: list[Any]
    constants: dict[int, Any]
    captured: frozenset[int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    unfamiliar: dict[str, str]


def flatten(closed: Any) -> Program:
    """The program of a jaxpr, as `jax.make_jaxpr` returns it."""
    flattener = _Flattener()
    jaxpr, consts = opened(closed)
    captured = flattener.constants_of(jaxpr, consts)
    inputs = tuple(flattener.fresh(var.aval) for var in jaxpr.invars)
    block: Block = []
    outputs = flattener.inline(block, jaxpr, captured, inputs)
    return Program(
        block, flattener.avals, flattener.constants, frozenset(captured), inputs, outputs, flattener.unfamiliar
    )


class _Flattener:
    def __init__(self):
        self.avals: list[Any] = []
        self.constants: dict[int, Any] = {}
        self.calls: tuple[Equation, ...] = ()
        self.unfamiliar: dict[str, str] = {}

    def fresh(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def constant(self, aval: Any, value: Any) -> int:
        position = self.fresh(aval)
        self.constants[position] = value
        return position

    def constants_of(self, jaxpr: Jaxpr, consts: Sequence[Any]) -> tuple[int, ...]:
        return tuple(self.constant(var.aval, value) for var, value in zip(jaxpr.constvars, consts, strict=True))

    def inline(self, block: Block, jaxpr: Jaxpr, consts: Sequence[int], ins: Sequence[int]) -> tuple[int, ...]:
        """Appends the operations of a jaxpr to a block; returns where its outputs are."""
        where: dict[Any, int] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *ins], strict=True))

        def read(atom: Any) -> int:
            return self.constant(atom.aval, atom.val) if is_literal(atom) else where[atom]

        # what has no outputs computes nothing, as `jax.debug.print` of a parameter
        for eqn in (eqn for eqn in jaxpr.eqns if eqn.outvars):
            operands = tuple(map(read, eqn.invars))
            calls, self.calls = self.calls, (eqn, *self.calls)
            results = self._equation(block, eqn, operands)
            self.calls = calls
            where.update(zip(eqn.outvars, results, strict=True))
        return tuple(map(read, jaxpr.outvars))

    def _inline_closed(self, block: Block, closed: Any, ins: Sequence[int]) -> tuple[int, ...]:
        jaxpr, consts = opened(closed)
        return self.inline(block, jaxpr, self.constants_of(jaxpr, consts), ins)

    def _equation(self, block: Block, eqn: Equation, ins: tuple[int, ...]) -> tuple[int, ...]:
        name = eqn.primitive.name
        if name in _CONTROL_FLOW:
            try:
                with familiar(name):
                    return _CONTROL_FLOW[name](self, block, eqn, params_of(eqn), ins)
            except UnfamiliarError as error:
                # what cannot be looked into is one operation of which nothing is known
                self.unfamiliar[name] = str(error)
                return self._append(block, name, params_of(eqn), ins, [var.aval for var in eqn.outvars], eqn)
        inner = from_outside(eqn, self.calls[1:]) if name in PRIMITIVES else _only_jaxpr(eqn)
        if inner is None:
            return self._append(block, name, params_of(eqn), ins, [var.aval for var in eqn.outvars], eqn)
        outs = self._inline_closed(block, inner, self._resized(block, eqn, ins, opened(inner)[0].invars))
        return self._resized(block, eqn, outs, eqn.outvars)

    def _append(self, block: Block, name: str, params: Params, ins: tuple[int, ...], avals: Sequence, eqn: Equation):
        outs = tuple(map(self.fresh, avals))
        block.append(Op(name, params, ins, outs, eqn, self.calls))
        return outs

    def _ours(self, block: Block, name: str, ins: tuple[int, ...], aval: Any, eqn: Equation) -> int:
        """Appends an operation that no equation of the jaxpr is: a part of a loop, of a branch, of a shard."""
        return self._append(block, name, Params(name, {}), ins, [aval], eqn)[0]

    def _resized(self, block: Block, eqn: Equation, ins: Sequence[int], variables: Sequence) -> tuple[int, ...]:
        """Inside a `shard_map` shapes are those of a shard: an operation of its own changes them."""
        return tuple(
            position
            if getattr(self.avals[position], "shape", ()) == getattr(var.aval, "shape", ())
            else self._ours(block, "resize", (position,), var.aval, eqn)
            for position, var in zip(ins, variables, strict=True)
        )

    def _scan(self, block: Block, eqn: Equation, params: Params, ins: tuple[int, ...]) -> tuple[int, ...]:
        jaxpr, length, reverse = params["jaxpr"], params["length"], params["reverse"]
        n_consts, n_carry = scan_counts(eqn)
        consts, starts, stacks = ins[:n_consts], ins[n_consts : n_consts + n_carry], ins[n_consts + n_carry :]
        body: Block = []
        variables = opened(jaxpr)[0].invars
        inside = tuple(self.fresh(var.aval) for var in variables[n_consts : n_consts + n_carry])
        slices = tuple(
            self._ours(body, "scan_slice", (stack,), var.aval, eqn)
            for stack, var in zip(stacks, variables[n_consts + n_carry :], strict=True)
        )
        outs = self._inline_closed(body, jaxpr, consts + inside + slices)
        block.append(Loop(body, tuple(map(Carry, inside, starts, outs[:n_carry])), length, eqn, reverse))
        stacked = tuple(
            self._ours(block, "scan_stack", (out,), var.aval, eqn)
            for out, var in zip(outs[n_carry:], eqn.outvars[n_carry:], strict=True)
        )
        return outs[:n_carry] + stacked

    def _while(self, block: Block, eqn: Equation, params: Params, ins: tuple[int, ...]) -> tuple[int, ...]:
        # the condition is left out: nothing can be differentiated through it
        jaxpr, n_skipped, n_consts = params["body_jaxpr"], params["cond_nconsts"], params["body_nconsts"]
        consts, starts = ins[n_skipped : n_skipped + n_consts], ins[n_skipped + n_consts :]
        body: Block = []
        inside = tuple(self.fresh(var.aval) for var in eqn.outvars)
        outs = self._inline_closed(body, jaxpr, consts + inside)
        block.append(Loop(body, tuple(map(Carry, inside, starts, outs)), None, eqn))
        # a loop may end before its first iteration: outside, a carry is what it is inside
        return inside

    def _cond(self, block: Block, eqn: Equation, params: Params, ins: tuple[int, ...]) -> tuple[int, ...]:
        branches = [self._inline_closed(block, branch, ins[1:]) for branch in params["branches"]]
        return tuple(
            self._ours(block, "select_n", (ins[0], *outs), var.aval, eqn)
            for *outs, var in zip(*branches, eqn.outvars, strict=True)
        )


_CONTROL_FLOW = {"scan": _Flattener._scan, "while": _Flattener._while, "cond": _Flattener._cond}


def _only_jaxpr(eqn: Equation) -> Any:
    """What a call calls, or `None`, whatever the call and its parameter are named in this version of JAX."""
    found = [value for value in eqn.params.values() if is_jaxpr(value)]
    if len(found) != 1:
        return None
    jaxpr, _ = opened(found[0])
    fits = len(jaxpr.invars) == len(eqn.invars) and len(jaxpr.outvars) == len(eqn.outvars)
    return found[0] if fits else None
