"""From a finding to a spec: the norm, the axes and the mass of a role, and what a user says instead."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from modula_optax._axes import Axes
from modula_optax._infer._finding import CERTAIN, LAYERS, MATRICES, Finding
from modula_optax._infer._messages import why
from modula_optax._norms import RMS, Diagonal, Embedding, Norm, Spectral, Unnormed
from modula_optax._specs import PLACES, ROLES, NormSpec, check_mass

# What a leaf of each role gets; the places for changing a default.
NORMS: dict[str, Norm] = {
    "linear": Spectral(),
    "conv": Spectral(),
    "depthwise": Spectral(),
    "embedding": Embedding(),
    "tied": Embedding(),
    "positional": Embedding(),
    "bias": RMS(),
    "gain": Diagonal(),
    "unused": Unnormed(),
}
# What keeps the best learning rate where it is as a transformer gets wider and deeper (`benchmarks/`). At mass 1, gains
# are first to become unstable: a unit step moves each by its sign, and no other entry averages the noise of that sign
# out, as those of a matrix do. Twice the mass makes tables what bounds the learning rate at any depth: alone, the
# layers of a shallow network would bear more than those of a deep one.
MASSES: dict[str, float] = {"embedding": 2.0, "gain": 0.1}

# A head that scores the rows of a table, as that of a language model: a unit step moves its many outputs for every
# direction of the input alike, also those that hold noise only. Heads onto a few classes look at a few directions.
VOCABULARY_HEAD = 0.5

# Steps of layers that follow each other add up. Up to this many (two blocks of a transformer) need not be smaller for
# it; beyond, the fourth root keeps the best learning rate. Without it, deep networks bear less above the best one, and
# those for images end higher; the square root would raise it with depth.
SHALLOW = 8


def usual_masses(findings: Sequence[Finding], shapes: Sequence[tuple[int, ...]], depth: int) -> list[float]:
    """Masses of the parameters of a network with so many hidden layers, where the user says nothing."""
    hidden = min(1.0, (SHALLOW / max(depth, 1)) ** 0.25)

    def size(axes: tuple[int, ...], shape: tuple[int, ...]) -> int:
        return math.prod(shape[axis] for axis in axes)

    tables = {size(f.fan_in, shape) for f, shape in zip(findings, shapes, strict=True) if f.role == "embedding"}

    def usual(finding: Finding, shape: tuple[int, ...]) -> float:
        if finding.role not in LAYERS:
            return MASSES.get(finding.role, 1.0)
        if finding.place == "head" and size(finding.fan_out, shape) in tables:
            return VOCABULARY_HEAD
        return hidden if finding.place == "hidden" else 1.0

    return [usual(finding, shape) for finding, shape in zip(findings, shapes, strict=True)]


def spec_of(
    finding: Finding,
    rule: NormSpec | None,
    defaults: Mapping[str, Norm | None],
    head: Norm | None,
    masses: Mapping[str, float],
    usual: float,
) -> NormSpec | None:
    """The spec of one parameter; `None` if its role is unknown and nothing else says what its norm is.

    Args:
      finding: what the parameter does.
      rule: what the user says instead.
      defaults: the norm of every role.
      head: the norm of a head; `None` for that of its role.
      masses: what the user says of masses.
      usual: its mass where the user says nothing.
    """
    if rule is not None:
        axes = rule.axes or axes_for(finding, rule.norm)
        return dataclasses.replace(
            rule,
            axes=axes,
            role=rule.role or finding.role,
            place=rule.place or finding.place,
            confidence=CERTAIN,
            blocks=finding.blocks,
            why="override",
        )
    norm = defaults[finding.role]
    if norm is None:
        return None
    if head is not None and finding.place == "head" and finding.role == "linear":
        norm = head
    return NormSpec(
        norm,
        axes_for(finding, norm),
        mass=_mass(finding, masses, usual),
        role=finding.role,
        place=finding.place,
        confidence=finding.confidence,
        blocks=finding.blocks,
        why=why(finding),
    )


def _mass(finding: Finding, masses: Mapping[str, float], usual: float) -> float:
    names = [finding.place, finding.role] if finding.role in MATRICES else [finding.role, finding.place]
    return next((masses[name] for name in names if name in masses), usual)


def check_masses(masses: Mapping[str, float]) -> None:
    """Refuses masses of what is no role or place, and what is no mass."""
    if not isinstance(masses, Mapping):
        raise ValueError(f"masses must be a mapping such as {{'head': 0.5, 'bias': 0.1}}; got {masses!r}.")
    known = (*ROLES, *PLACES)
    wrong = [name for name in masses if name not in known]
    if wrong:
        raise ValueError(f"masses names {wrong[0]!r}, which is no role or place; these are {', '.join(known)}.")
    for name, mass in masses.items():
        check_mass(f"masses[{name!r}]", mass)


def check_norms(**norms: Norm | None) -> None:
    """Refuses arguments, by their names, that are no norms."""
    for name, norm in norms.items():
        if isinstance(norm, type) or not isinstance(norm, Norm | None):
            raise ValueError(f"{name} must be an atomic norm such as RowL2() or Unnormed(), or None; got {norm!r}.")


def axes_for(finding: Finding, norm: Norm) -> Axes | None:
    """The axes of a parameter as a norm means them: rows of a table are the fan-in of `Embedding` only."""
    if finding.role in ("unknown", "unused"):
        return None
    fan_in, fan_out = finding.fan_in, finding.fan_out
    if finding.role == "tied" and not isinstance(norm, Embedding):
        fan_in, fan_out = fan_out, fan_in
    if isinstance(norm, RMS | Diagonal) and finding.role in MATRICES:
        return None
    return Axes(fan_in, fan_out, finding.taps, finding.groups)
