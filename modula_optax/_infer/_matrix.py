"""Which axes of a matrix or a kernel are its inputs, its outputs and its batch."""

import dataclasses
from collections.abc import Sequence

from modula_optax._infer._finding import (
    CERTAIN,
    EVIDENCE,
    GUESS,
    PRODUCT,
    Evidence,
    Finding,
    UnclearError,
    agreed,
    least,
    roles_by_axis,
)
from modula_optax._infer._trace import AxisUse, Use
from modula_optax._jaxpr import is_backward


def find_matrix(shape: tuple[int, ...], uses: Sequence[Use], dead: Sequence[Use], evidence: Evidence) -> Finding:
    """A linear layer or a convolution, from all that it is used for."""
    findings = [_find_one(shape, use, evidence) for use in uses]
    forward = [f for f in findings if not _same_axes(f, _reversed(findings[0]))]
    if len(forward) < len(findings):
        others = [use for use, f in zip(uses, findings, strict=True) if not _same_axes(f, findings[0])]
        if all(is_backward(use.op) for use in others):
            return agreed(forward)
        # an autoencoder with tied weights: the first use says which way is forward
        notes = ("used in both directions: the first one counts",)
        return dataclasses.replace(agreed(forward), confidence=GUESS, notes=notes)
    found = agreed(findings)
    # forces from the gradient of an energy: only the way back is alive, the way forward was computed before; a gradient
    # that is thrown away says nothing
    for use in dead:
        if use.kind == "linear" and uses[0].kind == "linear" and is_backward(uses[0].op) and not is_backward(use.op):
            original = _find_one(shape, use, evidence)
            if _same_axes(found, _reversed(original)):
                return dataclasses.replace(original, confidence=EVIDENCE, use=uses[0])
    return found


def _same_axes(a: Finding, b: Finding) -> bool:
    return (a.fan_in, a.fan_out, a.taps) == (b.fan_in, b.fan_out, b.taps)


def _reversed(finding: Finding) -> Finding:
    return dataclasses.replace(finding, fan_in=finding.fan_out, fan_out=finding.fan_in)


def _find_one(shape: tuple[int, ...], use: Use, evidence: Evidence) -> Finding:
    roles = roles_by_axis(use)
    _complete_product(use, roles, evidence)
    role_of = {axis: _one_role(axis, shape, roles.get(axis, set())) for axis in range(len(shape))}
    groups, confidence = use.groups, CERTAIN
    for axis, role in role_of.items():
        if role == "blocks":
            role_of[axis] = "out"
            groups *= _blocks(axis, shape, use)
    confidence = least(confidence, _settle_contracted(role_of, use, evidence))
    confidence = least(confidence, _settle_kept(role_of, use, evidence))
    if evidence.makes_matrix(use.param, (axis for axis, role in role_of.items() if role == "out")):
        raise UnclearError("its output is used as a matrix: a mixture of weights, or a hypernetwork")
    if use.part.how == "product":
        confidence = least(confidence, EVIDENCE if use.summed else GUESS)

    def axes(role: str) -> tuple[int, ...]:
        return tuple(axis for axis in role_of if role_of[axis] == role)

    if not axes("in") + axes("out"):
        raise UnclearError("it has taps only: a filter of single channels, without inputs and outputs")
    if any(piece.role == "in" and piece.position < 0 for piece in use.axes):
        # its inputs were constants, as positions are
        confidence = least(confidence, EVIDENCE)
    name = "linear"
    if use.kind == "conv":
        # channels with several outputs each are groups of these, or a batch of kernels without an axis of inputs
        apart = use.groups > 1 or (not axes("in") and "batch" in role_of.values())
        depthwise = apart and all(shape[axis] == 1 for axis in axes("in"))
        name = "depthwise" if depthwise else "conv"
    return Finding(name, axes("in"), axes("out"), axes("tap"), groups, confidence, use=use)


