"""Heads of attention: parts of axes along which two activations are multiplied one by one."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from modula_optax._infer._blocks import Pieces
from modula_optax._infer._values import Dim, Dims, Label, labels_of, params_in, size_of

Part = tuple[Label, int]  # so many entries of a parameter's axis, as it was seen


class Heads:
    """What was seen of heads.

    Where queries meet keys, and weights values, heads are a batch. Where all queries share the keys of one head, heads
    of queries are kept, and each has a softmax of its own.

    Args:
      entries: how long an axis of a parameter is.
    """

    def __init__(self, entries: Callable[[Label], int]) -> None:
        self._entries = entries
        self._batched: set[Part] = set()
        self._kept: set[Part] = set()
        self._attending: set[Part] = set()
        # how many entries of the axis one entry of its part is, where reshapes cut it
        self._within: dict[Part, set[int]] = {}
        self._widths: set[Part] = set()
        # of pieces of an axis, those that were cut further
        self._whole: set[Part] = set()
        self._summed: set[int] = set()
        self._inputs: dict[Label, set[Dim]] = {}

    def met(self, one: Dims, other: Dims, batched: Iterable[tuple[int, int]], contracted: Sequence[int]) -> None:
        """Two activations are contracted along these axes of the one, with these pairs of axes as a batch."""
        pairs = list(batched)
        for i, j in pairs:
            if all(any(param >= 0 for param, _ in labels_of(dim)) for dim in (one[i], other[j])):
                self._batched |= _parts((one[i], other[j]))
        summed = [one[i] for i in contracted]
        free = [dim for i, dim in enumerate(one) if i not in {*contracted, *(i for i, _ in pairs)}]
        makers = {param for dim in summed for param, _ in labels_of(dim)}
        self._summed |= makers
        # tokens that positions name are kept, too, and summed once they are weighed
        both = _parts(free) & _parts(summed)
        tokens = {(label, size) for label, size in both if label.param >= 0 and size == self._entries(label)}
        self._kept |= {(label, size) for label, size in _parts(free) - tokens if label.param in makers}
        # of queries and keys the entries of a head are summed, of values they are kept
        self._widths |= _parts(summed) | _parts(dim for dim in free if not params_in([dim]) & self._summed)

    def told(self, labels: Iterable[Label], size: int) -> None:
        """So many entries of these axes are heads."""
        self._batched |= {(label, size) for label in labels}

    def attended(self, dims: Iterable[Dim]) -> None:
        """Each entry along these axes has a softmax of its own."""
        self._attending |= _parts(dims)

    def reshaped(self, before: Dims, after: Dims) -> None:
        """Axes were cut: of the parts of each, the slowest come first."""
        old, new = _sizes(before), _sizes(after)
        for label, sizes in new.items():
            if len(sizes) > len(old.get(label, ())):
                self._whole.add((label, math.prod(sizes)))
                for i, size in enumerate(sizes):
                    self._within.setdefault((label, size), set()).add(math.prod(sizes[i + 1 :]))

    def taken(self, label: Label, dim: Dim) -> None:
        """A matrix contracts one of its axes with this axis of an activation."""
        self._inputs.setdefault(label, set()).add(dim)

    def width(self, label: Label, entries: int) -> int:
        """How many entries of an axis of outputs are one head: all, if there are none; 1, if each is one."""
        return min(
            (self._width(part, entries) for part in self._heads() if part[0] == label),
            default=entries,
        )

    def _width(self, part: Part, entries: int) -> int:
        label, size = part
        seen = {other for other, _ in self._widths if other.param == label.param}
        if label not in seen and (seen or size == entries):
            # the entries of a head lie along another axis
            return 1
        found = self._within.get(part, {entries})
        # parts of one size are told apart by what is summed
        return max([width for width in found if (label, width) in self._widths] or found)

    def cut(self, label: Label, width: int, pieces: Pieces) -> int:
        """How many entries are left of so many that are a head of several layers, as of queries, keys and values."""
        seen_as = {width} | {
            size for (seen, size), within in self._within.items() if seen == label and width // size in within
        }
        widths = {width // pieces.equal(label, size) for size in seen_as}
        return min((narrow for narrow in widths if (label, narrow) in self._widths), default=width)

    def of_pieces(self, label: Label, pieces: Sequence[int], width: int) -> tuple[int, ...]:
        """The pieces of an axis of which some are heads, in these: no sizes, if all are or it was not cut first."""
        are_heads = [(label, size) in self._whole for size in pieces]
        if all(are_heads) or not any(are_heads):
            return ()
        found = ((width,) * (n // width) if is_one else (n,) for n, is_one in zip(pieces, are_heads, strict=True))
        return tuple(itertools.chain(*found))

    def of_inputs(self, label: Label) -> int:
        """How many heads an axis of inputs is of."""
        found = {self._count(dim) for dim in self._inputs.get(label, ())}
        return found.pop() if len(found) == 1 else 1

    def _count(self, dim: Dim) -> int:
        """How many heads the slowest parts of an axis are."""
        known, count = self._heads(), 1
        for i, factor in enumerate(dim):
            within = size_of(dim[i + 1 :])
            is_head = any((label, factor.size) in known and within >= self._narrowest(label) for label in factor.labels)
            if factor.size > 1 and not is_head:
                break
            count *= factor.size
        return count

    def _narrowest(self, label: Label) -> int:
        return min((size for seen, size in self._widths if seen == label), default=1)

    def _heads(self) -> set[Part]:
        return self._batched | (self._kept & self._attending)


def _parts(dims: Iterable[Dim]) -> set[Part]:
    return {(label, factor.size) for dim in dims for factor in dim if factor.size > 1 for label in factor.labels}


def _sizes(dims: Dims) -> Mapping[Label, list[int]]:
    """The factors that each axis of a parameter is seen as, in order."""
    sizes: dict[Label, list[int]] = {}
    for dim in dims:
        for factor in dim:
            for label in factor.labels if factor.size > 1 else ():
                sizes.setdefault(label, []).append(factor.size)
    return sizes
