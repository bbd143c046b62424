"""Depth: how many layers of hidden weights lie one behind the other."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from modula_optax._axes import Axes, batch_axes
from modula_optax._infer._finding import LAYERS, Finding
from modula_optax._jaxpr import Block, Loop, Program

# number of layers that an operation is of, by where its first output is
Layers = Mapping[int, int]


def depth_of(
    program: Program,
    findings: Sequence[Finding],
    shapes: Sequence[tuple[int, ...]],
    matrices: Mapping[int, frozenset[int]],
) -> int:
    """The largest number of hidden matrices that a value goes through, one after the other.

    A loop over stacked layers is as deep as the stack. One that uses the same weights in every turn is as deep as one
    turn: its weights are moved once.

    Args:
      program: see `flatten`.
      findings: what the parameters do.
      shapes: of the parameters.
      matrices: parameters that are matrices in an operation, by where its first output is.
    """
    hidden = {i: _stacked(f, shape) for i, (f, shape) in enumerate(zip(findings, shapes, strict=True)) if _is_hidden(f)}
    atoms = {
        out: max(hidden[i] for i in used & hidden.keys()) for out, used in matrices.items() if used & hidden.keys()
    }
    found: dict[int, int] = defaultdict(int)
    _forwards(program.block, found, atoms)
    return max((found[out] for out in program.outputs), default=0)


def _is_hidden(finding: Finding) -> bool:
    return finding.place == "hidden" and finding.role in LAYERS


def _stacked(finding: Finding, shape: tuple[int, ...]) -> int:
    """How many matrices a parameter is a stack of."""
    axes = Axes(finding.fan_in, finding.fan_out, finding.taps)
    return math.prod(shape[axis] for axis in batch_axes(axes, len(shape)))


def _forwards(block: Block, found: dict[int, int], atoms: Layers) -> None:
    for op in block:
        if isinstance(op, Loop):
            _through_loop(op, found, atoms)
            continue
        reached = max((found[operand] for operand in op.ins), default=0) + (op.outs[0] in atoms)
        found.update(dict.fromkeys(op.outs, reached))


def _through_loop(loop: Loop, found: dict[int, int], atoms: Layers) -> None:
    turns = loop.length or 1
    start = {carry.inside: found[carry.start] for carry in loop.carries}
    found.update(start)
    # what has a matrix for every turn makes the last turn deeper than the first
    _forwards(loop.body, found, {out: n for out, n in atoms.items() if n % turns == 0})
    before = max(start.values(), default=0)
    after = max((found[carry.end] for carry in loop.carries), default=0)
    for inside, depth in start.items():
        found[inside] = depth + (turns - 1) * max(0, after - before)
    _forwards(loop.body, found, atoms)