def _one_role(axis: int, shape: tuple[int, ...], roles: set[str]) -> str:
    """The one role of an axis of which several things may have been said, about different pieces of it."""
    proper = roles & {"in", "out", "tap", "batch"}
    if len(proper) == 1 and proper != {"batch"} and roles & {"picked", "looked"}:
        # a stack of matrices kept along one axis: blocks if they are of outputs
        return "blocks" if proper == {"out"} and "picked" in roles else proper.pop()
    if len(proper) == 1:
        return proper.pop()
    if proper == {"out", "batch"}:
        return "blocks"
    if proper == {"in", "out"}:
        flat = "; it is a flattened vector of parameters: split it" if len(shape) == 1 else ""
        raise UnclearError(f"axis {axis} is both contracted and kept{flat}")
    if len(proper) > 1:
        raise UnclearError(f"axis {axis} is used in several ways: {', '.join(sorted(proper))}")
    if roles <= {"picked", "looked"} and (roles or shape[axis] == 1):
        return "batch"
    raise UnclearError(f"axis {axis} was lost sight of on the way ({', '.join(sorted(roles)) or 'no use'})")


def _blocks(axis: int, shape: tuple[int, ...], use: Use) -> int:
    """How many blocks an axis of outputs is made of, if each is a matrix of its own."""
    pieces = [piece for piece in use.axes if piece.axis == axis and piece.position >= 0]
    kept = [piece for piece in pieces if piece.role == "out"]
    size = 1
    for piece in kept:
        size *= piece.size
    if pieces[-1].role != "out" or shape[axis] % size:
        raise UnclearError(f"axis {axis} holds the matrices of several layers, interleaved")
    return shape[axis] // size


def _settle_kept(role_of: dict[int, str], use: Use, evidence: Evidence) -> str:
    """Tells heads from experts: which of several kept axes are outputs, and which are a batch of layers."""
    kept = list(dict.fromkeys(piece.axis for piece in use.axes if role_of.get(piece.axis) == "out"))
    if len(kept) < 2:
        return CERTAIN
    pieces = {piece.axis: piece for piece in use.axes if piece.position >= 0}
    contracted = min((p.position for p in pieces.values() if role_of[p.axis] == "in"), default=-1)
    confidence = _settle_forms(role_of, kept, use.param, evidence)
    kept = [axis for axis in kept if role_of[axis] == "out"]
    for axis in kept[:-1]:
        role, sureness = _kept_role(pieces.get(axis), contracted, (use.param, axis), evidence)
        role_of[axis] = role
        confidence = least(confidence, sureness)
    return confidence


def _settle_forms(role_of: dict[int, str], kept: Sequence[int], param: int, evidence: Evidence) -> str:
    """A layer of the products of two vectors, which meets one after the other, looks like heads of queries."""
    rows, columns = ([i for i in kept if evidence.has((param, i), f"{name} of a form")] for name in ("row", "column"))
    # each head has a softmax of its own
    columns = [axis for axis in columns if not evidence.has((param, axis), "attending")]
    if not any(row != column for row in rows for column in columns):
        return CERTAIN
    role_of.update((row, "in") for row in rows if evidence.has((param, row), "summed with data"))
    return GUESS


def _settle_contracted(role_of: dict[int, str], use: Use, evidence: Evidence) -> str:
    """Experts whose gated outputs are summed look like heads, but for the gates."""
    pieces = {piece.axis: piece for piece in use.axes if role_of.get(piece.axis) == "in" and piece.position >= 0}
    if len(pieces) < 2:
        return CERTAIN
    first = min(pieces.values(), key=lambda piece: piece.position)
    if not any(evidence.has(label, "gated") for label in first.labels):
        return CERTAIN
    role_of[first.axis] = "batch"
    return GUESS


def _kept_role(piece: AxisUse | None, contracted: int, label: tuple[int, int], evidence: Evidence) -> tuple[str, str]:
    leading = piece is not None and piece.position < contracted
    if leading and evidence.has(label, "gated"):
        return "batch", GUESS
    if evidence.has(label, "contracted"):
        return "out", EVIDENCE if leading else CERTAIN
    if evidence.has(label, "batched"):
        return "batch", EVIDENCE
    if not leading:
        return "out", CERTAIN
    return ("out", EVIDENCE) if evidence.has(label, "merged") else ("batch", GUESS)


def _complete_product(use: Use, roles: dict[int, set[str]], evidence: Evidence) -> None:
    """A product of parameters is a low-rank matrix if it stands beside a full one, or its output proves one."""
    if use.part.how != "product":
        return
    inner = [axis for axis in roles if "inner" in roles[axis]]
    outer = {role for axis in roles for role in roles[axis] & {"in", "out"}}
    proven = any(evidence.has(label, "contracted", "biased") for label in use.kept)
    if len(outer) != 1 or not (use.summed or proven):
        raise UnclearError(PRODUCT)
    for axis in inner:
        roles[axis] = {"out" if outer == {"in"} else "in"}
