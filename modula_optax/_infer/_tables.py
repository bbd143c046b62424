"""What becomes of the rows of tables: they go into a matrix as they are, and positions are added to them."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from modula_optax._infer._finding import Finding, has_positions
from modula_optax._jaxpr import REDUCING, Block, Loop, Op, Program

_SCALING = frozenset({"mul", "div"})
_ADDING = frozenset({"add", "add_any"})


class Content(NamedTuple):
    """The tables whose rows a value is made of, and those of which it is a statistic, such as a mean or a length."""

    rows: frozenset[int] = frozenset()
    statistics: frozenset[int] = frozenset()


_NOTHING = Content()


class Fate(NamedTuple):
    """What became of rows.

    Attributes:
      bare: tables that some hidden matrix reads without a normalisation. A head may read them: it follows the growth
        of its inputs, and has nothing behind it that saturates.
      added: pairs of tables whose rows meet in a sum, either way round.
    """

    bare: frozenset[int] = frozenset()
    added: frozenset[tuple[int, int]] = frozenset()


# whether an operation with a matrix is one of a hidden layer, by where its first output is
Matrices = Mapping[int, bool]


def with_fates_of_tables(
    program: Program, findings: Sequence[Finding], matrices: Mapping[int, frozenset[int]]
) -> list[Finding]:
    """The findings, with those tables marked that are bare, and those that positions are added to.

    Args:
      program: see `flatten`; its first inputs are the parameters.
      findings: what the parameters do.
      matrices: parameters that are matrices in an operation, by where its first output is.
    """
    positions = {i for i, finding in enumerate(findings) if has_positions(finding)}
    tables = {i for i, finding in enumerate(findings) if finding.role == "embedding"} - positions
    if not tables:
        return list(findings)
    hidden = {i for i, finding in enumerate(findings) if finding.place == "hidden"}
    found = {program.inputs[i]: Content(frozenset({i})) for i in (*tables, *positions)}
    fate = _forwards(program.block, found, {out: bool(used & hidden) for out, used in matrices.items()})
    placed = {table for table, other in fate.added if other in positions}
    marked = list(findings)
    for i in tables:
        marked[i] = dataclasses.replace(findings[i], bare=i in fate.bare, placed=i in placed)
    return marked


def _forwards(block: Block, found: dict[int, Content], matrices: Matrices) -> Fate:
    fate = Fate()
    for op in block:
        if isinstance(op, Loop):
            fate = _both(fate, _through_loop(op, found, matrices))
            continue
        operands = [found.get(operand, _NOTHING) for operand in op.ins]
        joined = _joined(*operands)
        if joined == _NOTHING:
            continue
        if op.outs[0] in matrices:
            # what a matrix puts out is as large as the matrix makes it
            bare = joined.rows | joined.statistics if matrices[op.outs[0]] else frozenset()
            fate = _both(fate, Fate(bare))
        else:
            if op.name in _ADDING:
                pairs = itertools.permutations((operand.rows for operand in operands), 2)
                fate = _both(fate, Fate(added=frozenset((i, j) for a, b in pairs for i in a for j in b - a)))
            result = _result(op, operands, joined)
            found.update({out: _joined(found.get(out, _NOTHING), result) for out in op.outs})
    return fate


def _both(a: Fate, b: Fate) -> Fate:
    return Fate(a.bare | b.bare, a.added | b.added)


def _through_loop(loop: Loop, found: dict[int, Content], matrices: Matrices) -> Fate:
    while True:
        before = [found.get(carry.inside, _NOTHING) for carry in loop.carries]
        for carry in loop.carries:
            found[carry.inside] = _joined(*(found.get(i, _NOTHING) for i in (carry.inside, carry.start, carry.end)))
        fate = _forwards(loop.body, found, matrices)
        if before == [found[carry.inside] for carry in loop.carries]:
            return fate


def _result(op: Op, operands: list[Content], joined: Content) -> Content:
    rows, statistics = joined
    if op.name in REDUCING or (op.name == "dot_general" and op.ins[0] == op.ins[1]):
        return Content(statistics=rows | statistics)
    if op.name in _SCALING:
        # divided by a length of their own, or multiplied by one over it
        a, b = operands
        normalised = (a.rows & b.statistics) | (b.rows & a.statistics)
        rows, statistics = rows - normalised, statistics - normalised
    return Content(rows, statistics - rows)


def _joined(*contents: Content) -> Content:
    rows, statistics = zip(*contents, strict=True) if contents else ((), ())
    return Content(frozenset().union(*rows), frozenset().union(*statistics))
