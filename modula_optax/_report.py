"""The report: the table that tells a person which norm every parameter got."""

import html
import itertools
import math
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from modula_optax._align import Leaf
from modula_optax._layout import resolve_axes
from modula_optax._registry import resolve

_HEADER = ("path", "shape", "norm", "axes", "mass", "sensitivity", "target norm", "share")
_INFERRED = ("role", "why")
_ALWAYS = ("path", "shape", "share")
_NUMBERS = ("mass", "sensitivity", "target norm", "share")
# not all parameters have them: vectors have no axes, and what has no norm has no mass
_PARTIAL = ("axes", "mass", "sensitivity", "target norm")
# a number that tells layers apart: in the name of a module, or the place in a list; w1 and w2 of one module are two
_NUMBER = re.compile(r"\d+(?=[^/]*/)|(?<![^/])\d+$")
_NARROWEST = 20

Row = tuple[str, ...]


class Summary(str):
    """A table that prints as text, as wide as the terminal; rich's console and notebooks show it as a table.

    Args:
      rows: the cells of every row, the header first.
      note: a line that stands below.
    """

    rows: tuple[Row, ...]
    note: str

    def __new__(cls, rows: Sequence[Row], note: str = "") -> "Summary":
        width = max(shutil.get_terminal_size().columns, _NARROWEST)
        tables = ["\n".join(_lines(part, width)) for part in _parts(rows, width, gap=2)]
        self = super().__new__(cls, "\n\n".join([*tables, *([textwrap.fill(note, width)] if note else [])]))
        self.rows, self.note = tuple(rows), note
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # a str would be made anew of its text
        return Summary, (self.rows, self.note)

    def __rich__(self) -> Any:
        return _RichSummary(self.rows, self.note)

    def _repr_html_(self) -> str:
        def line(cells: Row, tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        header, *body = self.rows
        return "\n".join(
            [
                "<table>",
                *([f"<caption>{html.escape(self.note)}</caption>"] if self.note else []),
                f"<thead>{line(header, 'th')}</thead>",
                "<tbody>",
                *(line(row, "td") for row in body),
                "</tbody>",
                "</table>",
            ]
        )


class _RichSummary:
    """What rich shows of a summary: tables as wide as its console."""

    def __init__(self, rows: Sequence[Row], note: str):
        self.rows, self.note = rows, note

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        # whoever calls it has rich
        from rich import box
        from rich.table import Table
        from rich.text import Text

        for header, *body in _parts(self.rows, max(options.max_width, _NARROWEST), gap=3):
            table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
            for name in header:
                is_number = name in _NUMBERS
                table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
            for row in body:
                # as Text, for brackets in a str are markup
                table.add_row(*(Text(cell, style="yellow" if cell.endswith("?") else "") for cell in row))
            yield table
            yield Text()
        if self.note:
            yield Text(self.note)


def summarize(specs: Any, params: Any) -> Summary:
    """Table of all parameters: path, shape, norm, axes, mass, sensitivity, target norm, share of the parameters.

    The target norm, mass over sensitivity, is the atomic norm of a step of learning rate 1. Inferred specs show their
    role, too, and why: the primitive and its place in the model's source. A question mark is a guess.

    Numbered layers whose rows agree have one row, such as `layers/*/attn/kernel x12`, with their share as a whole.
    Where only some agree it says which: `layers/1-11/attn/kernel x11`. What is the same for all parameters that have
    it is said once, below. A table wider than the terminal goes on below itself, path by path.

    Args:
      specs: what the norm of each parameter is; see `NormSpec`.
      params: the parameters, or a tree of `jax.ShapeDtypeStruct` of their shapes.

    Returns:
      Text, to be printed. It is a table to `rich.print` and in notebooks.

    Raises:
      ValueError: specs do not fit the parameters; names every such path.

    Example:
      >>> print(summarize(NormSpec(Embedding()), {"table": jnp.zeros((65, 8))}))
      path   shape  norm       axes            mass  sensitivity  target norm  share
      table  65x8   Embedding  in=(0) out=(1)  1     1            1            100.0%
    """
    leaves = resolve(specs, params).present
    is_inferred = any(leaf.spec.role is not None for leaf in leaves)
    header = _HEADER + _INFERRED if is_inferred else _HEADER
    return Summary(*_without_constants([header, *_grouped(leaves, is_inferred)]))


def _grouped(leaves: Sequence[Leaf], is_inferred: bool) -> Iterator[Row]:
    """A row for every parameter, or for several layers' that agree in all but their numbers."""
    groups: dict[tuple[str, Row], list[Leaf]] = {}
    alike: dict[str, list[str]] = {}
    for leaf in leaves:
        pattern = _NUMBER.sub("*", leaf.path)
        groups.setdefault((pattern, _cells(leaf, is_inferred)), []).append(leaf)
        alike.setdefault(pattern, []).append(leaf.path)
    total = sum(math.prod(leaf.value.shape) for leaf in leaves)
    for (pattern, cells), group in groups.items():
        share = f"{sum(math.prod(leaf.value.shape) for leaf in group) / max(total, 1):.1%}"
        end = len(_HEADER) - 2
        yield _name([leaf.path for leaf in group], alike[pattern]), *cells[:end], share, *cells[end:]


def _name(paths: Sequence[str], alike: Sequence[str]) -> str:
    """The path of parameters that differ in the numbers of their layers, and how many they are.

    A star stands for all numbers that there are in its place in `alike`, paths that differ in nothing else.
    """
    if len(paths) == 1:
        return paths[0]
    ours, there_are = _numbers(paths), _numbers(alike)
    shown = iter(["*" if len(a) > 1 and a == b else _ranges(a) for a, b in zip(ours, there_are, strict=True)])
    return f"{_NUMBER.sub(lambda _: next(shown), paths[0])} x{len(paths)}"


def _numbers(paths: Sequence[str]) -> list[set[int]]:
    """The numbers in each place of paths that differ in nothing else."""
    return [set(of) for of in zip(*(map(int, _NUMBER.findall(path)) for path in paths), strict=True)]


def _ranges(numbers: set[int]) -> str:
    """Numbers in order, such as `1-11` or `0,2,4`."""
    first, last = min(numbers), max(numbers)
    if len(numbers) > 2 and last - first == len(numbers) - 1:
        return f"{first}-{last}"
    return ",".join(map(str, sorted(numbers)))


def _cells(leaf: Leaf, is_inferred: bool) -> Row:
    """All cells but the path and the share."""
    _, value, spec = leaf
    shape = "x".join(map(str, value.shape)) or "scalar"
    name = type(spec.norm).__name__
    reason = _reason(leaf) if is_inferred else ()
    if not spec.is_normed:
        return shape, name, "", "", "", "", *reason
    axes = resolve_axes(spec, value.shape)
    named = [("taps", axes.taps), ("in", axes.fan_in), ("out", axes.fan_out)]
    parts = [f"{label}=({','.join(map(str, indices))})" for label, indices in named if indices]
    parts += [f"{name}={count}" for name in ("in_groups", "groups") if (count := getattr(axes, name)) > 1]
    if spec.blocks:
        parts.append(f"blocks={'+'.join(map(str, spec.blocks))}")
    numbers = (spec.mass, spec.sensitivity, spec.target)
    return shape, name, " ".join(parts), *(f"{number:.4g}" for number in numbers), *reason


def _reason(leaf: Leaf) -> tuple[str, str]:
    spec = leaf.spec
    place = f" ({spec.place})" if spec.place is not None else ""
    return f"{spec.role or ''}{place}{'?' if spec.confidence == 'guess' else ''}", spec.why or ""


def _without_constants(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """The table without columns in which all rows agree, and a line that says what they agree in."""
    if len(rows) < 3:
        return list(rows), ""
    kept, said = [], []
    columns = {name: cells for name, *cells in zip(*rows, strict=True)}
    for name, cells in columns.items():
        values = {cell for cell in cells if cell or name not in _PARTIAL}
        if name in _ALWAYS:
            kept.append((name, *cells))
        elif len(values) == 1:
            said += [f"{name} {value}" for value in values if value]
        elif name == "target norm" and cells == columns["mass"]:
            said.append("target norm = mass")
        elif values:
            kept.append((name, *cells))
    return list(zip(*kept, strict=True)), f"Everywhere: {', '.join(said)}." if said else ""


def _parts(rows: Sequence[Row], width: int, gap: int) -> Iterator[list[Row]]:
    """Tables of as many columns as fit the width, each with the first one."""
    first, *others = zip(*rows, strict=True)
    left = min(_widest(first), width // 2)
    part, room = [first], width - left
    for column in others:
        needed = gap + _widest(column)
        if needed > room and len(part) > 1:
            yield list(zip(*part, strict=True))
            part, room = [first], width - left
        part.append(column)
        room -= needed
    yield list(zip(*part, strict=True))


def _lines(rows: Sequence[Row], width: int) -> Iterator[str]:
    """The lines of a table: the first column has up to half of the width, and a single other one the rest."""
    widths = [_widest(column) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], width // 2)
    widths[1:] = [min(each, width - widths[0] - 2) for each in widths[1:]]
    for row in rows:
        pieces = [_broken(cell, limit) for cell, limit in zip(row, widths, strict=True)]
        for cells in itertools.zip_longest(*pieces, fillvalue=""):
            yield "  ".join(cell.ljust(limit) for cell, limit in zip(cells, widths, strict=True)).rstrip()


def _broken(cell: str, limit: int) -> list[str]:
    """A cell in pieces, cut behind slashes and spaces where that is possible."""
    return re.findall(rf".{{1,{limit}}}(?:(?<=[/ ])|$)|.{{1,{limit}}}", cell, re.DOTALL) or [""]


def _widest(column: Sequence[str]) -> int:
    return max(map(len, column))
