"""Specs: what the norm of each parameter is, and how large its steps are."""

import dataclasses
import functools
import operator
import re
from collections.abc import Callable
from typing import Any, TypeVar

from modula_optax._axes import Axes
from modula_optax._checks import as_count, as_mass, as_positive, brief_repr, is_count, set_fields
from modula_optax._constraints import Constraint
from modula_optax._deprecation import warn_deprecated
from modula_optax._norms import Norm, Unnormed
from modula_optax._paths import describe, flatten_with_paths, is_absent, refuse

ROLES = (
    *("linear", "embedding", "tied", "conv", "depthwise", "bias", "gain", "positional"),
    *("unused", "unknown"),
)
PLACES = ("input", "hidden", "head")
CONFIDENCES = ("certain", "evidence", "guess")
_Class = TypeVar("_Class", bound=type)


def _takes_atoms(cls: _Class) -> _Class:
    """Lets the constructor take `atoms`, the name that `layers` had."""
    init = cls.__init__

    @functools.wraps(init)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        if "atoms" in kwargs:
            warn_deprecated("NormSpec(atoms=...)", "NormSpec(layers=...)", since="0.2")
            kwargs["layers"] = kwargs.pop("atoms")
        init(self, *args, **kwargs)

    cls.__init__ = construct
    return cls


