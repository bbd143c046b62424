"""What inference tells: the error of unknown roles, the warning of what it is not sure of, the reason for a role."""

import ast
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from modula_optax._infer._finding import GUESS, Finding
from modula_optax._infer._terms import Axis, Made, Unclear, UseKind
from modula_optax._jaxpr import Kind, Model, named, source
from modula_optax._paths import describe, listing, pattern_of
from modula_optax._specs import NormSpec

# the spec of a parameter of which something was found, and its shape
Usual = Callable[[Finding, tuple[int, ...]], NormSpec | None]


def why(finding: Finding) -> str | None:
    """The primitive that showed the role, and its place in the user's code."""
    if finding.use is None:
        return None
    op = finding.use.op
    where = source(*op.calls)
    notes = "".join(f"; {note}" for note in finding.notes)
    return f"{op.name} at {where}{notes}" if where else f"{op.name}{notes}"


def refuse_unknown(
    model: Model,
    findings: Sequence[Finding],
    unknown: Sequence[Finding | None],
    usual: Usual,
    unfamiliar: Mapping[str, str],
) -> None:
    """Raises one error for all parameters whose role is unknown.

    Args:
      model: the traced model.
      findings: what its parameters do.
      unknown: the same, with `None` for those that have a spec.
      usual: see `Usual`.
      unfamiliar: primitives that are the reason where one of them is what a parameter meets, by name.
    """
    remarks, overrides = [], []
    layouts = _layouts(model, findings)
    for path, leaf, finding in zip(model.paths, model.leaves, unknown, strict=True):
        if finding is not None:
            reason = "; ".join(filter(None, [why(finding), _unfamiliar(finding, unfamiliar)]))
            remarks.append((path, leaf, finding.reason + (f" ({reason})" if reason else "")))
            overrides.append((path, leaf, _suggestion(path, leaf, finding, layouts, usual)))
    if remarks:
        advice = _to_paste(
            "Say what they are (or pass unknown=mo.Unnormed() to leave them to another optimizer):",
            overrides,
            model.paths,
        )
        one, many = "parameter has a role that cannot be told", "parameters have a role that cannot be told"
        raise ValueError(listing(one, many, _lines(remarks), advice, count=len(remarks)))


def _to_paste(advice: str, overrides: "Sequence[Remark]", everyone: Sequence[str]) -> str:
    """Rules as an argument, under what to do with them."""
    together = _layers_together(overrides)
    rules = [f"    {rule}".replace("PATH", _pattern(paths, everyone)) for (_, _, rule), paths in together]
    return "\n".join([advice, "  overrides=mo.NormRegistry(", *rules, "  )"])


Remark = tuple[str, Any, str]  # path, leaf, what to say of it


def _layers_together(remarks: Sequence[Remark]) -> list[tuple[Remark, list[str]]]:
    """The first of all remarks that differ in nothing but the numbers of layers, and the paths of each such group."""
    groups: dict[tuple[str, str], tuple[Remark, list[str]]] = {}
    for path, leaf, remark in remarks:
        key = _NUMBER.sub("*", path), describe("", leaf) + remark
        groups.setdefault(key, ((path, leaf, remark), []))[1].append(path)
    return list(groups.values())


_NUMBER = re.compile(r"\d+")


def _lines(remarks: Sequence[Remark]) -> list[str]:
    return [
        f"{describe(path, leaf) if len(paths) == 1 else _together(path, leaf, paths)}: {remark}"
        for (path, leaf, remark), paths in _layers_together(remarks)
    ]


def _together(path: str, leaf: Any, paths: Sequence[str]) -> str:
    return f"{describe(_varied(paths, '*', path), leaf)} x{len(paths)}"


def _varied(paths: Sequence[str], number: str, path: str) -> str:
    """A path in which the numbers that differ within the group stand for any."""
    numbers = list(zip(*(_NUMBER.findall(other) for other in paths), strict=True))
    supply = iter([number if len(set(found)) > 1 else found[0] for found in numbers])
    return _NUMBER.sub(lambda _: next(supply), path)


def _pattern(paths: Sequence[str], everyone: Sequence[str]) -> str:
    """The regular expression of a rule for these paths and no others, as it is written in a program."""
    patterns = list(map(pattern_of, paths))
    pattern = _varied(patterns, r"\d+", patterns[0])
    matched = {path for path in everyone if re.fullmatch(ast.literal_eval(pattern), path)}
    return pattern if matched <= {*paths} else f'r"{"|".join(map(ast.literal_eval, patterns))}"'


def _unfamiliar(finding: Finding, unfamiliar: Mapping[str, str]) -> str | None:
    return unfamiliar.get(finding.use.op.name) if finding.use else None


# roles and axes of the leaves that are known, by their name and number of axes; `None` where these differ
Layouts = Mapping[tuple[str, int], Finding | None]


