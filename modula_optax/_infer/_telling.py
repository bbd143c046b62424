"""Which uses of a parameter tell what it is: those that a gradient comes through, on the way forward, with data."""

import math
from collections.abc import Mapping, Sequence

from modula_optax._infer._flow import CHOICE, DEAD, STOPPED, STRONG, Reach
from modula_optax._infer._terms import Axis, Made, UseKind
from modula_optax._infer._uses import AxisUse, Use
from modula_optax._jaxpr import is_backward


def strongest(uses: Sequence[Use], reached: Mapping[int, Reach]) -> list[Use]:
    """The uses that the role is read off: those that a gradient comes through, if there are any."""
    for level in (STRONG, STOPPED, CHOICE):
        at_level = [use for use in uses if level_of(use, reached) >= level]
        proper = [use for use in at_level if use.kind is not UseKind.STATISTIC]
        if proper:
            return proper
    return [use for use in uses if level_of(use, reached) != DEAD]


def level_of(use: Use, reached: Mapping[int, Reach]) -> int:
    level = reached.get(use.op.outs[0], Reach()).level
    return min(level, STOPPED) if use.weak else level


def forward(uses: Sequence[Use], alive: list[Use]) -> list[Use]:
    """The uses on the way forward, where a gradient is taken inside the model: on the way back, layers are reversed.

    The way forward need not reach the output: of forces, it was computed before.
    """
    if not any(is_backward(use.op) for use in alive):
        return alive
    for some in (alive, [use for use in uses if use.kind is not UseKind.STATISTIC]):
        if ahead := [use for use in some if not is_backward(use.op)]:
            return ahead
    return [_turned(use) for use in alive]


def _turned(use: Use) -> Use:
    """A layer of which only the way back is left, where it takes its outputs and gives its inputs."""
    if use.kind not in (UseKind.LINEAR, UseKind.CONV):
        return use
    given = [axis for axis in use.axes if axis.role is Axis.OUT and axis.size > 1]
    if len(given) > 1 or use.groups > 1 or use.part.made is not Made.WHOLE:
        return use._replace(kind=UseKind.OTHER, reason="only the way back of a gradient is left of it")
    turned = {Axis.IN: Axis.OUT, Axis.OUT: Axis.IN}
    return use._replace(axes=tuple(axis._replace(role=turned.get(axis.role, axis.role)) for axis in use.axes))


def telling(shape: tuple[int, ...], uses: list[Use]) -> list[Use]:
    """The uses that say what a parameter is."""
    uses = [_of_table(shape, use) for use in _with_data(uses)]
    return _without_entries(uses) if len(shape) == 1 else uses


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
    return [use for use in apart if not (is_of_rows(use) or _is_of_matrix(use))]


def _is_of_product(use: Use) -> bool:
    made = use.part.made
    return made in (Made.PRODUCT, Made.SEVERAL) or (made is Made.ADDEND and use.kind is UseKind.OTHER)


def is_of_rows(use: Use) -> bool:
    return use.kind in (UseKind.ADD, UseKind.MUL) and any(x.role in (Axis.LOOKED, Axis.MIXED) for x in use.axes)


def _is_of_matrix(use: Use) -> bool:
    return use.kind is UseKind.MUL and sum(piece.size > 1 for piece in use.axes) > 1


def _of_table(shape: tuple[int, ...], use: Use) -> Use:
    """Rows looked up by constants, more of them than there are: vectors of a table, as of relative positions.

    A permuted weight has each of its rows once, or runs along one axis.
    """
    looked = {piece.axis for piece in use.axes if piece.role in (Axis.LOOKED, Axis.REORDERED)}
    for axis in looked:
        sizes = [piece.size for piece in use.axes if piece.axis == axis and piece.position >= 0]
        if len(sizes) > 1 and math.prod(sizes) > shape[axis]:
            # what was added meets data along the rows; a product has them as one of its axes
            kept = (piece for piece in use.axes if piece.axis != axis or use.kind is not UseKind.LINEAR)
            rows = AxisUse(axis, Axis.LOOKED)
            return use._replace(kind=UseKind.LOOKUP if use.kind is UseKind.LINEAR else use.kind, axes=(rows, *kept))
    return use


def _without_entries(uses: list[Use]) -> list[Use]:
    """The uses but for single entries looked up, which say nothing beside what the whole is added to."""
    added = [use for use in uses if use.kind is UseKind.ADD]
    entries = [
        use for use in uses if use.kind is UseKind.LOOKUP and all(piece.role is Axis.LOOKED for piece in use.axes)
    ]
    return added if added and len(added) + len(entries) == len(uses) else uses