@_takes_atoms
@dataclasses.dataclass(frozen=True)
class NormSpec:
    r"""Norm of one parameter, and its share of a step of the whole network.

    A step of learning rate 1 has atomic norm :math:`m / s`, mass over sensitivity.

    Args:
      norm: an atomic norm, or `Unnormed()`.
      axes: which axes are inputs and outputs. `None`: matrix norms take the last two and treat the others as a
        batch, vector norms take all.
      mass: share of the step; 0 keeps the parameter where it is.
      sensitivity: how much the network's output moves, in its norm, per unit that this parameter moves.
      constraint: where `project` and `keep_params_projected` put the weights; `None`: nowhere.
      role: what the parameter does, by inference or by a rule: `"linear"`, `"embedding"`, `"tied"`, `"conv"`,
        `"depthwise"`, `"bias"`, `"gain"`, `"positional"`, `"unused"` or `"unknown"`.
      place: `"input"`, `"hidden"` or `"head"`, in the same way.
      confidence: `"certain"`, `"evidence"` or `"guess"`, by inference.
      blocks: sizes of the pieces that the model cuts the outputs of a matrix into, by inference: `(6, 6, 6)` for a
        fused query-key-value kernel. The norm is that of the whole, unless `axes` has `groups`.
      why: what showed the role, by inference: a primitive and its place in the user's code; not compared.
      layers: how many layers the parameter stacks, the size of its batch axes; filled in where specs are resolved
        from parameters, and counted by `tare`. Its old name, `atoms`, works and warns.

    Raises:
      ValueError: mass negative or not finite, sensitivity not positive or not finite, something that is no norm, a
        role, a place or a confidence that does not exist, `layers` or `blocks` that count nothing.

    Example:
      >>> NormSpec(Spectral(), mass=0.5).target
      0.5
    """

    norm: Norm
    axes: Axes | None = None
    mass: float = 1.0
    sensitivity: float = 1.0
    constraint: Constraint | None = None
    role: str | None = None
    place: str | None = None
    confidence: str | None = None
    layers: int = 1
    blocks: tuple[int, ...] = ()
    why: str | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.norm, type) or not isinstance(self.norm, Norm):
            derive = _of_your_own(self.norm, "dualize", Norm)
            raise ValueError(
                f"norm must be an atomic norm such as Spectral() or Unnormed(); got {self.norm!r}.{derive}"
            )
        if self.axes is not None and not isinstance(self.axes, Axes):
            raise ValueError(f"axes must be an Axes, such as Axes(fan_in=-1, fan_out=-2), or None; got {self.axes!r}.")
        if isinstance(self.constraint, type) or not isinstance(self.constraint, Constraint | None):
            derive = _of_your_own(self.constraint, "retract", Constraint)
            raise ValueError(f"constraint must be one such as UnitSphere(), or None; got {self.constraint!r}.{derive}")
        _refuse_unfinished(self.norm, Norm, ("norm", "dual_norm", "dualize", "project"))
        if self.constraint is not None:
            _refuse_unfinished(self.constraint, Constraint, ("retract",))
        for name, known in (("role", ROLES), ("place", PLACES), ("confidence", CONFIDENCES)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, or None; got {value!r}.")
        if not isinstance(self.blocks, tuple) or not all(map(is_count, self.blocks)):
            raise ValueError(f"blocks must be a tuple of sizes, such as (6, 6, 6); got {self.blocks!r}.")
        if not isinstance(self.why, str | None):
            raise ValueError(f"why must be a text, or None; got {self.why!r}.")
        set_fields(self, mass=as_mass("mass", self.mass), sensitivity=as_positive("sensitivity", self.sensitivity))
        set_fields(self, layers=as_count("layers", self.layers), blocks=tuple(map(operator.index, self.blocks)))

    __repr__ = brief_repr

    @property
    def is_normed(self) -> bool:
        """Whether the parameter has a norm: it is not `Unnormed`."""
        return not isinstance(self.norm, Unnormed)

    @property
    def target(self) -> float:
        """Atomic norm of a step of learning rate 1: mass / sensitivity."""
        return self.mass / self.sensitivity

    @property
    def atoms(self) -> int:
        """Deprecated: the old name of `layers`."""
        warn_deprecated("NormSpec.atoms", "NormSpec.layers", since="0.2")
        return self.layers


def _of_your_own(value: Any, method: str, protocol: type) -> str:
    """What is missing of a norm or a constraint that a user wrote."""
    if isinstance(value, type) or not hasattr(value, method):
        return ""
    inherited = (name for name in vars(protocol) if not name.startswith("_"))
    missing = ", ".join(name for name in inherited if not hasattr(value, name))
    return f" It has no {missing}: derive {type(value).__name__} from mo.{protocol.__name__}."


def _refuse_unfinished(value: Any, protocol: type, methods: tuple[str, ...]) -> None:
    """Refuses a norm or a constraint that lacks a method, or cannot be compared to others."""
    name = type(value).__name__
    missing = [method for method in methods if getattr(type(value), method) is getattr(protocol, method)]
    if missing:
        raise ValueError(f"{name} must define {', '.join(missing)}; see mo.{protocol.__name__}.")
    try:
        hash(value)
    except TypeError as error:
        raise ValueError(
            f"{value!r} is not hashable ({error}), so that parameters of one {protocol.__name__.lower()} cannot be "
            f"told. Write @dataclasses.dataclass(frozen=True) over class {name}, and tuples for lists and arrays."
        ) from None


def tare(specs: Any, select: str | Callable[[str, NormSpec], bool], absolute: float) -> Any:
    r"""Scales the masses of a group of parameters so that they sum to `absolute`.

    .. math:: m_i \leftarrow m_i \cdot \text{absolute} / \sum_j n_j m_j

    where :math:`n_j` is the number of layers that leaf j stacks. `tare(specs, r".*", 1.0)` is the convention of the
    papers, in which the masses of a network sum to one.

    Args:
      specs: a spec tree, from `NormRegistry.resolve`, `infer_specs` or written by hand.
      select: a regular expression for whole slash paths, or a predicate `(path, spec) -> bool`.
      absolute: the mass of the group, at least 0.

    Returns:
      A spec tree of the same structure.

    Raises:
      ValueError: no spec tree, nothing is selected, the masses of what is sum to zero, or `absolute` is not a mass.

    Example:
      >>> specs = {"w": NormSpec(Spectral()), "b": NormSpec(RMS(), mass=3.0)}
      >>> tare(specs, r".*", 1.0)["b"].mass
      0.75

    References:
      Large et al., Scalable Optimization in the Modular Norm, arXiv:2405.14813, section 3.3.
    """
    absolute = as_mass("absolute", absolute)
    flat, treedef = spec_leaves("tare", specs)
    if not (isinstance(select, str) or callable(select)):
        raise ValueError(f"select must be a regular expression or a predicate (path, spec) -> bool; got {select!r}.")
    if isinstance(select, str):
        pattern = compile_pattern(select)
        chosen = [_has_mass(spec) and pattern.fullmatch(path) is not None for path, spec in flat]
    else:
        chosen = [_has_mass(spec) and select(path, spec) for path, spec in flat]
    total = sum(spec.layers * spec.mass for (_, spec), c in zip(flat, chosen, strict=True) if c)
    if total == 0:
        paths = "\n".join(f"  {path}" for path, spec in flat if _has_mass(spec))
        raise ValueError(
            f"tare found no mass to scale: {select!r} selects nothing, or masses of zero only. The normed "
            f"parameters are:\n{paths}"
        )
    factor = absolute / total
    scaled = [
        dataclasses.replace(spec, mass=spec.mass * factor) if c else spec
        for (_, spec), c in zip(flat, chosen, strict=True)
    ]
    return treedef.unflatten(scaled)


def spec_leaves(function: str, specs: Any) -> tuple[list[tuple[str, Any]], Any]:
    """Paths and leaves of a spec tree, and its structure; what is no spec tree is refused."""
    if callable(getattr(specs, "resolve", None)):
        raise ValueError(f"{function} takes a spec tree, not a registry: write registry.resolve(params).")
    flat, treedef = flatten_with_paths(specs)
    wrong = [describe(path, leaf) for path, leaf in flat if not (isinstance(leaf, NormSpec) or is_absent(leaf))]
    one, many = "leaf of the spec tree is no NormSpec", "leaves of the spec tree are no NormSpecs"
    refuse(one, many, wrong, "Specs are made by infer_specs, NormRegistry.resolve or NormSpec.")
    return flat, treedef


def _has_mass(spec: Any) -> bool:
    return isinstance(spec, NormSpec) and spec.is_normed


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Regular expression of a path, with an error that names it."""
    if isinstance(pattern, bytes):
        raise ValueError(f"{pattern!r} is not a valid regular expression of a path, which is a text: leave the b out.")
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{pattern!r} is not a valid regular expression: {error}.") from None
