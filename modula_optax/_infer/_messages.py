"""What inference tells: the error of unknown roles, the warning of what it is not sure of, the reason for a role."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from modula_optax._infer._finding import GUESS, Finding
from modula_optax._infer._model import Model
from modula_optax._infer._program import source
from modula_optax._paths import describe, listing, pattern_of


def why(finding: Finding) -> str | None:
    """The primitive that showed the role, and its place in the user's code."""
    if finding.use is None:
        return None
    op = finding.use.op
    where = source(*op.calls)
    notes = "".join(f"; {note}" for note in finding.notes)
    return f"{op.name} at {where}{notes}" if where else f"{op.name}{notes}"


def refuse_unknown(model: Model, unknown: Sequence[Finding | None], unfamiliar: Mapping[str, str]) -> None:
    """Raises one error for all parameters whose role is unknown; `None` stands for those that are not.

    What primitives are `unfamiliar`, by name, is the reason where one of them is what a parameter meets.
    """
    lines, overrides = [], []
    for path, leaf, finding in zip(model.paths, model.leaves, unknown, strict=True):
        if finding is not None:
            reason = "; ".join(filter(None, [why(finding), _unfamiliar(finding, unfamiliar)]))
            lines.append(f"{describe(path, leaf)}: {finding.problem}" + (f" ({reason})" if reason else ""))
            overrides.append(f"    mo.Rule({pattern_of(path)}, {_suggestion(leaf)}),")
    if lines:
        advice = "\n".join(
            [
                "Say what they are (or pass unknown=mo.Unnormed() to leave them to another optimizer):",
                "  overrides=mo.NormRegistry(",
                *overrides,
                "  )",
            ]
        )
        raise ValueError(
            listing(
                "parameter has a role that cannot be told", "parameters have a role that cannot be told", lines, advice
            )
        )


def _unfamiliar(finding: Finding, unfamiliar: Mapping[str, str]) -> str | None:
    return unfamiliar.get(finding.use.op.name) if finding.use else None


def _suggestion(leaf: Any) -> str:
    ndim = len(leaf.shape)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return "mo.Unnormed()"
    if ndim < 2:
        return 'mo.RMS(), role="bias"'
    return f'mo.Spectral(), axes=mo.Axes(fan_in={ndim - 2}, fan_out={ndim - 1}), role="linear"'


def refuse_all_unused(findings: Sequence[Finding]) -> None:
    """Raises an error if no parameter reaches the output."""
    if all(finding.role == "unused" for finding in findings):
        raise ValueError(
            "No parameter reaches the output: apply_fn closes over its parameters instead of taking them. It is "
            "called as apply_fn(params, *example_inputs), and must use those: "
            "lambda p, *a: model.apply({'params': p}, *a), for example."
        )


def warn(model: Model, findings: Sequence[Finding | None], unfamiliar: Mapping[str, str], strict: bool) -> None:
    """One warning (an error if `strict`) for all that a person should look at; `None` stands for what is settled."""
    lines = [
        f"{describe(path, leaf)}: {remark}"
        for path, leaf, finding in zip(model.paths, model.leaves, findings, strict=True)
        if finding is not None and (remark := _remark(finding))
    ]
    lines += [
        f"example input {i} has shape {tuple(x.shape)}: an axis of size 1 hides what it is for; use 2 or more"
        for i, x in enumerate(model.inputs)
        # the last axis may be one feature
        if 1 in x.shape[:-1]
    ]
    lines += [f"{problem}: what it does to parameters was not seen" for problem in unfamiliar.values()]
    if not lines:
        return
    message = listing("thing to check in the inferred specs", "things to check in the inferred specs", lines)
    if strict:
        raise ValueError(message)
    warnings.warn(message, UserWarning, stacklevel=3)


def _remark(finding: Finding) -> str:
    if finding.role == "unused":
        return "unused: reaches no output" + "".join(f"; {note}" for note in finding.notes)
    if finding.confidence == GUESS:
        axes = f"fan_in={finding.fan_in}, fan_out={finding.fan_out}"
        return f"guessed to be {finding.role} with {axes} ({why(finding)})"
    return f"{finding.role}, {'; '.join(finding.notes)} ({why(finding)})" if finding.notes else ""
