"""From a finding to a spec: the norm, the axes and the mass of a role, and what a user says instead."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from modula_optax._axes import Axes
from modula_optax._infer._finding import CERTAIN, LAYERS, MATRICES, Finding, has_positions
from modula_optax._infer._messages import why
from modula_optax._norms import RMS, Blocks, Diagonal, Embedding, Norm, RowL2, Spectral, Unnormed
from modula_optax._specs import PLACES, ROLES, NormSpec, as_mass

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
# A head of which every output takes a step of its own: the loss asks more of some classes and bytes than of others, and
# one step of a matrix would move all along the few directions that they share.
HEAD = RowL2()

# What a panel of networks trained best with at one learning rate (`benchmarks/panel.py`). A unit step moves each gain
# by its sign, and a bias along one direction, and no other entry averages the noise of these out, as those of a matrix
# do: they are first to become unstable.
MASSES: dict[str, float] = {"embedding": 1.0, "positional": 0.5, "bias": 0.1, "gain": 0.1}

# Rows that a normalisation follows may grow with every step. Those that go into a hidden matrix as they are drive what
# comes after it into saturation, the cells of a recurrent network at every position.
BARE_TABLE_MASS = 0.125

# Where learned positions are added to rows, what a token is and where it stands share a sum. Positions start small and
# are learned slowly: rows that grow faster leave no room for them.
PLACED_TABLE_MASS = 0.3

# A unit step under `RowL2` bounds what the worst of inputs does to an output. A typical one moves it by the root of the
# fan-in less: a head of mass 1 holds the others up. Wide ones get no more than this, since what they learn from is
# along their inputs in part, however wide.
HEAD_MASS = 8.0

# Steps of layers that follow each other add up. Up to this many (two blocks of a transformer) need not be smaller for
# it; beyond, the fourth root keeps the best learning rate. Without it, deep networks bear less above the best one, and
# those for images end higher; the square root would raise it with depth.
SHALLOW = 8


def usual_masses(
    findings: Sequence[Finding], shapes: Sequence[tuple[int, ...]], depth: int, head: Norm, tied: Norm
) -> list[float]:
    """Masses of the parameters of a network with so many hidden layers and these norms of its head and its table."""
    hidden = min(1.0, (SHALLOW / max(depth, 1)) ** 0.25)

    def usual(finding: Finding, shape: tuple[int, ...]) -> float:
        if finding.role == "tied":
            # steps of the size of a head's, which are smaller than a table's; `Embedding` counts them by features
            features = _size(finding.fan_out, shape)
            return _head_mass(features) / (features if isinstance(tied, Embedding) else 1)
        if finding.bare:
            return BARE_TABLE_MASS
        if finding.placed:
            return PLACED_TABLE_MASS
        if has_positions(finding):
            return MASSES["positional"]
        if finding.role not in LAYERS:
            return MASSES.get(finding.role, 1.0)
        if _is_linear_head(finding) and isinstance(head, RowL2):
            return _head_mass(_size(finding.fan_in, shape))
        return for_typical_inputs(finding, shape) * (hidden if finding.place == "hidden" else 1.0)

    return [usual(finding, shape) for finding, shape in zip(findings, shapes, strict=True)]


def for_typical_inputs(finding: Finding, shape: tuple[int, ...]) -> float:
    r"""What makes up for the inputs that a matrix does not see, as a mass.

    The norm minds the worst of inputs. Of a typical one, a matrix with more inputs than outputs sees :math:`d_{out}` of
    :math:`d_{in}` directions, and the taps of a convolution see inputs that differ, so that what they put out adds up
    as numbers of either sign do: a step of norm 1 moves it by the root of :math:`\min(1, d_{out} / d_{in})` over the
    number of taps. A patch is then moved as much by a convolution as by the same kernel as a linear layer. A group of a
    convolution, an expert, a layer of a stack are matrices of their own.
    """
    fan_in, fan_out, taps = (_size(axes, shape) for axes in (finding.fan_in, finding.fan_out, finding.taps))
    return math.sqrt(taps * max(1.0, fan_in / finding.in_groups / max(fan_out / finding.groups, 1)))


def _head_mass(fan_in: int) -> float:
    return min(HEAD_MASS, math.sqrt(fan_in))


def _size(axes: tuple[int, ...], shape: tuple[int, ...]) -> int:
    return math.prod(shape[axis] for axis in axes)


def _is_linear_head(finding: Finding) -> bool:
    return finding.place == "head" and finding.role == "linear"


def spec_of(
    finding: Finding,
    rule: NormSpec | None,
    defaults: Mapping[str, Norm | None],
    head: Norm,
    masses: Mapping[str, float],
    usual: float,
) -> NormSpec | None:
    """The spec of one parameter; `None` if its role is unknown and nothing else says what its norm is.

    Args:
      finding: what the parameter does.
      rule: what the user says instead.
      defaults: the norm of every role.
      head: the norm of a linear head.
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
    if _is_linear_head(finding):
        norm = head
    if finding.sizes:
        norm = Blocks(norm, finding.sizes)
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
        as_mass(f"masses[{name!r}]", mass)


def refuse_idle_masses(masses: Mapping[str, float], findings: Sequence[Finding]) -> None:
    """Refuses masses of roles and places that no parameter has: what they were meant for has another name."""
    found = {name for finding in findings for name in (finding.role, finding.place)}
    idle = [name for name in masses if name not in found]
    if idle:
        roles, places = ([name for name in names if name in found] for names in (ROLES, PLACES))
        raise ValueError(
            f"masses names {', '.join(map(repr, idle))}, but no parameter is found to be that. The roles of this model "
            f"are {', '.join(roles)}, its places {', '.join(places)}; leave the others out of masses."
        )


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
    return Axes(fan_in, fan_out, finding.taps, finding.groups, finding.in_groups)
