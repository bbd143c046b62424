"""How a tree of specs fits a tree of arrays: matched by path, and checked leaf by leaf."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modula_optax._axes import batch_axes
from modula_optax._layout import atoms_shape, resolve_axes
from modula_optax._norms import Norm, Unnormed
from modula_optax._parameters import flatten_parameters
from modula_optax._paths import (
    Owners,
    describe,
    flatten_with_paths,
    is_absent,
    listing,
    owners_among,
    pattern_of,
    prefixes,
)
from modula_optax._specs import NormSpec


class Leaf(NamedTuple):
    """A parameter (or its update) beside the spec it goes by; where it is absent, that is `Unnormed`."""

    path: str
    value: Any
    spec: NormSpec


# paths and specs of some parameters; unlike their arrays they can be told apart before a program runs
Named = tuple[tuple[str, NormSpec], ...]


class Leaves(NamedTuple):
    """The leaves of a tree beside their specs, in order; absent ones too."""

    entries: tuple[Leaf, ...]
    treedef: Any

    @property
    def present(self) -> list[Leaf]:
        """The leaves that are not absent."""
        return [leaf for leaf in self.entries if not is_absent(leaf.value)]

    def where(self, holds: Callable[[NormSpec], bool]) -> Named:
        """Paths and specs of the leaves whose spec fulfils a condition."""
        return tuple((leaf.path, leaf.spec) for leaf in self.entries if holds(leaf.spec))

    def by_path(self, tree: Any = None) -> dict[str, Any]:
        """The leaves of the tree, or of another of its structure."""
        values = (leaf.value for leaf in self.entries) if tree is None else self.treedef.flatten_up_to(tree)
        return {leaf.path: value for leaf, value in zip(self.entries, values, strict=True)}

    def of(self, named: Named, tree: Any = None) -> dict[str, Any]:
        """The leaves of these parameters alone, in the tree or in another of its structure."""
        values = self.by_path(tree)
        return {path: values[path] for path, _ in named}

    def rebuilt(self, changed: Mapping[str, Any]) -> Any:
        """The tree, with other values under these paths."""
        return self.treedef.unflatten([changed.get(leaf.path, leaf.value) for leaf in self.entries])


_ABSENT = NormSpec(Unnormed())


def align(specs: Any, tree: Any) -> Leaves:
    """Matches a spec tree, or a prefix of one, to a tree of arrays by path, and checks that every spec fits.

    Raises:
      ValueError: lists every parameter without a spec, every spec without a parameter, and every spec that does not
        fit its parameter.
    """
    flat, treedef = flatten_parameters(tree)
    by_path = {path: spec for path, spec in flatten_with_paths(specs)[0] if not is_absent(spec)}
    owners = owners_among(by_path, flat)
    _refuse_other_paths(dict(flat), owners)
    leaves = tuple(
        Leaf(path, value, _ABSENT if is_absent(value) or owner is None else by_path[owner])
        for (path, value), owner in zip(flat, owners.of.values(), strict=True)
    )
    problems = [
        f"{describe(leaf.path, leaf.value)}: {problem}"
        for leaf in leaves
        if (problem := _misfit(leaf.path, leaf.spec, leaf.value)) is not None
    ]
    if problems:
        raise ValueError(listing("parameter does not fit its spec", "parameters do not fit their specs", problems))
    return Leaves(leaves, treedef)


def _refuse_other_paths(leaves: dict[str, Any], owners: Owners) -> None:
    """Refuses parameters without a spec and specs without a parameter, in one message."""
    kinds = (
        ("parameter has no spec", "parameters have no spec", [describe(path, leaves[path]) for path in owners.missing]),
        ("spec names no parameter", "specs name no parameter", owners.extra),
    )
    if parts := [listing(*kind) for kind in kinds if kind[-1]]:
        raise ValueError("\n".join([*parts, _advice(owners.missing, owners.extra)]))


def _advice(missing: list[str], extra: list[str]) -> str:
    """What to do about paths that differ: one tree is a part of the other, or something was renamed."""
    if missing == [""]:
        return "This is one array, as optax.flatten makes: leave that out, since in one vector no matrix has its norm."
    if top := _top(extra, missing):
        return f"The specs are those of what stands under {top!r}: pass that part of the parameters alone."
    if top := _top(missing, extra):
        return (
            f"The specs are of a larger tree, which has these parameters under {top!r}: pass specs of that part alone."
        )
    return (
        "Specs must be of this tree or a prefix of it. If they are of another model, or parameters were renamed "
        "since,\nmake them anew: registry.resolve(params) or infer_specs(apply_fn, params, ...)."
    )


def _top(part: list[str], whole: list[str]) -> str | None:
    """The path under which a tree of these paths has all paths of another."""
    tops = {top: None for path in whole for top in prefixes(path)[1:-1]} if part else {}
    return next((top for top in tops if {f"{top}/{path}" for path in part} <= set(whole)), None)


def write_instead(path: str, arguments: str) -> str:
    """What to write for a parameter, in a spec tree and in a registry."""
    return f"write NormSpec({arguments}), in a registry Rule({pattern_of(path)}, {arguments})"


def fitting(value: Any) -> str:
    """Arguments of a spec that fits an array of this shape and dtype."""
    if not jnp.issubdtype(value.dtype, jnp.floating) or math.prod(value.shape) == 0:
        return "Unnormed()"
    return "RMS()" if len(value.shape) < 2 else "Spectral(), axes=Axes(fan_in=-2, fan_out=-1)"


def _misfit(path: str, spec: Any, value: Any) -> str | None:
    """Why a spec cannot be that of an array, and what to write instead; `None` if it can."""
    if not isinstance(spec, NormSpec):
        if isinstance(spec, Norm):
            return f"its spec is {spec!r}; {write_instead(path, repr(spec))}"
        got = "an array" if hasattr(spec, "shape") else repr(spec)
        return f"its spec is {got}; specs are made by infer_specs, NormRegistry.resolve or NormSpec"
    if not spec.is_normed:
        constraint = spec.constraint
        return None if constraint is None else f"Unnormed() cannot be held to {constraint!r}; write constraint=None"
    instead = write_instead(path, "Unnormed()")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return f"{type(spec.norm).__name__} needs real floating-point numbers; {instead}"
    if math.prod(value.shape) == 0:
        return f"has no entries; {instead}"
    try:
        resolve_axes(spec, value.shape)
    except ValueError as error:
        return f"{type(spec.norm).__name__} {error}; {write_instead(path, fitting(value))}"
    atom = atoms_shape(spec, value.shape)[1:]
    if (problem := spec.norm.misfit(atom)) is not None:
        return f"{type(spec.norm).__name__} {problem}; {write_instead(path, fitting(value))}"
    return None if spec.constraint is None else spec.constraint.misfit(spec.norm, atom)


def is_abstract(value: Any) -> bool:
    """Whether a parameter is a shape without values."""
    return isinstance(value, jax.ShapeDtypeStruct)


def refuse_abstract(leaves: Sequence[Leaf], advice: str) -> None:
    """Refuses shapes where values are asked for."""
    if abstract := [describe(leaf.path, leaf.value) for leaf in leaves if is_abstract(leaf.value)]:
        one, many = "parameter is a shape without values", "parameters are shapes without values"
        raise ValueError(listing(one, many, abstract, advice))


def align_new(specs: Any, tree: Any) -> Any:
    """A tree of the specs just made for these parameters: checked, and each knowing how many layers it is of."""
    leaves = align(specs, tree)
    return leaves.rebuilt({leaf.path: count_layers(leaf.spec, leaf.value.shape) for leaf in leaves.present})


def refuse_restacked(leaves: Sequence[Leaf]) -> None:
    """Refuses inferred specs of parameters that stack more layers now: an axis has come that the specs do not know."""
    lines = [
        f"{describe(leaf.path, leaf.value)}: {now} layers, {leaf.spec.layers} in its spec"
        for leaf in leaves
        if leaf.spec.confidence is not None
        and (now := count_layers(leaf.spec, leaf.value.shape).layers) > leaf.spec.layers
    ]
    if lines:
        one, many = (
            "parameter has axes that its spec does not know",
            "parameters have axes that their specs do not know",
        )
        raise ValueError(listing(one, many, lines, "Infer the specs anew, from parameters of these shapes."))


def count_layers(spec: NormSpec, shape: tuple[int, ...]) -> NormSpec:
    """The spec, knowing how many layers a parameter of this shape stacks."""
    if not spec.is_normed:
        return spec
    stacked = (shape[i] for i in batch_axes(resolve_axes(spec, shape), len(shape)))
    return dataclasses.replace(spec, layers=math.prod(stacked))
