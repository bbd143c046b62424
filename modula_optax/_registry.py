"""The registry: rules that read the spec of a parameter off its path; and where every kind of `specs` ends up."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from modula_optax._align import Leaves, align, align_new, fitting, refuse_restacked
from modula_optax._arguments import check_specs
from modula_optax._axes import Axes
from modula_optax._checks import brief_repr, set_fields
from modula_optax._constraints import Constraint
from modula_optax._norms import Norm
from modula_optax._parameters import flatten_parameters, refuse_step
from modula_optax._paths import describe, flatten_with_paths, is_absent, is_function, listing, pattern_of, refuse
from modula_optax._specs import NormSpec, compile_pattern


@dataclasses.dataclass(frozen=True)
class Rule:
    """Gives every parameter whose whole path matches a regular expression the same spec.

    Args:
      pattern: regular expression, matched with `re.fullmatch` against slash paths such as `params/Dense_0/kernel`.
      norm: an atomic norm, or `Unnormed()`.
      axes: which axes are inputs and outputs; see `NormSpec`, as for the next three.
      mass: share of the step.
      sensitivity: how much the network moves per unit that the parameter moves.
      constraint: where the weights are kept.
      role: what the parameter does, such as `"linear"`. As an override, `None` keeps what inference finds; so does
        `place`.
      place: `"input"`, `"hidden"` or `"head"`.

    Raises:
      ValueError: the pattern is no regular expression, or the spec is not valid.

    Example:
      >>> Rule(r".*/kernel", Frobenius(), mass=2.0).spec.target
      2.0
    """

    pattern: str
    norm: Norm
    axes: Axes | None = None
    mass: float = 1.0
    sensitivity: float = 1.0
    constraint: Constraint | None = None
    role: str | None = None
    place: str | None = None

    def __post_init__(self) -> None:
        compile_pattern(self.pattern)
        try:
            spec = self.spec
        except ValueError as error:
            raise ValueError(f"Rule({self.pattern!r}, ...): {error}") from None
        set_fields(self, mass=spec.mass, sensitivity=spec.sensitivity)

    @property
    def spec(self) -> NormSpec:
        """What the rule gives to a parameter."""
        return NormSpec(
            self.norm, self.axes, self.mass, self.sensitivity, self.constraint, role=self.role, place=self.place
        )

    __repr__ = brief_repr

    def matches(self, path: str) -> bool:
        """Whether the rule is for the parameter of this path."""
        return compile_pattern(self.pattern).fullmatch(path) is not None


class NormRegistry:
    """Rules in order; the first that matches a parameter's path gives its spec.

    Args:
      *rules: see `Rule`.
      default: the norm of parameters that no rule matches; `None` makes them an error.

    Raises:
      ValueError: something that is no `Rule`.

    Example:
      >>> registry = NormRegistry(Rule(r".*/kernel", Spectral()), default=Unnormed())
      >>> registry.resolve({"dense": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}})["dense"]["bias"].norm
      Unnormed()
    """

    def __init__(self, *rules: Rule, default: Norm | None = None) -> None:
        for rule in rules:
            if not isinstance(rule, Rule):
                raise ValueError(
                    f"A registry is made of rules; got {rule!r}. Write NormRegistry(Rule(...), Rule(...))."
                )
        self.rules = rules
        try:
            self.default: NormSpec | None = None if default is None else NormSpec(default)
        except ValueError as error:
            raise ValueError(f"default of NormRegistry: {error}") from None

    def __repr__(self) -> str:
        entries = [repr(rule) for rule in self.rules]
        if self.default is not None:
            entries.append(f"default={self.default.norm!r}")
        return f"NormRegistry({', '.join(entries)})"

    def resolve(self, params: Any) -> Any:
        """Spec tree of a tree of parameters, of arrays or of `jax.ShapeDtypeStruct`.

        Absent leaves (`None`, `optax.MaskedNode`) stay as they are.

        Args:
          params: the parameters, or any tree of their structure and shapes.

        Returns:
          A tree of the structure of `params` with a `NormSpec` for each array.

        Raises:
          ValueError: lists every parameter that no rule matches, every rule that matches no parameter, and every
            parameter whose shape or dtype does not suit the norm that it gets.
        """
        if is_absent(params):
            return params
        refuse_step(params)
        flat, treedef = flatten_parameters(params)
        owners = [next((rule for rule in self.rules if rule.matches(path)), None) for path, _ in flat]
        self._refuse_gaps([(path, leaf) for (path, leaf), owner in zip(flat, owners, strict=True) if owner is None])
        # of a masked tree nobody knows what the mask hides from the rules
        if not any(isinstance(leaf, optax.MaskedNode) for _, leaf in flat):
            self._refuse_idle_rules({path for path, _ in flat}, owners)
        specs = [self.default if owner is None else owner.spec for owner in owners]
        tree = treedef.unflatten(
            [leaf if is_absent(leaf) else spec for (_, leaf), spec in zip(flat, specs, strict=True)]
        )
        return align_new(tree, params)

    def _refuse_gaps(self, unmatched: list[tuple[str, Any]]) -> None:
        gaps = [(path, leaf) for path, leaf in unmatched if not is_absent(leaf)]
        if gaps and self.default is None:
            path, leaf = gaps[0]
            advice = (
                f"Add a rule, e.g. Rule({pattern_of(path)}, {fitting(leaf)}),\n"
                "or pass default=Unnormed() to leave them to another optimizer."
            )
            if longer := self._longer({path for path, _ in gaps}):
                advice += "\nPatterns match whole paths: " + "; ".join(longer) + "."
            refuse("parameter matches no rule", "parameters match no rule", [describe(*gap) for gap in gaps], advice)

    def _longer(self, paths: set[str]) -> list[str]:
        """Rules for some of these paths that were meant by rules for the ends of paths."""
        return [
            f"write {longer!r}, not {rule.pattern!r}"
            for rule in self.rules
            if not any(map(rule.matches, paths))
            and any(map((longer := dataclasses.replace(rule, pattern=_below(rule.pattern))).matches, paths))
        ]

    def _refuse_idle_rules(self, paths: set[str], owners: list[Rule | None]) -> None:
        idle = [rule for rule in self.rules if not any(rule is owner for owner in owners)]
        if not idle:
            return
        lines = [
            f"Rule({rule.pattern!r}, {rule.norm!r}): "
            + ("earlier rules take all that it matches" if any(map(rule.matches, paths)) else "no path matches")
            for rule in idle
        ]
        known = (f"  {path}" for path in sorted(paths))
        advice = "\n".join(["Patterns match whole paths. These are:", *known, *self._longer(paths)])
        refuse("rule matches no parameter", "rules match no parameter", lines, advice)


def _below(pattern: str) -> str:
    """The pattern of what ends, after a slash, in what another pattern matches."""
    return f".*/({pattern})" if "|" in pattern else f".*/{pattern}"


def resolve(specs: Any, tree: Any) -> Leaves:
    """Aligns whatever a user may give as `specs` with a tree of parameters or updates.

    Args:
      specs: a spec tree, a prefix of one, a `NormRegistry`, or a function from a tree to any of these.
      tree: arrays (or `jax.ShapeDtypeStruct`); absent leaves are allowed.

    Raises:
      ValueError: what `NormRegistry.resolve` raises, and a structure or a shape that specs do not fit.
    """
    if is_absent(tree):
        # Optax initializes transformations on placeholders without leaves, which no function of the user expects
        return align({}, tree)
    check_specs(specs, "specs = mo.infer_specs(apply_fn, params, x)")
    if is_function(specs):
        specs = _made_of(tree, specs)
    if isinstance(specs, NormRegistry):
        specs = specs.resolve(tree)
    leaves = align(specs, tree)
    refuse_restacked(leaves.entries)
    return leaves


def _made_of(tree: Any, specs: Callable[[Any], Any]) -> Any:
    """What a function makes of a tree; where it fails for what is masked, it is told to be called before."""
    try:
        return specs(tree)
    except Exception as error:
        hidden = [path for path, leaf in flatten_with_paths(tree)[0] if isinstance(leaf, optax.MaskedNode)]
        if not hidden:
            raise
        one, many = (
            "parameter is masked for a function that makes specs",
            "parameters are masked for a function that makes specs",
        )
        advice = "Make the specs before, of all parameters, and pass them in its place: write specs = function(params)."
        raise ValueError(listing(one, many, hidden, advice)) from error


def resolve_tree(specs: Any, tree: Any) -> Any:
    """Spec tree of the structure of `tree`, from whatever a user may give as `specs`."""
    leaves = resolve(specs, tree)
    return leaves.rebuilt({leaf.path: leaf.spec for leaf in leaves.present})
