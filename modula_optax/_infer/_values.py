"""Abstract values: what is known of an intermediate array - where its axes come from and what it is made of."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from modula_optax._infer._terms import Axis, Made, Normaliser


class Label(NamedTuple):
    """An axis of a parameter, by the parameter's number."""

    param: int
    axis: int


Labels = frozenset[Label]
NONE: Labels = frozenset()

# Labels of constants, with a parameter's number that no parameter has.
COUNTING = Label(-1, 0)  # entries are 0, 1, 2, ... along the axis
ONE_HOT = Label(-1, 1)  # one entry along the axis is 1, the others 0
SPECIAL: Labels = frozenset([COUNTING, ONE_HOT])
CHOSEN = Label(-1, 2)  # data say which entries along the axis count; this holds whatever happens to entries


class Factor(NamedTuple):
    """A part of an axis: the axes of parameters that it runs along; several where values were added."""

    size: int
    labels: Labels


Dim = tuple[Factor, ...]  # an axis, the product of its factors, the slowest first
Dims = tuple[Dim, ...]
ONE: Dim = (Factor(1, NONE),)  # an axis of one entry


class Part(NamedTuple):
    """A parameter that a value is made of, before it has met any data.

    `fixed` holds the roles of axes that the value no longer has; `reason` says how it was made otherwise: the name of
    an operation without a rule, slices joined another way, several uses in one.
    """

    param: int
    made: Made = Made.WHOLE
    fixed: frozenset[tuple[int, Axis]] = frozenset()
    reparameterised: bool = False
    reason: str = ""

    def otherwise(self, reason: str) -> "Part":
        """The part after something that says nothing about the parameter."""
        return self._replace(made=Made.OTHERWISE, reason=reason)


class Value(NamedTuple):
    """An intermediate array: a constant, a weight (made of `parts`), or an activation (`data`, no parts).

    A weight that is looked up by data has parts too, until it shows what it is looked up for.
    """

    dims: Dims
    data: bool = False
    parts: tuple[Part, ...] = ()
    uniform: bool = False  # a constant whose entries are all the same
    deep: bool = False  # computed from an activation that a matrix or a table produced
    looked_up_by: int | None = None  # of integers: what they were computed from; of what they look up, the same
    normaliser: Normaliser | None = None
    chosen: bool = False  # integers that number the largest entries of data, such as experts
    noise: bool = False  # data drawn from a random key, which may be drawn for a parameter as well as for samples

    @property
    def is_weight(self) -> bool:
        return bool(self.parts)

    @property
    def is_activation(self) -> bool:
        return self.data and not self.parts

    @property
    def is_constant(self) -> bool:
        return not self.data and not self.parts

    def along(self, axes: Iterable[int]) -> Labels:
        """The labels of these axes."""
        return labels_in(self.dims[i] for i in axes)

    def losing(self, labels: Labels, role: Axis) -> "Value":
        """The value without axes of parameters, whose parts remember how they went."""
        parts = (
            part._replace(fixed=part.fixed | {(axis, role) for param, axis in labels if param == part.param})
            for part in self.parts
        )
        return self._replace(parts=tuple(parts))


def plain(shape: Sequence[int]) -> Dims:
    """Axes of which nothing is known."""
    return tuple((Factor(size, NONE),) for size in shape)


def parameter(number: int, shape: Sequence[int]) -> Value:
    """The parameter itself."""
    dims = tuple((Factor(size, frozenset([Label(number, axis)])),) for axis, size in enumerate(shape))
    return Value(dims, parts=(Part(number),))


def size_of(dim: Dim) -> int:
    return math.prod(factor.size for factor in dim)


def labels_of(dim: Dim) -> Labels:
    return NONE.union(*(factor.labels for factor in dim))


def labels_in(dims: Iterable[Dim]) -> Labels:
    return NONE.union(*map(labels_of, dims))


def params_in(dims: Iterable[Dim]) -> set[int]:
    """The numbers of the parameters, and those of constants, that axes run along."""
    return {param for param, _ in labels_in(dims)}