def _layouts(model: Model, findings: Sequence[Finding]) -> Layouts:
    found: dict[tuple[str, int], Finding | None] = {}
    for path, leaf, finding in zip(model.paths, model.leaves, findings, strict=True):
        if finding.role in ("linear", "conv"):
            key = _name(path), len(leaf.shape)
            first = found.setdefault(key, finding)
            alike = first is not None and (first.fan_in, first.fan_out, first.taps) == (
                *(finding.fan_in, finding.fan_out),
                finding.taps,
            )
            found[key] = first if alike else None
    return found


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _suggestion(path: str, leaf: Any, finding: Finding, layouts: Layouts, usual: Usual) -> str:
    """A rule to paste, as far as it follows from what was seen; else a comment that says what to fill in."""
    ndim, rule = len(leaf.shape), "mo.Rule(PATH, "
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return f"{rule}mo.Unnormed()),"
    if ndim < 2:
        role = _vector_role(finding)
        known = Finding(role, fan_out=tuple(range(ndim))) if role else None
    else:
        known = _seen(finding, ndim) or layouts.get((_name(path), ndim))
    spec = usual(known, leaf.shape) if known else None
    if spec is not None:
        return _as_rule(spec)
    if ndim < 2:
        return f'# {rule}mo.RMS(), role="bias"),  # role: say which, "bias" or "gain"'
    return f'# {rule}mo.Spectral(), axes=mo.Axes(fan_in=?, fan_out=?), role="linear"),  # axes: say which'


def _vector_role(finding: Finding) -> str | None:
    """What a vector is by the one operation that was seen: thresholds and angles are shifted by it as sums are."""
    if finding.use is None:
        return None
    if finding.use.kind is UseKind.MUL:
        return "gain"
    shifts = named(Kind.SUM, Kind.EXTREME) | {"atan2", "rem"}
    return "bias" if finding.use.op.name in shifts or finding.use.part.made is Made.ADDEND else None


def _seen(finding: Finding, ndim: int) -> Finding | None:
    """The axes of a matrix that data were multiplied with, if the operation says it of every one."""
    use = finding.use
    if finding.unclear is Unclear.CONFLICT:
        return None
    if (
        use is None
        or use.kind not in (UseKind.LINEAR, UseKind.CONV)
        or use.part.made is not Made.WHOLE
        or use.groups > 1
    ):
        return None
    roles = {piece.axis: piece.role for piece in use.axes}
    fan_in, fan_out, taps = (
        tuple(axis for axis in range(ndim) if roles.get(axis) is role) for role in (Axis.IN, Axis.OUT, Axis.TAP)
    )
    is_whole = len(use.axes) == ndim == len(fan_in + fan_out + taps)
    # several kept axes are heads or experts, of which the operation alone does not tell
    if not is_whole or len(fan_out) != 1 or not fan_in:
        return None
    return Finding(use.kind.value, fan_in, fan_out, taps)


def refuse_all_unused(findings: Sequence[Finding]) -> None:
    """Raises an error if no parameter reaches the output."""
    if all(finding.role == "unused" for finding in findings):
        raise ValueError(
            "No parameter reaches the output: apply_fn closes over its parameters instead of taking them. It is "
            "called as apply_fn(params, *example_inputs), and must use those: "
            "lambda p, *a: model.apply({'params': p}, *a), for example."
        )


def refuse_tied(model: Model, findings: Sequence[Finding]) -> None:
    """Raises an error for tables that are an output layer, too: no sensitivity is traced through both."""
    for path, finding in zip(model.paths, findings, strict=True):
        if finding.role == "tied":
            raise ValueError(
                f"sensitivity='traced' is not sound for tied weights: {path} is both an embedding and an output layer. "
                "Use sensitivity='unit', or set the sensitivity of its spec by hand."
            )


def warn(
    model: Model,
    findings: Sequence[Finding | None],
    specs: Sequence[NormSpec],
    unfamiliar: Mapping[str, str],
    strict: bool,
) -> None:
    """One warning (an error if `strict`) for all that a person should look at; `None` stands for what is settled."""
    remarks = [
        (path, leaf, remark)
        for path, leaf, finding in zip(model.paths, model.leaves, findings, strict=True)
        if finding is not None and (remark := _remark(finding))
    ]
    others = [
        f"example input {i} has shape {tuple(x.shape)}: an axis of size 1 hides what it is for; use 2 or more"
        for i, x in enumerate(model.inputs)
        # the last axis may be one feature
        if 1 in x.shape[:-1]
    ]
    others += [f"{problem}: what it does to parameters was not seen" for problem in unfamiliar.values()]
    if not remarks + others:
        return
    one, many = "thing to check in the inferred specs", "things to check in the inferred specs"
    guesses = [
        (path, leaf, _as_rule(spec))
        for path, leaf, finding, spec in zip(model.paths, model.leaves, findings, specs, strict=True)
        if finding is not None and finding.confidence == GUESS
    ]
    advice = _to_paste("What is guessed right is settled by", guesses, model.paths) if guesses else ""
    message = listing(one, many, _lines(remarks) + others, advice, count=len(remarks) + len(others))
    if strict:
        raise ValueError(message)
    warnings.warn(message, UserWarning, stacklevel=3)


def _as_rule(spec: NormSpec) -> str:
    """The rule that says what was guessed, as it is written in a program."""
    parts = ", ".join([repr(spec.norm), f"axes={spec.axes!r}", f"mass={spec.mass:.6g}", f"role={spec.role!r}"])
    return "mo.Rule(PATH, " + re.sub(r"\b([A-Z]\w*\()", r"mo.\1", parts) + "),"


def _remark(finding: Finding) -> str:
    if finding.role == "unused":
        return "unused: reaches no output" + "".join(f"; {note}" for note in finding.notes)
    if finding.confidence == GUESS:
        axes = f"fan_in={finding.fan_in}, fan_out={finding.fan_out}"
        return f"guessed to be {finding.role} with {axes} ({why(finding)})"
    return f"{finding.role}, {'; '.join(finding.notes)} ({why(finding)})" if finding.notes else ""
