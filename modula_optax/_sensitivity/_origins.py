"""What values are made of, as inference sees it and as an estimate asks for it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from modula_optax._jaxpr import Op


class Origin(Protocol):
    """What one value is made of: constants, parameters alone, or data."""

    @property
    def is_constant(self) -> bool: ...
    @property
    def is_weight(self) -> bool: ...  # made of parameters that have met no data
    @property
    def data(self) -> bool: ...
    @property
    def uniform(self) -> bool: ...  # a constant, all entries of which are the same


class Origins(NamedTuple):
    """The origins of all values of a program.

    `used` holds the first outputs of operations in which a parameter meets data, `follows` tells which parameters, by
    number, an operand of an operation comes from, and `unfamiliar` which primitives nothing is known of, and why.
    """

    values: Mapping[int, Origin]
    used: frozenset[int]
    follows: Callable[[Op], list[int]]
    unfamiliar: Mapping[str, str]
