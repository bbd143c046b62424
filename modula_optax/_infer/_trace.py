"""What the interpreter has seen: a value for every position, and every meeting of a parameter with data."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from modula_optax._infer._blocks import Pieces
from modula_optax._infer._heads import Heads
from modula_optax._infer._terms import Axis, Clue, Made, UseKind
from modula_optax._infer._uses import AxisUse, Meeting, Use
from modula_optax._infer._values import (
    Factor,
    Label,
    Labels,
    Part,
    Value,
    plain,
    size_of,
)
from modula_optax._jaxpr import Op, Program, carries_of, operations, producers_of, untold

Rule = Callable[["Trace", Op, tuple[Value, ...]], "Value | tuple[Value, ...]"]


class Stack(NamedTuple):
    """What an index picks from: the index, as `Value` has it, and how many entries there are."""

    looked_up_by: int | None
    sizes: tuple[int, ...]


class Trace:
    """State of the interpreter: what is known of each value, and what was seen.

    `stacks` are taken for layers of which an index picks one.
    """

    def __init__(
        self,
        program: Program,
        consumers: Mapping[int, int],
        parameters: Sequence[int],
        stacks: Set[Stack] = frozenset(),
    ):
        self.stacks = stacks
        # axes of parameters that these stacks have
        self.picked: dict[Label, Stack] = {}
        # what looked up matrices, which may be layers or tables
        self.undecided: dict[Stack, None] = {}
        self.program = program
        self.avals = program.avals
        self.consumers = consumers
        self.parameters = parameters
        self.values: dict[int, Value] = {}
        self.makers = producers_of(program.block)
        self.carries = carries_of(program.block)
        self.is_backward = False
        self.uses: list[Use] = []
        # the parameters of these
        self.used: set[int] = set()
        # what happened to axes of activations that a parameter made
        self.evidence: list[tuple[Labels, Clue]] = []
        self.meetings: list[Meeting] = []
        # activations that are matrices, as uses of the parameters that they were made of
        self.kernels: list[Use] = []
        # activations, or weights, that were put one after the other: the axis, and each of them
        self.joined: dict[int, tuple[int, tuple[Value, ...]]] = {}
        # products of an activation and a weight, which are linear layers if a sum follows
        self.products: dict[int, range] = {}
        # exponentials of activations, which are a softmax if their sum follows
        self.exponentials: set[int] = set()
        # a weight divided by a statistic of its own: through these no role is decided
        self.statistics: set[tuple[int, int]] = set()
        self.pieces = Pieces()
        self.heads = Heads(self.entries)
        # of primitives whose parameters no rule knows: why, by name
        self.unfamiliar = dict(program.unfamiliar)

    @functools.cached_property
    def readers(self) -> dict[int, list[Op]]:
        """The operations that read each value."""
        readers: dict[int, list[Op]] = {}
        for op in operations(self.program.block):
            for position in set(op.ins):
                readers.setdefault(position, []).append(op)
        return readers

    @functools.cached_property
    def of_data(self) -> set[int]:
        """The values that data go into."""
        found = {i for i in (*self.program.inputs, *self.program.captured) if self.values[i].data}
        for _ in range(2 if self.carries else 1):
            for op in operations(self.program.block):
                if not found.isdisjoint(op.ins):
                    found.update(op.outs)
            found.update(i for i, carry in self.carries.items() if found & {carry.start, carry.end})
        return found

    def shape(self, position: int) -> tuple[int, ...]:
        return tuple(getattr(self.avals[position], "shape", ()))

    def entries(self, label: Label) -> int:
        """How long an axis of a parameter is."""
        param, axis = label
        return self.shape(self.parameters[param])[axis]

    def forget(self, op: Op, ins: Iterable[Value]) -> tuple[Value, ...]:
        """Outputs of an operation of which nothing is known but what they depend on."""
        ins = tuple(ins)
        data, deep = any(v.data for v in ins), any(v.deep for v in ins)
        return tuple(Value(plain(self.shape(out)), data=data, deep=deep) for out in op.outs)

    def note(self, labels: Iterable[Label], clue: Clue) -> None:
        """Notes a clue, but for what the way back of a gradient does, where layers are reversed."""
        if self.is_backward:
            return
        self.evidence.append((frozenset(labels), clue))

    def meet(self, meeting: Meeting) -> None:
        """Notes a meeting, but for those on the way back of a gradient."""
        if not self.is_backward:
            self.meetings.append(meeting)

    def refuse(self, op: Op, ins: Iterable[Value]) -> None:
        """Records that parameters are operands of an operation that says nothing about them."""
        for value in ins:
            for part in value.parts:
                self.use(op, value, part, UseKind.OTHER, (), operand_of(op), deep=True)

    def use(
        self,
        op: Op,
        weight: Value,
        part: Part,
        kind: UseKind,
        axes: Iterable[AxisUse],
        reason: str = "",
        **details: Any,
    ) -> None:
        """Records a use of one of the parts of a weight, which is of this kind if the part is a whole parameter."""
        if part.made is Made.OTHERWISE and self._is_number_of_many(weight, part.param):
            part = part._replace(made=Made.STATISTIC)
        kind, reason = _use_of(part, kind, reason)
        fixed = (AxisUse(axis, role) for axis, role in part.fixed)
        partners = tuple(other.param for other in weight.parts if other.param != part.param)
        self.used.add(part.param)
        self.uses.append(Use(part.param, kind, (*fixed, *axes), op, part, partners=partners, reason=reason, **details))

    def _is_number_of_many(self, weight: Value, param: int) -> bool:
        """Whether a value is one number that was made of many, as a determinant is."""
        is_number = all(size_of(dim) == 1 for dim in weight.dims)
        return is_number and any(size > 1 for size in self.shape(self.parameters[param]))

    def use_as_kernel(
        self, op: Op, kernel: Value, param: int, kind: UseKind, roles: Mapping[int, Axis], **details: Any
    ) -> None:
        """Notes what a matrix that was made of a parameter and of data does to other data, on the way forward."""
        if self.is_backward:
            return
        part = Part(param)
        axes = (AxisUse(axis, roles[i], factor.size, i) for i, axis, factor in axes_of(kernel, part))
        self.kernels.append(Use(param, kind, tuple(axes), op, part, **details))

    def stacks_of_layers(self) -> set[Stack]:
        """Those stacks that hold matrices which data meet as layers."""
        matrices = (use for use in self.uses if use.kind in (UseKind.LINEAR, UseKind.CONV))
        layers = [use for use in matrices if use.part.made is Made.WHOLE]
        axes = {Label(use.param, x.axis) for use in layers for x in use.axes if x.role is Axis.PICKED}
        return {self.picked[axis] for axis in axes & self.picked.keys()}

    def kernels_by_param(self) -> dict[int, list[Use]]:
        found: dict[int, list[Use]] = {}
        for kernel in self.kernels:
            found.setdefault(kernel.param, []).append(kernel)
        return found


def operand_of(op: Op) -> str:
    """The reason why nothing is known of what an operation takes, and what tells of it."""
    return untold(f"operand of {op.name}", op.name)


def _use_of(part: Part, kind: UseKind, reason: str) -> tuple[UseKind, str]:
    """What a use of a weight is to one of its parts, and why, if that is no kind."""
    match part.made, kind:
        case (Made.WHOLE, _) | (Made.PRODUCT, UseKind.LINEAR) | (Made.ADDEND, UseKind.ADD):
            return kind, reason
        case (Made.FACTOR, _) | (Made.COFACTOR, UseKind.MUL):
            return UseKind.MUL, ""
        case (Made.STATISTIC, _):
            return UseKind.STATISTIC, ""
        case (Made.PRODUCT | Made.COFACTOR, _):
            return UseKind.OTHER, "a product of parameters"
        case (Made.ADDEND, _):
            return UseKind.OTHER, "added to a product of parameters"
        case (Made.SEVERAL, _):
            return UseKind.OTHER, "used in several ways"
        case _:
            return UseKind.OTHER, part.reason


def axes_of(weight: Value, part: Part) -> Iterable[tuple[int, int, Factor]]:
    """Axes of a parameter that a weight still has: (axis of the weight, axis of the parameter, factor)."""
    for i, dim in enumerate(weight.dims):
        for factor in dim:
            for param, axis in factor.labels:
                if param == part.param:
                    yield i, axis, factor
