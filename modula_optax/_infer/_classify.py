"""Classification: from the uses of a parameter to its role, its axes, and how sure that is."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from modula_optax._infer._finding import (
    EVIDENCE,
    PRODUCT,
    Evidence,
    Finding,
    UnclearError,
    agreed,
    least,
    roles_by_axis,
)
from modula_optax._infer._flow import DEAD, STRONG, WEAK, Reach
from modula_optax._infer._matrix import find_matrix
from modula_optax._infer._trace import Use
from modula_optax._infer._vector import find_vector
from modula_optax._jaxpr import is_backward


def classify(
    shapes: Sequence[tuple[int, ...]],
    uses: Sequence[Use],
    evidence: Evidence,
    reached: Mapping[int, Reach],
    parameters: Sequence[int],
    known: Mapping[int, Finding],
) -> list[Finding]:
    """A finding for every parameter.

    Args:
      shapes: of the parameters.
      uses: what the interpreter saw, in the order of the program.
      evidence: see `Evidence`.
      reached: which values reach the output.
      parameters: the position of each parameter among the values.
      known: findings that are there before, by number of the parameter.
    """
    chosen = [_strongest([u for u in uses if u.param == i], reached) for i in range(len(shapes))]
    kinds = [{use.kind for use in mine} for mine in chosen]
    first = {i: next(n for n, use in enumerate(uses) if use is mine[0]) for i, mine in enumerate(chosen) if mine}
    findings = dict(known)
    # matrices first: what a vector is depends on the axes of the matrices around it, in order of first use
    for i in sorted(range(len(shapes)), key=lambda i: (bool(kinds[i] <= {"add", "mul"}), first.get(i, -1))):
        if i in known:
            continue
        if not chosen[i]:
            alive = reached.get(parameters[i], Reach()).level != DEAD
            problem = "reaches the output without meeting any data"
            findings[i] = Finding("unknown", problem=problem) if alive else Finding("unused")
            continue
        try:
            dead = [use for use in uses if use.param == i and level_of(use, reached) == DEAD]
            finding = _find(shapes[i], chosen[i], dead, evidence, findings)
            place = _place(finding, chosen[i], reached)
            findings[i] = dataclasses.replace(finding, place=place, notes=finding.notes + _notes(chosen[i]))
        except UnclearError as error:
            findings[i] = Finding("unknown", use=chosen[i][0], problem=str(error))
    return [findings[i] for i in range(len(shapes))]


def level_of(use: Use, reached: Mapping[int, Reach]) -> int:
    level = reached.get(use.op.outs[0], Reach()).level
    return min(level, WEAK) if use.weak else level


def _strongest(uses: Sequence[Use], reached: Mapping[int, Reach]) -> list[Use]:
    """The uses that the role is read off: those that a gradient comes through, if there are any."""
    for level in (STRONG, WEAK):
        at_level = [use for use in uses if level_of(use, reached) >= level]
        proper = [use for use in at_level if use.kind != "statistic"]
        if proper:
            return proper
    return [use for use in uses if level_of(use, reached) != DEAD]


def _find(
    shape: tuple[int, ...], uses: list[Use], dead: list[Use], evidence: Evidence, findings: Mapping[int, Finding]
) -> Finding:
    uses = [_of_table(shape, use) for use in _with_data(uses)]
    uses = _without_entries(uses) if len(shape) == 1 else uses
    kinds = {use.kind for use in uses}
    strange = sorted(kinds - {"linear", "conv", "lookup", "add", "mul"})
    if strange:
        raise UnclearError("only a statistic of it is used" if strange == ["statistic"] else strange[0])
    if kinds <= {"add", "mul"}:
        return find_vector(shape, uses, evidence, findings)
    if kinds == {"lookup"}:
        return agreed([find_lookup(shape, use, evidence) for use in uses])
    if kinds <= {"linear", "conv"}:
        return find_matrix(shape, uses, dead, evidence)
    if kinds == {"lookup", "linear"}:
        return _find_tied(shape, uses, dead, evidence)
    if kinds == {"lookup", "add"}:
        return _find_table(shape, uses, evidence, findings)
    if any(use.part.how == "product" for use in uses):
        raise UnclearError(PRODUCT)
    raise UnclearError(f"it is used in incompatible ways: {', '.join(sorted(kinds))}")


def _with_data(uses: list[Use]) -> list[Use]:
    """What a matrix does to data says more than its products with other parameters, as with learned first slots.

    It also says more than its rows alone, which are derivatives along coordinates, and than a product of data with it
    entry by entry, of which a length is taken to divide by.
    """
    if not any(use.part.how == "whole" and use.kind in ("linear", "conv") for use in uses):
        return uses
    return [use for use in uses if use.part.how != "product" and not (_is_of_rows(use) or _is_of_matrix(use))]


def _is_of_rows(use: Use) -> bool:
    return use.kind in ("add", "mul") and any(piece.role == "looked" for piece in use.axes)


def _is_of_matrix(use: Use) -> bool:
    return use.kind == "mul" and sum(piece.size > 1 for piece in use.axes) > 1


def _of_table(shape: tuple[int, ...], use: Use) -> Use:
    """Rows looked up by constants, more of them than there are: vectors of a table, as of relative positions.

    A permuted weight has each of its rows once, or runs along one axis.
    """
    looked = {piece.axis for piece in use.axes if piece.role == "looked"}
    for axis in looked if use.kind == "linear" else ():
        sizes = [piece.size for piece in use.axes if piece.axis == axis and piece.position >= 0]
        if len(sizes) > 1 and math.prod(sizes) > shape[axis]:
            kept = tuple(piece for piece in use.axes if piece.axis not in looked or piece.role == "looked")
            return use._replace(kind="lookup", axes=kept)
    return use


def _without_entries(uses: list[Use]) -> list[Use]:
    """Without single entries that are looked up: beside what the whole is added to, they say nothing."""
    added = [use for use in uses if use.kind == "add"]
    entries = [use for use in uses if use.kind == "lookup" and all(piece.role == "looked" for piece in use.axes)]
    return added if added and len(added) + len(entries) == len(uses) else uses


def _find_tied(shape: tuple[int, ...], uses: list[Use], dead: list[Use], evidence: Evidence) -> Finding:
    table = agreed([find_lookup(shape, use, evidence) for use in uses if use.kind == "lookup"])
    matrix = find_matrix(shape, [use for use in uses if use.kind == "linear"], dead, evidence)
    if {frozenset(table.fan_in), frozenset(table.fan_out)} != {frozenset(matrix.fan_in), frozenset(matrix.fan_out)}:
        raise UnclearError("it is looked up and multiplied along different axes")
    return dataclasses.replace(table, role="tied", confidence=least(table.confidence, matrix.confidence))


def _find_table(
    shape: tuple[int, ...], uses: list[Use], evidence: Evidence, findings: Mapping[int, Finding]
) -> Finding:
    """Positions added to all tokens at once, and looked up for a token that comes later."""
    table = find_vector(shape, [use for use in uses if use.kind == "add"], evidence, findings)
    rows = agreed([find_lookup(shape, use, evidence) for use in uses if use.kind == "lookup"])
    if (table.role, table.fan_in, table.fan_out) != ("positional", rows.fan_in, rows.fan_out):
        raise UnclearError("it is used in incompatible ways: added and looked up")
    return table


def find_lookup(shape: tuple[int, ...], use: Use, evidence: Evidence) -> Finding:
    """An embedding: the axis looked up is its rows, what is left its columns."""
    roles = roles_by_axis(use)
    rows = tuple(axis for axis in range(len(shape)) if "looked" in roles.get(axis, ()))
    batch = {axis for axis in range(len(shape)) if roles.get(axis, set()) & {"picked", "batch"}}
    columns = tuple(axis for axis in range(len(shape)) if axis not in rows and axis not in batch)
    if use.looked_up_by is not None and use.looked_up_by in evidence.experts:
        # looked up by what looks up matrices: the biases of the same experts
        return Finding("bias", fan_out=columns, confidence=EVIDENCE, use=use)
    return Finding("embedding", fan_in=rows, fan_out=columns, use=use)


def _place(finding: Finding, uses: Sequence[Use], reached: Mapping[int, Reach]) -> str:
    if any(use.kind == "linear" and is_backward(use.op) for use in uses):
        # on the way back of a gradient inside the model the first layer comes last
        return "hidden"
    after = frozenset().union(*(reached.get(use.op.outs[0], Reach()).matrices for use in uses))
    if finding.role not in ("embedding", "positional") and not after - {uses[0].param}:
        return "head"
    return "hidden" if all(use.deep for use in uses) else "input"


def _notes(uses: Sequence[Use]) -> tuple[str, ...]:
    return ("reparameterised",) if any(use.part.reparameterised for use in uses) else ()
