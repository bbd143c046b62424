"""Classification: from the uses of a parameter to its role, its axes, and how sure that is."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from modula_optax._infer._finding import (
    EVIDENCE,
    Evidence,
    Finding,
    UnclearError,
    agreed,
    conflict,
    least,
    product,
    roles_by_axis,
)
from modula_optax._infer._flow import DEAD, STRONG, WEAK, Reach
from modula_optax._infer._matrix import find_matrix
from modula_optax._infer._terms import Axis, Made, UseKind
from modula_optax._infer._trace import Use
from modula_optax._infer._values import Label
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
    of_param: list[list[Use]] = [[] for _ in shapes]
    for use in uses:
        of_param[use.param].append(use)
    chosen = [_strongest(mine, reached) for mine in of_param]
    forwards = [_forward(mine, alive) for mine, alive in zip(of_param, chosen, strict=True)]
    told = [_telling(shape, mine) for shape, mine in zip(shapes, forwards, strict=True)]
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


def level_of(use: Use, reached: Mapping[int, Reach]) -> int:
    level = reached.get(use.op.outs[0], Reach()).level
    return min(level, WEAK) if use.weak else level


def _strongest(uses: Sequence[Use], reached: Mapping[int, Reach]) -> list[Use]:
    """The uses that the role is read off: those that a gradient comes through, if there are any."""
    for level in (STRONG, WEAK):
        at_level = [use for use in uses if level_of(use, reached) >= level]
        proper = [use for use in at_level if use.kind is not UseKind.STATISTIC]
        if proper:
            return proper
    return [use for use in uses if level_of(use, reached) != DEAD]


def _forward(uses: Sequence[Use], alive: list[Use]) -> list[Use]:
    """The uses on the way forward, where a gradient is taken inside the model: on the way back, layers are reversed.

    The way forward need not reach the output: of forces, it was computed before.
    """
    if not any(is_backward(use.op) for use in alive):
        return alive
    for some in (alive, [use for use in uses if use.kind is not UseKind.STATISTIC]):
        if forward := [use for use in some if not is_backward(use.op)]:
            return forward
    return [_turned(use) for use in alive]


def _turned(use: Use) -> Use:
    """A layer of which only the way back is left, where it takes its outputs and gives its inputs."""
    turned = {Axis.IN: Axis.OUT, Axis.OUT: Axis.IN}
    is_layer = use.kind is UseKind.LINEAR and use.part.made is Made.WHOLE
    axes = (axis._replace(role=turned.get(axis.role, axis.role)) if is_layer else axis for axis in use.axes)
    return use._replace(axes=tuple(axes))


def _telling(shape: tuple[int, ...], uses: list[Use]) -> list[Use]:
    """The uses that say what a parameter is."""
    uses = [_of_table(shape, use) for use in _with_data(uses)]
    return _without_entries(uses) if len(shape) == 1 else uses


def _kinds(uses: Iterable[Use]) -> set[UseKind]:
    return {use.kind for use in uses}


def _is_vector(uses: Sequence[Use]) -> bool:
    """Whether data meet a parameter entry by entry, and rows of it, if anything else."""
    entrywise = {UseKind.ADD, UseKind.MUL}
    return bool(_kinds(uses) & entrywise) and _kinds(uses) <= entrywise | {UseKind.LOOKUP}


def _find_vector(
    shape: tuple[int, ...], uses: Sequence[Use], evidence: Evidence, findings: Mapping[int, Finding]
) -> Finding:
    if any(_is_of_rows(use) and is_backward(use.op) for use in uses):
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


def _with_data(uses: list[Use]) -> list[Use]:
    """What a parameter does to data says more than its products with others, as with learned first slots.

    What a matrix does also says more than its rows alone, or constant mixtures of them, which are derivatives along
    coordinates, and than a product of data with it entry by entry, of which a length is taken to divide by.
    """
    whole = [use for use in uses if use.part.made is Made.WHOLE]
    is_layer = any(use.kind in (UseKind.LINEAR, UseKind.CONV) for use in whole)
    # several vectors that are multiplied into data may be a state that gates let through
    is_vector = any(use.kind is UseKind.ADD or (use.kind is UseKind.MUL and not _is_of_matrix(use)) for use in whole)
    apart = [use for use in uses if not _is_of_product(use)] if is_layer or is_vector else uses
    if not is_layer:
        return apart
    return [use for use in apart if not (_is_of_rows(use) or _is_of_matrix(use))]


def _is_of_product(use: Use) -> bool:
    made = use.part.made
    return made in (Made.PRODUCT, Made.SEVERAL) or (made is Made.ADDEND and use.kind is UseKind.OTHER)


def _is_of_rows(use: Use) -> bool:
    return use.kind in (UseKind.ADD, UseKind.MUL) and any(x.role in (Axis.LOOKED, Axis.MIXED) for x in use.axes)


def _is_of_matrix(use: Use) -> bool:
    return use.kind is UseKind.MUL and sum(piece.size > 1 for piece in use.axes) > 1


def _of_table(shape: tuple[int, ...], use: Use) -> Use:
    """Rows looked up by constants, more of them than there are: vectors of a table, as of relative positions.

    A permuted weight has each of its rows once, or runs along one axis.
    """
    looked = {piece.axis for piece in use.axes if piece.role is Axis.LOOKED}
    for axis in looked if use.kind is UseKind.LINEAR else ():
        sizes = [piece.size for piece in use.axes if piece.axis == axis and piece.position >= 0]
        if len(sizes) > 1 and math.prod(sizes) > shape[axis]:
            kept = tuple(piece for piece in use.axes if piece.axis not in looked or piece.role is Axis.LOOKED)
            return use._replace(kind=UseKind.LOOKUP, axes=kept)
    return use


def _without_entries(uses: list[Use]) -> list[Use]:
    """The uses but for single entries looked up, which say nothing beside what the whole is added to."""
    added = [use for use in uses if use.kind is UseKind.ADD]
    entries = [
        use for use in uses if use.kind is UseKind.LOOKUP and all(piece.role is Axis.LOOKED for piece in use.axes)
    ]
    return added if added and len(added) + len(entries) == len(uses) else uses


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
    batch = members | {axis for axis in range(len(shape)) if roles.get(axis, set()) & {Axis.PICKED, Axis.BATCH}}
    columns = tuple(axis for axis in range(len(shape)) if axis not in rows and axis not in batch)
    if use.looked_up_by is not None and use.looked_up_by in evidence.experts:
        # looked up by what looks up matrices: the biases of the same experts
        return Finding("bias", fan_out=columns, confidence=EVIDENCE, use=use)
    return Finding("embedding" if rows else "bias", fan_in=rows, fan_out=columns, use=use)


def _place(finding: Finding, uses: Sequence[Use], reached: Mapping[int, Reach]) -> str:
    if any(use.kind in (UseKind.LINEAR, UseKind.CONV) and is_backward(use.op) for use in uses):
        # on the way back of a gradient inside the model the first layer comes last
        return "hidden"
    after = frozenset().union(*(reached.get(use.op.outs[0], Reach()).matrices for use in uses))
    if finding.role not in ("embedding", "positional") and not after - {uses[0].param}:
        return "head"
    return "hidden" if all(use.deep for use in uses) else "input"
