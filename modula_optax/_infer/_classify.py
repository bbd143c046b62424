"""Classification: from the uses of a parameter to its role, its axes, and how sure that is."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from modula_optax._infer._finding import (
    CERTAIN,
    GUESS,
    Evidence,
    Finding,
    UnclearError,
    agreed,
    conflict,
    least,
    product,
    roles_by_axis,
)
from modula_optax._infer._flow import DEAD, Reach
from modula_optax._infer._matrix import find_matrix
from modula_optax._infer._telling import forward, is_of_rows, strongest, telling
from modula_optax._infer._terms import Axis, Clue, Made, UseKind
from modula_optax._infer._uses import Use
from modula_optax._infer._values import Label
from modula_optax._infer._vector import find_vector
from modula_optax._jaxpr import Kind, is_backward, named

_OF_KERNELS = named(Kind.PRODUCT, Kind.COMPLEX, Kind.REDUCTION)


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
    of_param: list[list[Use]] = [[] for _ in shapes]
    for use in uses:
        of_param[use.param].append(use)
    chosen = [strongest(mine, reached) for mine in of_param]
    forwards = [forward(mine, alive) for mine, alive in zip(of_param, chosen, strict=True)]
    told = [telling(shape, mine) for shape, mine in zip(shapes, forwards, strict=True)]
    order = {id(use): n for n, use in enumerate(uses)}
    met = sorted((i for i, mine in enumerate(chosen) if mine and i not in known), key=lambda i: order[id(chosen[i][0])])
    findings = dict(known)
    for i in set(range(len(shapes))) - findings.keys() - set(met):
        alive = reached.get(parameters[i], Reach()).level != DEAD
        unclear = UnclearError("reaches the output without meeting any data")
        findings[i] = unclear.finding() if alive else Finding("unused")
    for i in (i for i in met if not _is_vector(told[i])):
        find = functools.partial(_find_matrix, shapes[i], told[i], evidence)
        findings[i] = _placed(find, chosen[i], reached)
    # what a vector is depends on what made the axes that it meets: matrices, and vectors that were met before it
    for i in (i for i in met if _is_vector(told[i])):
        find = functools.partial(_find_vector, shapes[i], told[i], evidence, findings)
        findings[i] = _placed(find, chosen[i], reached)
    return [findings[i] for i in range(len(shapes))]


def _placed(find: Callable[[], Finding], uses: Sequence[Use], reached: Mapping[int, Reach]) -> Finding:
    """What is found of a parameter, with its place; why its role is unclear, if it is."""
    try:
        finding = find()
        notes = ("reparameterised",) if any(use.part.reparameterised for use in uses) else ()
        return dataclasses.replace(finding, place=_place(finding, uses, reached), notes=finding.notes + notes)
    except UnclearError as error:
        return error.finding(uses[0])


def _kinds(uses: Iterable[Use]) -> set[UseKind]:
    return {use.kind for use in uses}


def _is_vector(uses: Sequence[Use]) -> bool:
    """Whether data meet a parameter entry by entry, and rows of it, if anything else."""
    entrywise = {UseKind.ADD, UseKind.MUL}
    return bool(_kinds(uses) & entrywise) and _kinds(uses) <= entrywise | {UseKind.LOOKUP}


def _find_vector(
    shape: tuple[int, ...], uses: Sequence[Use], evidence: Evidence, findings: Mapping[int, Finding]
) -> Finding:
    if any(is_of_rows(use) and is_backward(use.op) for use in uses):
        raise UnclearError("only rows of it are left, on the way back of a gradient")
    if UseKind.LOOKUP not in _kinds(uses):
        return find_vector(shape, uses, evidence, findings)
    if _kinds(uses) == {UseKind.LOOKUP, UseKind.ADD}:
        return _find_table(shape, uses, evidence, findings)
    raise _mixed(uses)


def _find_matrix(shape: tuple[int, ...], uses: Sequence[Use], evidence: Evidence) -> Finding:
    kinds = _kinds(uses)
    if UseKind.OTHER in kinds:
        others = [use for use in uses if use.kind is UseKind.OTHER]
        is_product = all(use.part.made is Made.PRODUCT for use in others)
        raise product() if is_product else UnclearError(min(use.reason for use in others))
    if UseKind.STATISTIC in kinds:
        raise UnclearError("only a statistic of it is used")
    if kinds == {UseKind.LOOKUP}:
        return agreed([find_lookup(shape, use, evidence) for use in uses])
    if kinds <= {UseKind.LINEAR, UseKind.CONV}:
        return find_matrix(shape, uses, evidence)
    if kinds == {UseKind.LOOKUP, UseKind.LINEAR}:
        return _find_tied(shape, uses, evidence)
    raise product() if any(use.part.made is Made.PRODUCT for use in uses) else _mixed(uses)


def _mixed(uses: Sequence[Use]) -> UnclearError:
    return conflict(", ".join(sorted(kind.value for kind in _kinds(uses))))


def _find_tied(shape: tuple[int, ...], uses: Sequence[Use], evidence: Evidence) -> Finding:
    table = agreed([find_lookup(shape, use, evidence) for use in uses if use.kind is UseKind.LOOKUP])
    matrix = find_matrix(shape, [use for use in uses if use.kind is UseKind.LINEAR], evidence)
    if {frozenset(table.fan_in), frozenset(table.fan_out)} != {frozenset(matrix.fan_in), frozenset(matrix.fan_out)}:
        raise UnclearError("it is looked up and multiplied along different axes")
    return dataclasses.replace(table, role="tied", confidence=least(table.confidence, matrix.confidence))


def _find_table(
    shape: tuple[int, ...], uses: Sequence[Use], evidence: Evidence, findings: Mapping[int, Finding]
) -> Finding:
    """Positions added to all tokens at once, and looked up for a token that comes later."""
    table = find_vector(shape, [use for use in uses if use.kind is UseKind.ADD], evidence, findings)
    rows = agreed([find_lookup(shape, use, evidence) for use in uses if use.kind is UseKind.LOOKUP])
    if (table.role, table.fan_in, table.fan_out) != ("positional", rows.fan_in, rows.fan_out):
        raise conflict("added and looked up")
    return table


def find_lookup(shape: tuple[int, ...], use: Use, evidence: Evidence) -> Finding:
    """An embedding: the axis looked up is its rows, what is left its columns."""
    roles = roles_by_axis(use)
    rows = tuple(axis for axis in range(len(shape)) if Axis.LOOKED in roles.get(axis, ()))
    members = {axis for axis in range(len(shape)) if evidence.is_member(Label(use.param, axis))}
    # of an axis that was cut into pieces, one of which was taken, the entries of the piece are left
    left = {piece.axis for piece in use.axes if piece.role is Axis.OUT and piece.size > 1}
    picked = {axis for axis, its in roles.items() if Axis.PICKED in its} - left
    batch = members | picked | {axis for axis, its in roles.items() if Axis.BATCH in its}
    columns = tuple(axis for axis in range(len(shape)) if axis not in rows and axis not in batch)
    labels = [Label(use.param, axis) for axis in columns]
    # those that stand before the rows may be members of an ensemble
    leading = (label for label in labels if evidence.has(label, Clue.LEADING))
    sure = all(evidence.has(label, Clue.CONTRACTED, Clue.MERGED) for label in leading)
    # a matrix that is scaled, or of which a statistic is taken, may be the kernel of a layer
    sure &= len(columns) < 2 or use.op.name not in _OF_KERNELS
    role = "embedding" if rows else "bias"
    return Finding(role, fan_in=rows, fan_out=columns, confidence=CERTAIN if sure else GUESS, use=use)


def _place(finding: Finding, uses: Sequence[Use], reached: Mapping[int, Reach]) -> str:
    if any(use.kind in (UseKind.LINEAR, UseKind.CONV) and is_backward(use.op) for use in uses):
        # on the way back of a gradient inside the model the first layer comes last
        return "hidden"
    after = frozenset().union(*(reached.get(use.op.outs[0], Reach()).matrices for use in uses))
    if finding.role not in ("embedding", "positional") and not after - {uses[0].param}:
        return "head"
    return "hidden" if all(use.deep for use in uses) else "input"
