"""Blocks: the pieces that the outputs of a layer are cut into, as those of a fused query-key-value kernel."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from modula_optax._infer._values import Dim, Dims, Label, Labels, labels_of, size_of


class Piece(NamedTuple):
    """Entries `start` to `stop` of an axis that was seen as `size` entries."""

    start: int
    stop: int
    size: int


class Pieces:
    """What was cut out of the axes that parameters made."""

    def __init__(self):
        self._pieces: dict[Label, set[Piece]] = {}
        self._leading: set[tuple[Label, int]] = set()
        self._rejoined: set[tuple[Label, int]] = set()

    def cut(self, dim: Dim, start: int, stop: int) -> None:
        """Notes that entries `start` to `stop` of an axis were taken."""
        if len(dim) == 1 and stop - start < dim[0].size:
            for label in dim[0].labels:
                self._pieces.setdefault(label, set()).add(Piece(start, stop, dim[0].size))

    def rejoined(self, parts: Sequence[Dim]) -> None:
        """Axes are put one after the other: the halves of a head that is rotated are no blocks of it."""
        lengths: Counter[Label] = Counter()
        for dim in parts:
            lengths.update(dict.fromkeys(labels_of(dim), size_of(dim)))
        shared = {label for label in lengths if sum(label in labels_of(dim) for dim in parts) > 1}
        self._rejoined |= {(label, lengths[label]) for label in shared}

    def reshaped(self, before: Dims, after: Dims) -> None:
        """Notes that axes were reshaped: of one that was split, the slowest part counts blocks."""
        sizes: dict[Labels, list[int]] = {}
        for dim in after:
            for factor in dim:
                sizes.setdefault(factor.labels, []).append(factor.size)
        for dim in before:
            for factor in dim:
                parts = sizes.get(factor.labels, [factor.size])
                # of two parts of one size it could not be told later which of them was cut
                if len(parts) > 1 and math.prod(parts) == factor.size and parts.count(parts[0]) == 1:
                    self._leading.update((label, parts[0]) for label in factor.labels)

    def blocks(self, param: int, axes: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
        """Sizes of the blocks that these axes, flattened, were cut into; none if pieces overlap or leave gaps."""
        if not axes:
            return ()
        label, entries = Label(param, axes[0]), math.prod(shape[axis] for axis in axes)
        pieces = (
            (piece.start * entries // piece.size, piece.stop * entries // piece.size)
            for piece in self._pieces_of(label)
            if piece.size == shape[axes[0]] or (label, piece.size) in self._leading
        )
        return _tiles(pieces, entries)

    def tiles(self, label: Label, size: int) -> tuple[int, ...]:
        """Sizes of the pieces of an axis that was seen as so many entries; none if they overlap or leave gaps."""
        return _tiles(((piece.start, piece.stop) for piece in self._pieces_of(label) if piece.size == size), size)

    def unpacked(self) -> Iterator[Label]:
        """Axes of which every entry was taken by itself."""
        for label, pieces in self._pieces.items():
            for size in {piece.size for piece in pieces}:
                if self.is_unpacked(label, size):
                    yield label

    def is_unpacked(self, label: Label, size: int) -> bool:
        """Whether every entry was taken by itself of an axis that was seen as so many."""
        return self.tiles(label, size) == (1,) * size

    def equal(self, label: Label, size: int) -> int:
        """How many pieces of one length an axis was cut into where it was seen as so many entries; 1 if it was not."""
        sizes = self.tiles(label, size)
        return len(sizes) if len(set(sizes)) == 1 else 1

    def _pieces_of(self, label: Label) -> list[Piece]:
        return [piece for piece in self._pieces.get(label, ()) if (label, piece.size) not in self._rejoined]


def _tiles(pieces: Iterable[tuple[int, int]], size: int) -> tuple[int, ...]:
    """Lengths of pieces of what has this size; none if they overlap or leave gaps."""
    pieces = sorted(pieces)
    ends = [0, *(stop for _, stop in pieces)]
    if ends[-1] != size or any(start != end for (start, _), end in zip(pieces, ends, strict=False)):
        return ()
    # a block may be empty, as of a model without an optional branch
    sizes = tuple(after - before for before, after in itertools.pairwise(ends) if after > before)
    return sizes if len(sizes) > 1 else ()


def folded(joined: Sequence[Dims], along: int, entries: Callable[[Label], int]) -> set[int]:
    """Parameters whose slices are joined along an axis that was not sliced, and so gets longer than it is.

    Args:
      joined: axes of the arrays that are put one after the other.
      along: the axis that this happens along.
      entries: how long an axis of a parameter is.
    """
    lengths: Counter[Label] = Counter()
    sliced: set[Label] = set()
    for dims in joined:
        for i, dim in enumerate(dims):
            # of several factors, a parameter's axis may be any one
            for label in labels_of(dim) if len(dim) == 1 else ():
                if label[0] < 0:
                    continue
                if i == along:
                    lengths[label] += size_of(dim)
                elif size_of(dim) < entries(label):
                    sliced.add(label)
    too_long = {label for label, length in lengths.items() if length > entries(label)}
    return {param for param, axis in too_long if any(param == other and axis != across for other, across in sliced)}
