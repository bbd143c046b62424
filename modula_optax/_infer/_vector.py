"""Biases, gains and positional tables: told apart by the axes of the activations that they meet."""

import dataclasses
from collections.abc import Mapping, Sequence

from modula_optax._infer._along import Along, is_guessed, labels_along, runs_along
from modula_optax._infer._finding import (
    CERTAIN,
    EVIDENCE,
    GUESS,
    Evidence,
    Finding,
    UnclearError,
    conflict,
    least,
    roles_by_axis,
)
from modula_optax._infer._terms import Axis, Clue, UseKind
from modula_optax._infer._uses import Use
from modula_optax._infer._values import Label


def find_vector(
    shape: tuple[int, ...], uses: Sequence[Use], evidence: Evidence, findings: Mapping[int, Finding]
) -> Finding:
    """What is added to activations or multiplied into them, entry by entry."""
    found = [_find_one(shape, use, evidence, findings) for use in uses]
    added = [f for f in found if f.role != "gain"]
    gains = [f for f in found if f.role == "gain"]
    if added and gains and not all(f.use is not None and f.use.partners for f in added):
        if not all(f.use is not None and f.use.part.reparameterised for f in gains):
            raise conflict("added and multiplied")
        # the logarithm of a scale, and the normaliser of a density with it
        gains = [dataclasses.replace(f, confidence=GUESS) for f in gains]
    # a gain may be folded into a shift, as in a normalisation written x * scale + (bias - mean * scale)
    same_role = gains or added
    same_role = _without_single_rows(shape, same_role)
    roles = {f.role for f in same_role}
    if len(roles) > 1:
        raise conflict(", ".join(sorted(roles)))
    surest = max(same_role, key=lambda f: (CERTAIN, EVIDENCE, GUESS)[::-1].index(f.confidence))
    if any((f.fan_in, f.fan_out) != (surest.fan_in, surest.fan_out) for f in same_role if f.confidence != GUESS):
        raise conflict("along different axes")
    return surest


def _without_single_rows(shape: tuple[int, ...], found: list[Finding]) -> list[Finding]:
    """The findings but for rows of a table: its only one, or one added apart, as to a token that comes first."""
    tables = [f for f in found if f.role == "positional"]
    return [f for f in found if not any(_is_row_of(f, table, shape) for table in tables)]


def _is_row_of(found: Finding, table: Finding, shape: tuple[int, ...]) -> bool:
    if found.role != "bias" or found.use is None or found.fan_out != table.fan_out:
        return False
    roles = roles_by_axis(found.use)
    return all(shape[axis] == 1 or roles.get(axis) == {Axis.PICKED} for axis in table.fan_in)


