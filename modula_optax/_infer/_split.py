"""Heads and blocks as matrices of their own: what `infer_specs(split=...)` makes of a finding."""

import dataclasses
import math
from collections.abc import Sequence

from modula_optax._infer._finding import LAYERS, Finding
from modula_optax._infer._trace import Trace
from modula_optax._infer._values import Label

SPLITS = ("heads", "blocks")


def as_splits(split: str | Sequence[str]) -> tuple[str, ...]:
    """The argument as a tuple of names.

    Raises:
      ValueError: it names something else.
    """
    names = (split,) if isinstance(split, str) else split
    if not isinstance(names, Sequence) or any(name not in SPLITS for name in names):
        raise ValueError(
            f"split must be 'heads', 'blocks' or a tuple of these, such as split=('heads',); got {split!r}."
        )
    return tuple(names)


def split_up(param: int, finding: Finding, shape: tuple[int, ...], trace: Trace, split: Sequence[str]) -> Finding:
    """The finding of a matrix of which heads, or blocks, are matrices of their own."""
    if finding.role not in LAYERS:
        return finding
    if "heads" in split:
        finding = _of_outputs(param, _of_inputs(param, finding, shape, trace), shape, trace)
    return _of_blocks(param, finding, shape, trace) if "blocks" in split else finding


def _of_outputs(param: int, finding: Finding, shape: tuple[int, ...], trace: Trace) -> Finding:
    """Queries, keys and values: heads are axes of their own, or the slower part of one."""
    for axis in finding.fan_out:
        label, entries = Label(param, axis), shape[axis]
        width = trace.heads.width(label, entries)
        if width == entries or entries % width:
            continue
        if width == 1:
            # one entry is a head of several outputs, where other axes have these; queries, keys and values of a head
            # are matrices of their own
            apart = {other for other in finding.fan_out if trace.pieces.is_unpacked(Label(param, other), shape[other])}
            rest = tuple(other for other in finding.fan_out if other != axis and other not in apart)
            finding = dataclasses.replace(finding, fan_out=rest) if rest else finding
        elif axis == finding.fan_out[0]:
            width = trace.heads.cut(label, width, trace.pieces)
            sizes = trace.heads.of_pieces(label, trace.pieces.tiles(label, entries), width)
            # channels that are convolved apart are so within heads
            groups = finding.groups if sizes else math.lcm(finding.groups, entries // width)
            finding = dataclasses.replace(finding, groups=groups, sizes=sizes)
    return finding


def _of_inputs(param: int, finding: Finding, shape: tuple[int, ...], trace: Trace) -> Finding:
    """The output of attention: every head has rows of its own."""
    for axis in finding.fan_in:
        heads = trace.heads.of_inputs(Label(param, axis))
        rest = tuple(other for other in finding.fan_in if other != axis)
        if heads == shape[axis] and rest:
            finding = dataclasses.replace(finding, fan_in=rest)
        elif heads > 1 and heads < shape[axis] and axis == finding.fan_in[0]:
            finding = dataclasses.replace(finding, in_groups=heads)
    return finding


def _of_blocks(param: int, finding: Finding, shape: tuple[int, ...], trace: Trace) -> Finding:
    """Blocks of one size are groups, of several sizes a norm of each."""
    if finding.sizes:
        return finding
    outputs = math.prod(shape[axis] for axis in finding.fan_out)
    blocks = trace.pieces.blocks(param, finding.fan_out, shape)
    if finding.groups > 1:
        # heads are cut out of all blocks alike; what one is cut into is left
        blocks = trace.pieces.tiles(Label(param, finding.fan_out[0]), outputs // finding.groups)
    if len(set(blocks)) == 1:
        return dataclasses.replace(finding, groups=finding.groups * len(blocks), sizes=())
    return dataclasses.replace(finding, sizes=blocks)
