"""Which axes of a matrix or a kernel are its inputs, its outputs and its batch."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from modula_optax._infer._finding import (
    CERTAIN,
    EVIDENCE,
    GUESS,
    Evidence,
    Finding,
    UnclearError,
    agreed,
    least,
    product,
    roles_by_axis,
)
from modula_optax._infer._terms import Axis, Clue, Made, UseKind
from modula_optax._infer._uses import AxisUse, Use
from modula_optax._infer._values import Label


def find_matrix(shape: tuple[int, ...], uses: Sequence[Use], evidence: Evidence) -> Finding:
    """A linear layer or a convolution, from all that it is used for."""
    findings = [_find_one(shape, use, evidence) for use in uses]
    forward = [f for f in findings if not _same_axes(f, _reversed(findings[0]))]
    if len(forward) == len(findings):
        return agreed(findings)
    # an autoencoder with tied weights: the first use says which way is forward
    notes = ("used in both directions: the first one counts",)
    return dataclasses.replace(agreed(forward), confidence=GUESS, notes=notes)


def _same_axes(a: Finding, b: Finding) -> bool:
    return (a.fan_in, a.fan_out, a.taps) == (b.fan_in, b.fan_out, b.taps)


def _reversed(finding: Finding) -> Finding:
    return dataclasses.replace(finding, fan_in=finding.fan_out, fan_out=finding.fan_in)


class _Layout(NamedTuple):
    """What each axis of a matrix is, how many groups it has, and how sure that is."""

    roles: Mapping[int, Axis]
    groups: int = 1
    confidence: str = CERTAIN

    def axes(self, role: Axis) -> tuple[int, ...]:
        return tuple(axis for axis, its in self.roles.items() if its is role)

    def with_roles(self, roles: Mapping[int, Axis], confidence: str = CERTAIN) -> "_Layout":
        """The layout with other roles of some axes, and no surer than this."""
        return self._replace(roles={**self.roles, **roles}, confidence=least(self.confidence, confidence))


def _find_one(shape: tuple[int, ...], use: Use, evidence: Evidence) -> Finding:
    seen = roles_by_axis(use) if use.part.made is not Made.PRODUCT else _completed(use, evidence)
    roles = {axis: _one_role(axis, shape, seen.get(axis, set())) for axis in range(len(shape))}
    layout = _Layout(roles, _groups(shape, use, roles))
    layout = _with_channels(_with_blocks(layout, shape, use), use, evidence)
    layout = _with_heads(_with_gates(_with_weighed_heads(layout, use, evidence), use, evidence), use, evidence)
    fan_in, fan_out, taps = map(layout.axes, (Axis.IN, Axis.OUT, Axis.TAP))
    if evidence.makes_matrix(use.param, fan_out):
        raise UnclearError("its output is used as a matrix: a mixture of weights, or a hypernetwork")
    if not fan_in + fan_out:
        raise UnclearError("it has taps only: a filter of single channels, without inputs and outputs")
    confidence = layout.confidence
    if use.part.made is Made.PRODUCT:
        confidence = least(confidence, EVIDENCE if use.summed else GUESS)
    if any(piece.role is Axis.IN and piece.position < 0 for piece in use.axes):
        # its inputs were constants, as positions are
        confidence = least(confidence, EVIDENCE)
    if use.kind is UseKind.LINEAR and any(piece.labels & evidence.unsure for piece in use.axes):
        confidence = GUESS
    # channels with several outputs each are groups of these, or a batch of kernels without an axis of inputs
    apart = layout.groups > 1 or (not fan_in and layout.axes(Axis.BATCH))
    depthwise = use.kind is UseKind.CONV and apart and all(shape[axis] == 1 for axis in fan_in)
    name = "depthwise" if depthwise else use.kind.value
    return Finding(name, fan_in, fan_out, taps, layout.groups, confidence, use=use)


def _groups(shape: tuple[int, ...], use: Use, roles: Mapping[int, Axis]) -> int:
    """How many groups a whole parameter has, where others have been joined to it, or it was cut."""
    outputs = [piece for piece in use.axes if roles[piece.axis] is Axis.OUT and piece.position >= 0]
    seen = math.prod(piece.size for piece in outputs)
    own = math.prod(shape[axis] for axis in {piece.axis for piece in outputs})
    if use.groups > 1 and (use.groups * own) % seen:
        raise UnclearError("it holds a part of a group")
    return use.groups * own // seen if use.groups > 1 else 1


def _one_role(axis: int, shape: tuple[int, ...], roles: set[Axis]) -> Axis:
    """The one role of an axis of which several things may have been said, about different pieces of it."""
    proper = roles & {Axis.IN, Axis.OUT, Axis.TAP, Axis.BATCH}
    if len(proper) == 1 and proper != {Axis.BATCH} and roles & {Axis.PICKED, Axis.LOOKED}:
        # a stack of matrices kept along one axis: blocks if they are of outputs
        return Axis.BLOCKS if proper == {Axis.OUT} and Axis.PICKED in roles else proper.pop()
    if len(proper) == 1:
        return proper.pop()
    if proper == {Axis.OUT, Axis.BATCH}:
        return Axis.BLOCKS
    if proper == {Axis.IN, Axis.OUT}:
        flat = "; it is a flattened vector of parameters: split it" if len(shape) == 1 else ""
        raise UnclearError(f"axis {axis} is both contracted and kept{flat}")
    if len(proper) > 1:
        raise UnclearError(f"axis {axis} is used in several ways: {_listed(proper)}")
    if roles <= {Axis.PICKED, Axis.LOOKED} and (roles or shape[axis] == 1):
        return Axis.BATCH
    raise UnclearError(f"axis {axis} was lost sight of on the way ({_listed(roles) or 'no use'})")


def _listed(roles: set[Axis]) -> str:
    return ", ".join(sorted(role.name.lower() for role in roles))


def _with_blocks(layout: _Layout, shape: tuple[int, ...], use: Use) -> _Layout:
    """An axis of blocks is one of outputs, in as many groups as there are blocks, each a matrix of its own."""
    groups = layout.groups
    for axis in layout.axes(Axis.BLOCKS):
        pieces = [piece for piece in use.axes if piece.axis == axis and piece.position >= 0]
        size = math.prod(piece.size for piece in pieces if piece.role is Axis.OUT)
        if pieces[-1].role is not Axis.OUT or shape[axis] % size:
            raise UnclearError(f"axis {axis} holds the matrices of several layers, interleaved")
        groups *= shape[axis] // size
    return layout.with_roles(dict.fromkeys(layout.axes(Axis.BLOCKS), Axis.OUT))._replace(groups=groups)


def _with_channels(layout: _Layout, use: Use, evidence: Evidence) -> _Layout:
    """Groups of a convolution that were taken for a batch of kernels, while its outputs are those of members."""
    members = all(evidence.is_member(Label(use.param, axis)) for axis in layout.axes(Axis.OUT))
    for piece in use.axes if use.kind is UseKind.CONV and members else ():
        label = Label(use.param, piece.axis)
        is_merged = evidence.has(label, Clue.CONTRACTED) and not evidence.has(label, Clue.BATCHED)
        if piece.position >= 0 and layout.roles[piece.axis] is Axis.BATCH and is_merged:
            layout = layout.with_roles({piece.axis: Axis.OUT})._replace(groups=layout.groups * piece.size)
    return layout


def _with_weighed_heads(layout: _Layout, use: Use, evidence: Evidence) -> _Layout:
    """The output layer of attention, which meets the values of each head before these are weighed, and summed."""
    heads = [axis for axis in layout.axes(Axis.BATCH) if Label(use.param, axis) in evidence.heads]
    return layout.with_roles(dict.fromkeys(heads, Axis.IN), EVIDENCE) if heads else layout


def _with_gates(layout: _Layout, use: Use, evidence: Evidence) -> _Layout:
    """Experts whose gated outputs are summed look like heads, but for the gates."""
    pieces = {piece.axis: piece for piece in use.axes if piece.axis in layout.axes(Axis.IN) and piece.position >= 0}
    first = min(pieces.values(), key=lambda piece: piece.position, default=None)
    if first is None or len(pieces) < 2 or not any(evidence.has(label, Clue.GATED) for label in first.labels):
        return layout
    return layout.with_roles({first.axis: Axis.BATCH}, GUESS)


def _with_heads(layout: _Layout, use: Use, evidence: Evidence) -> _Layout:
    """Tells heads from experts: which of several kept axes are outputs, and which are a batch of layers."""
    if len(_kept(layout, use)) < 2:
        return layout
    pieces = {piece.axis: piece for piece in use.axes if piece.position >= 0}
    contracted = min((p.position for p in pieces.values() if layout.roles[p.axis] is Axis.IN), default=-1)
    layout = _with_forms(layout, use, evidence)
    *leading, last = _kept(layout, use)
    is_kernel = use.kind is UseKind.CONV
    if evidence.is_member(Label(use.param, last)) and evidence.has(Label(use.param, leading[-1]), Clue.CONTRACTED):
        # members that come last
        return layout.with_roles({last: Axis.BATCH}, EVIDENCE)
    for axis in leading:
        role, confidence = _kept_role(pieces.get(axis), contracted, Label(use.param, axis), evidence, is_kernel)
        layout = layout.with_roles({axis: role}, confidence)
    return _without_members(layout, use, evidence)


def _without_members(layout: _Layout, use: Use, evidence: Evidence) -> _Layout:
    """Of channels that are each convolved alone, those of members of an ensemble, which other layers tell."""
    for piece in use.axes:
        if layout.roles[piece.axis] is Axis.OUT and any(map(evidence.is_member, piece.labels)):
            layout = layout.with_roles({piece.axis: Axis.BATCH})
    outputs = math.prod(evidence.entries(Label(use.param, axis)) for axis in layout.axes(Axis.OUT))
    return layout._replace(groups=math.gcd(layout.groups, outputs))


def _with_forms(layout: _Layout, use: Use, evidence: Evidence) -> _Layout:
    """A layer of the products of two vectors, which meets one after the other, looks like heads of queries."""
    kept = [Label(use.param, axis) for axis in _kept(layout, use)]
    rows = [label for label in kept if evidence.has(label, Clue.FORM_ROW)]
    # each head has a softmax of its own
    columns = [x for x in kept if evidence.has(x, Clue.FORM_COLUMN) and not evidence.has(x, Clue.ATTENDING)]
    if not any(row != column for row in rows for column in columns):
        return layout
    return layout.with_roles({row.axis: Axis.IN for row in rows if evidence.has(row, Clue.FORM_SUMMED)}, GUESS)


def _kept(layout: _Layout, use: Use) -> list[int]:
    """The axes of outputs, as the operation orders them."""
    return list(dict.fromkeys(piece.axis for piece in use.axes if layout.roles[piece.axis] is Axis.OUT))


def _kept_role(
    piece: AxisUse | None, contracted: int, label: Label, evidence: Evidence, is_kernel: bool
) -> tuple[Axis, str]:
    leading = piece is not None and piece.position < contracted
    if leading and evidence.has(label, Clue.GATED):
        return Axis.BATCH, GUESS
    if evidence.has(label, Clue.CONTRACTED) or label in evidence.heads:
        return Axis.OUT, EVIDENCE if leading else CERTAIN
    if evidence.has(label, Clue.BATCHED):
        # heads with layers of their own look like members, but these come before the inputs, by custom
        return (Axis.BATCH, EVIDENCE) if leading or is_kernel or contracted < 0 else (Axis.OUT, GUESS)
    if not leading:
        return Axis.OUT, GUESS if is_kernel else CERTAIN
    return (Axis.OUT, EVIDENCE) if evidence.has(label, Clue.MERGED, Clue.UNPACKED) else (Axis.BATCH, GUESS)


def _completed(use: Use, evidence: Evidence) -> dict[int, set[Axis]]:
    """A product of parameters is a low-rank matrix if it stands beside a full one, or its output proves one."""
    seen = roles_by_axis(use)
    outer = {role for roles in seen.values() for role in roles & {Axis.IN, Axis.OUT}}
    proven = any(evidence.has(label, Clue.CONTRACTED, Clue.BIASED) for label in use.kept)
    if len(outer) != 1 or not (use.summed or proven):
        raise product()
    other = Axis.OUT if outer == {Axis.IN} else Axis.IN
    return {axis: {other} if Axis.INNER in roles else roles for axis, roles in seen.items()}
