"""Uses: what a parameter does to the data that it meets, axis by axis."""

from typing import NamedTuple

from modula_optax._infer._terms import Axis, Made, UseKind
from modula_optax._infer._values import Labels, Part
from modula_optax._jaxpr import Op


class AxisUse(NamedTuple):
    """What a use does to one axis of a parameter (or to a piece of it, of `size` entries).

    Where entries are added or multiplied, `labels` are those of the activation. `position` orders the axes as the
    operation saw them; an axis that was lost before has none.
    """

    axis: int
    role: Axis
    size: int = 1
    position: int = -1
    labels: Labels = frozenset()


class Meeting(NamedTuple):
    """Vectors of two activations are multiplied: what the one keeps, its axes that are summed, those of the other."""

    kept: Labels
    summed: Labels
    others: Labels


class Use(NamedTuple):
    """A parameter meets data; `reason` says what is no kind of use."""

    param: int
    kind: UseKind
    axes: tuple[AxisUse, ...]
    op: Op
    part: Part
    groups: int = 1
    partners: tuple[int, ...] = ()  # the other parameters that the same weight is made of
    deep: bool = False  # the data come from another matrix or table
    weak: bool = False  # met a constant in place of data
    kept: Labels = frozenset()  # axes of all its parameters that the output has
    summed: bool = False  # some parameter is a whole term of the weight: it alone, or one of a sum
    reason: str = ""

    def scaled(self) -> set[int]:
        """The axes of a parameter, multiplied into data, that these have, too."""
        return self._of_product(Axis.ALIGNED)

    def lacking(self) -> set[int]:
        """The axes of a parameter, multiplied into data, of which these have no part."""
        return self._of_product(Axis.EXPANDED) - self.scaled()

    def _of_product(self, role: Axis) -> set[int]:
        is_product = self.kind is UseKind.MUL and self.part.made is Made.WHOLE
        return {piece.axis for piece in self.axes if is_product and piece.role is role and piece.size > 1}
