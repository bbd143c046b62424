"""The report: the table that tells a person which norm every parameter got."""

import html
import math
from collections.abc import Sequence
from typing import Any

from modula_optax._align import Leaf, resolve_axes
from modula_optax._paths import is_absent
from modula_optax._registry import resolve

_HEADER = ("path", "shape", "norm", "axes", "mass", "sensitivity", "target norm", "share")
_INFERRED = ("role", "why")
_NUMBERS = ("mass", "sensitivity", "target norm", "share")


class Summary(str):
    """A table that prints as text; rich's console and notebooks show it as a table.

    Args:
      rows: the cells of every row, the header first.
    """

    rows: tuple[tuple[str, ...], ...]

    def __new__(cls, rows: Sequence[tuple[str, ...]]):
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        self = super().__new__(cls, "\n".join(line.rstrip() for line in lines))
        self.rows = tuple(rows)
        return self

    def __reduce__(self):
        # a str would be made anew of its text
        return Summary, (self.rows,)

    def __rich__(self) -> Any:
        # whoever calls it has rich
        from rich import box
        from rich.table import Table
        from rich.text import Text

        header, *body = self.rows
        table = Table(box=box.SIMPLE)
        for name in header:
            is_number = name in _NUMBERS
            table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
        for row in body:
            # as Text, for brackets in a str are markup
            table.add_row(*(Text(cell, style="yellow" if cell.endswith("?") else "") for cell in row))
        return table

    def _repr_html_(self) -> str:
        def line(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        header, *body = self.rows
        return "\n".join(
            [
                "<table>",
                f"<thead>{line(header, 'th')}</thead>",
                "<tbody>",
                *(line(row, "td") for row in body),
                "</tbody>",
                "</table>",
            ]
        )


def summarize(specs: Any, params: Any) -> Summary:
    """Table of all parameters: path, shape, norm, axes, mass, sensitivity, target norm, share of the parameters.

    The target norm, mass over sensitivity, is the atomic norm of a step of learning rate 1. Inferred specs show their
    role, too, and why: the primitive and its place in the model's source. A question mark is a guess.

    Args:
      specs: what the norm of each parameter is; see `NormSpec`.
      params: the parameters, or a tree of `jax.ShapeDtypeStruct` of their shapes.

    Returns:
      Text of one line for each parameter, to be printed. It is a table to `rich.print` and in notebooks.

    Raises:
      ValueError: specs do not fit the parameters; names every such path.

    Example:
      >>> print(summarize(NormSpec(Embedding()), {"table": jnp.zeros((65, 8))}))
      path   shape  norm       axes            mass  sensitivity  target norm  share
      table  65x8   Embedding  in=(0) out=(1)  1     1            1            100.0%
    """
    leaves = [leaf for leaf in resolve(specs, params)[0] if not is_absent(leaf.value)]
    total = sum(math.prod(leaf.value.shape) for leaf in leaves)
    rows = [_HEADER, *(_row(leaf, total) for leaf in leaves)]
    if any(leaf.spec.role is not None for leaf in leaves):
        rows = [(*row, *more) for row, more in zip(rows, [_INFERRED, *map(_reason, leaves)], strict=True)]
    return Summary(rows)


def _row(leaf: Leaf, total: int) -> tuple[str, ...]:
    path, value, spec = leaf
    shape = "x".join(map(str, value.shape)) or "scalar"
    share = f"{math.prod(value.shape) / max(total, 1):.1%}"
    name = type(spec.norm).__name__
    if not spec.is_normed:
        return path, shape, name, "", "", "", "", share
    axes = resolve_axes(spec, value.shape)
    named = [("taps", axes.taps), ("in", axes.fan_in), ("out", axes.fan_out)]
    parts = [f"{label}=({','.join(map(str, indices))})" for label, indices in named if indices]
    if axes.groups > 1:
        parts.append(f"groups={axes.groups}")
    if spec.blocks:
        parts.append(f"blocks={'+'.join(map(str, spec.blocks))}")
    numbers = (spec.mass, spec.sensitivity, spec.target)
    return path, shape, name, " ".join(parts), *(f"{number:.4g}" for number in numbers), share


def _reason(leaf: Leaf) -> tuple[str, str]:
    spec = leaf.spec
    place = f" ({spec.place})" if spec.place is not None else ""
    return f"{spec.role or ''}{place}{'?' if spec.confidence == 'guess' else ''}", spec.why or ""