def _find_one(shape: tuple[int, ...], use: Use, evidence: Evidence, findings: Mapping[int, Finding]) -> Finding:
    roles = roles_by_axis(use)
    runs = {axis: runs_along(axis, size, use, evidence, findings) for axis, size in enumerate(shape)}
    labels = frozenset().union(*(piece.labels for piece in use.axes))
    makers = (label for label in labels if label.param in findings and label.param != use.param)
    # beside what it is multiplied with, none of which is known, it may be a table of latents
    unknown = any(i in findings and findings[i].role == "unknown" for i in use.partners)
    guessed = any(is_guessed(findings[label.param], label, use, evidence) for label in makers)
    sureness = GUESS if unknown or guessed else CERTAIN

    def axes(*along: Along) -> tuple[int, ...]:
        return tuple(axis for axis in runs if runs[axis] in along)

    if use.kind is UseKind.MUL:
        if _is_used_as_matrix(use, evidence):
            raise UnclearError("what it is multiplied with is used as a matrix")
        if evidence.may_be_table(use):
            raise UnclearError("it is a gain of each member of an ensemble, or learned vectors that data scale")
        # where each entry has a matrix of its own, all that are not layers of a stack are entries of one gain
        batch = axes(Along.BATCH)
        own = tuple(axis for axis in batch if roles.get(axis) != {Axis.PICKED})
        return Finding("gain", (), axes(Along.FEATURES, Along.POSITIONS) or own or batch, use=use)
    rows = tuple(axis for axis in runs if Axis.LOOKED in roles.get(axis, ()))
    if rows:
        columns = (axis for axis in runs if axis not in rows and (runs[axis] is not Along.BATCH or shape[axis] == 1))
        return Finding("embedding", rows, tuple(columns), use=use)
    # what joins data is one or several of theirs, as a class token is
    apart = (axis for axis in axes(Along.FEATURES, Along.POSITIONS) if Axis.JOINED not in roles.get(axis, ()))
    if evidence.makes_matrix(use.param, apart):
        raise UnclearError("what it starts, or is added to, is used as a matrix")
    features, positions = _apart(axes(Along.FEATURES), axes(Along.POSITIONS), use, evidence, findings)
    if any(Axis.PICKED in roles.get(axis, ()) for axis in positions):
        sureness = GUESS
    if features and positions:
        return Finding(_table(positions, use), positions, features, confidence=sureness, use=use)
    if features:
        return Finding("bias", (), features, confidence=sureness, use=use)
    if positions:
        # of raw data, a matrix that follows takes the features; these come last by custom
        order = {piece.axis: piece.position for piece in use.axes}
        columns = (max(positions, key=lambda axis: order[axis]),)
        rows = tuple(axis for axis in positions if axis not in columns)
        taken = [axis for axis in positions if evidence.has(Label(use.param, axis), Clue.CONTRACTED)]
        confidence = least(sureness, EVIDENCE) if taken == list(columns) else GUESS
        return Finding(_table(rows, use) if rows else "bias", rows, columns, confidence=confidence, use=use)
    # members of an ensemble may have one output each
    single = tuple(axis for axis in runs if shape[axis] == 1)
    # of a product, what the axes are is seen elsewhere
    confidence = GUESS if {Axis.INNER} in roles.values() else CERTAIN
    return Finding("bias", (), single or tuple(runs), confidence=confidence, use=use)


def _table(rows: tuple[int, ...], use: Use) -> str:
    """The role of a table with these rows, which may have been looked up by their numbers."""
    reordered = {piece.axis for piece in use.axes if piece.role is Axis.REORDERED}
    return "embedding" if reordered >= set(rows) else "positional"


def _is_used_as_matrix(use: Use, evidence: Evidence) -> bool:
    """Whether the product has rows and columns.

    Where data scale a matrix along one axis, and the other one is contracted, as in a recurrence with a rate for each
    entry of its state, there is a vector for each feature.
    """
    pieces = (piece for kernel in evidence.kernels.get(use.param, ()) for piece in kernel.axes)
    columns = [piece.axis for piece in pieces if piece.role is Axis.OUT]
    lacking = use.lacking() if use.scaled() else set()
    return any(axis in lacking for axis in columns) if lacking else bool(columns)


def _apart(
    features: tuple[int, ...],
    positions: tuple[int, ...],
    use: Use,
    evidence: Evidence,
    findings: Mapping[int, Finding],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Features and positions, where tokens were made by a layer, too: the next matrix takes features, not tokens.

    Raises:
      UnclearError: axes that different layers made, of which what follows does not tell these apart.
    """
    named = {axis: labels_along(axis, use) for axis in features + positions}
    taken = {axis for axis, labels in named.items() if any(evidence.has(label, Clue.CONTRACTED) for label in labels)}
    if features and positions:
        # what is unnamed, but goes into a matrix, is a feature of the data; what a layer made, and does not, a token
        return (positions, features) if set(positions) == taken else (features, positions)
    # a gain makes no axis, also where it names one
    makers = [{i for i, _ in named[axis] if i in findings and findings[i].role != "gain"} for axis in features]
    if len(features) < 2 or set.intersection(*makers):
        return features, positions
    if all(any(evidence.has(label, Clue.CONTRACTED_WITH_OTHERS) for label in named[axis]) for axis in features):
        return features, positions
    if not taken or len(taken) == len(features):
        raise UnclearError(
            "its axes come from different layers: it is a bias, or positions of tokens that a layer made"
        )
    return tuple(a for a in features if a in taken), tuple(a for a in features if a not in taken)