def relabel(dim: Dim, add: Labels = NONE, remove: Labels = NONE) -> Dim:
    return tuple(Factor(factor.size, (factor.labels | add) - remove) for factor in dim)


def unmarked(dims: Dims) -> Dims:
    """Without the labels of constants, which hold only while entries keep their values."""
    if any(SPECIAL & factor.labels for dim in dims for factor in dim):
        return tuple(relabel(dim, remove=SPECIAL) for dim in dims)
    return dims


def resize(dim: Dim, size: int) -> Dim:
    """The axis after some of its entries were taken, or others added."""
    if size_of(dim) == size:
        return dim
    inner = size_of(dim[1:])
    if size % inner == 0 and dim:
        return (Factor(size // inner, dim[0].labels), *dim[1:])
    return (Factor(size, labels_of(dim)),)


def join_dim(a: Dim, b: Dim) -> Dim:
    """The axis of a sum: every factor comes from both."""
    if a == b:
        return a
    size_a, size_b = size_of(a), size_of(b)
    if size_a != size_b:
        return a if size_b == 1 else b if size_a == 1 else resize(a, max(size_a, size_b))
    if not labels_of(b):
        return a
    if not labels_of(a):
        return b
    a, b = _common_factors(a, b)
    return tuple(x if x.labels >= y.labels else Factor(x.size, x.labels | y.labels) for x, y in zip(a, b, strict=True))


def _common_factors(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """Both axes cut at the same places; in one piece if their cuts do not nest."""
    cuts = sorted(_cuts(a) | _cuts(b), reverse=True)
    if any(x % y for x, y in itertools.pairwise(cuts)):
        return (Factor(size_of(a), labels_of(a)),), (Factor(size_of(b), labels_of(b)),)
    return _cut(a, cuts), _cut(b, cuts)


def _cuts(dim: Dim) -> set[int]:
    """Sizes of what is left of the axis from every factor on."""
    return {size_of(dim[i:]) for i in range(len(dim) + 1)}


def _cut(dim: Dim, cuts: Sequence[int]) -> Dim:
    result = []
    for above, below in itertools.pairwise(cuts):
        owner = next(factor for i, factor in enumerate(dim) if size_of(dim[i + 1 :]) <= below < size_of(dim[i:]))
        result.append(Factor(above // below, owner.labels))
    return tuple(result) or dim[:1]


def join(a: Dims, b: Dims) -> Dims:
    """Axes of an elementwise operation; an axis of size 1 takes the size of the other's."""
    if a is b or not b:
        return a
    return tuple(map(join_dim, a, b)) if a else b


def _mixed(dims: Dims, shape: Sequence[int]) -> Dims:
    """Axes after a reshape of which none can be told from another, but for the first ones that stay."""
    kept = len(list(itertools.takewhile(lambda pair: size_of(pair[0]) == pair[1], zip(dims, shape, strict=False))))
    everything = labels_in(dims[kept:])
    return (*dims[:kept], *((Factor(size, everything),) for size in shape[kept:]))


def reshape(dims: Dims, shape: Sequence[int]) -> Dims:
    """Axes after a reshape: merged ones keep their factors, split ones are cut."""
    if 0 in shape:
        return plain(shape)
    queue = [factor for dim in dims for factor in dim]
    result: list[Dim] = []
    for size in shape:
        dim, needed = [], size
        while needed > 1 or (not dim and queue and queue[0].size == 1):
            factor = queue.pop(0)
            if factor.size == 1 and needed > 1:
                continue
            taken = math.gcd(factor.size, needed)
            if taken == factor.size:
                dim.append(factor)
            elif taken == needed:
                dim.append(Factor(taken, factor.labels))
                queue.insert(0, Factor(factor.size // taken, factor.labels))
            else:
                # the new axis ends inside a factor that it does not divide
                return _mixed(dims, shape)
            needed //= taken
        result.append(tuple(dim) or (Factor(1, NONE),))
    return tuple(result)
