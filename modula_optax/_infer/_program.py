"""Programs: a jaxpr with its calls inlined, as one list of operations on numbered values."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var


class Op(NamedTuple):
    """One equation; `ins` and `outs` are positions in `Program.avals`, `calls` the calls that it was inlined from."""

    name: str
    params: Mapping[str, Any]
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    eqn: JaxprEqn
    calls: tuple[JaxprEqn, ...] = ()


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
    eqn: JaxprEqn


Block = list[Op | Loop]


class Program(NamedTuple):
    """The flat form of a jaxpr.

    `constants` holds the literals and captured arrays by position; `inputs` and `outputs` are positions.
    """

    block: Block
    avals: list[Any]
    constants: dict[int, Any]
    captured: frozenset[int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def flatten(closed: ClosedJaxpr, whole: Collection[str]) -> Program:
    """The program of a jaxpr.

    Args:
      closed: what `jax.make_jaxpr` returns.
      whole: names of primitives that are not looked into, although they may hold a jaxpr.
    """
    flattener = _Flattener(whole)
    captured = tuple(
        flattener.constant(var.aval, value) for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True)
    )
    inputs = tuple(flattener.fresh(var.aval) for var in closed.jaxpr.invars)
    block: Block = []
    outputs = flattener.inline(block, closed.jaxpr, captured, inputs)
    return Program(block, flattener.avals, flattener.constants, frozenset(captured), inputs, outputs)


class _Flattener:
    def __init__(self, whole: Collection[str]):
        self.whole = whole
        self.avals: list[Any] = []
        self.constants: dict[int, Any] = {}
        self.calls: tuple[JaxprEqn, ...] = ()

    def fresh(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def constant(self, aval: Any, value: Any) -> int:
        position = self.fresh(aval)
        self.constants[position] = value
        return position

    def inline(self, block: Block, jaxpr: Jaxpr, consts: Sequence[int], ins: Sequence[int]) -> tuple[int, ...]:
        """Appends the operations of a jaxpr to a block; returns where its outputs are."""
        where: dict[Var, int] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *ins], strict=True))

        def read(atom: Any) -> int:
            return self.constant(atom.aval, atom.val) if isinstance(atom, Literal) else where[atom]

        for eqn in jaxpr.eqns:
            operands = tuple(map(read, eqn.invars))
            calls, self.calls = self.calls, (eqn, *self.calls)
            results = self._equation(block, eqn, operands)
            self.calls = calls
            where.update(zip(eqn.outvars, results, strict=True))
        return tuple(map(read, jaxpr.outvars))

    def _inline_closed(self, block: Block, jaxpr: ClosedJaxpr | Jaxpr, ins: Sequence[int]) -> tuple[int, ...]:
        if isinstance(jaxpr, Jaxpr):
            return self.inline(block, jaxpr, (), ins)
        consts = [
            self.constant(var.aval, value) for var, value in zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True)
        ]
        return self.inline(block, jaxpr.jaxpr, consts, ins)

    def _equation(self, block: Block, eqn: JaxprEqn, ins: tuple[int, ...]) -> tuple[int, ...]:
        name = eqn.primitive.name
        if name in _CONTROL_FLOW:
            return _CONTROL_FLOW[name](self, block, eqn, ins)
        inner = None if name in self.whole else _only_jaxpr(eqn)
        if inner is None:
            return self._append(block, name, eqn.params, ins, [var.aval for var in eqn.outvars], eqn)
        outs = self._inline_closed(block, inner, self._resized(block, eqn, ins, _invars(inner)))
        return self._resized(block, eqn, outs, eqn.outvars)

    def _append(self, block: Block, name: str, params: Mapping, ins: tuple[int, ...], avals: Sequence, eqn: JaxprEqn):
        outs = tuple(map(self.fresh, avals))
        block.append(Op(name, params, ins, outs, eqn, self.calls))
        return outs

    def _resized(self, block: Block, eqn: JaxprEqn, ins: Sequence[int], variables: Sequence) -> tuple[int, ...]:
        """Inside a `shard_map` shapes are those of a shard: an operation of its own changes them."""
        return tuple(
            position
            if getattr(self.avals[position], "shape", ()) == getattr(var.aval, "shape", ())
            else self._append(block, "resize", {}, (position,), [var.aval], eqn)[0]
            for position, var in zip(ins, variables, strict=True)
        )

    def _scan(self, block: Block, eqn: JaxprEqn, ins: tuple[int, ...]) -> tuple[int, ...]:
        jaxpr, n_consts, n_carry = eqn.params["jaxpr"], eqn.params["num_consts"], eqn.params["num_carry"]
        consts, starts, stacks = ins[:n_consts], ins[n_consts : n_consts + n_carry], ins[n_consts + n_carry :]
        body: Block = []
        variables = _invars(jaxpr)
        inside = tuple(self.fresh(var.aval) for var in variables[n_consts : n_consts + n_carry])
        slices = tuple(
            self._append(body, "scan_slice", {}, (stack,), [var.aval], eqn)[0]
            for stack, var in zip(stacks, variables[n_consts + n_carry :], strict=True)
        )
        outs = self._inline_closed(body, jaxpr, consts + inside + slices)
        carries = tuple(map(Carry, inside, starts, outs[:n_carry]))
        block.append(Loop(body, carries, eqn.params["length"], eqn))
        stacked = tuple(
            self._append(block, "scan_stack", {}, (out,), [var.aval], eqn)[0]
            for out, var in zip(outs[n_carry:], eqn.outvars[n_carry:], strict=True)
        )
        return outs[:n_carry] + stacked

    def _while(self, block: Block, eqn: JaxprEqn, ins: tuple[int, ...]) -> tuple[int, ...]:
        # the condition is left out: nothing can be differentiated through it
        n_skipped, n_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        consts, starts = ins[n_skipped : n_skipped + n_consts], ins[n_skipped + n_consts :]
        body: Block = []
        inside = tuple(self.fresh(var.aval) for var in eqn.outvars)
        outs = self._inline_closed(body, eqn.params["body_jaxpr"], consts + inside)
        block.append(Loop(body, tuple(map(Carry, inside, starts, outs)), None, eqn))
        # a loop may end before its first iteration: outside, a carry is what it is inside
        return inside

    def _cond(self, block: Block, eqn: JaxprEqn, ins: tuple[int, ...]) -> tuple[int, ...]:
        branches = [self._inline_closed(block, branch, ins[1:]) for branch in eqn.params["branches"]]
        return tuple(
            self._append(block, "select_n", {}, (ins[0], *outs), [var.aval], eqn)[0]
            for *outs, var in zip(*branches, eqn.outvars, strict=True)
        )


_CONTROL_FLOW = {"scan": _Flattener._scan, "while": _Flattener._while, "cond": _Flattener._cond}


def _invars(jaxpr: ClosedJaxpr | Jaxpr) -> list[Var]:
    return jaxpr.jaxpr.invars if isinstance(jaxpr, ClosedJaxpr) else jaxpr.invars


def _only_jaxpr(eqn: JaxprEqn) -> ClosedJaxpr | Jaxpr | None:
    """What a call calls, whatever the call and its parameter are named in this version of JAX."""
    found = [value for value in eqn.params.values() if isinstance(value, ClosedJaxpr | Jaxpr)]
    if len(found) != 1:
        return None
    jaxpr = found[0].jaxpr if isinstance(found[0], ClosedJaxpr) else found[0]
    fits = len(jaxpr.invars) == len(eqn.invars) and len(jaxpr.outvars) == len(eqn.outvars)
    return found[0] if fits else None


_OURS = str(Path(__file__).parent)


def source(*eqns: JaxprEqn) -> str:
    """Where in the user's code an equation was written, such as `model.py:12 (attention)`; empty if unknown.

    Of an equation inside calls, the innermost that shows a place in the user's code.
    """
    for eqn in eqns:
        for frame in getattr(getattr(eqn.source_info, "traceback", None), "frames", ()):
            if not frame.file_name.startswith(_OURS) and "site-packages" not in frame.file_name:
                return f"{frame.file_name.rsplit('/', 1)[-1]}:{frame.line_num} ({frame.function_name})"
    return ""


def is_backward(op: Op) -> bool:
    """Whether an operation belongs to the backward pass of a gradient taken inside the model."""
    return any("transpose(" in str(getattr(eqn.source_info, "name_stack", "")) for eqn in op.calls)
