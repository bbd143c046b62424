"""Specs matched to a tree once: what was found is remembered by the structure, shapes and dtypes of the tree."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax

from modula_optax._align import Leaf
from modula_optax._registry import resolve

Result = TypeVar("Result")


class Leaves(NamedTuple):
    """The leaves of a tree beside their specs, in order; absent ones too."""

    entries: tuple[Leaf, ...]
    treedef: Any

    def by_path(self, tree: Any = None) -> dict[str, Any]:
        """The leaves of the tree, or of another of its structure."""
        values = (leaf.value for leaf in self.entries) if tree is None else self.treedef.flatten_up_to(tree)
        return {leaf.path: value for leaf, value in zip(self.entries, values, strict=True)}

    def rebuilt(self, changed: dict[str, Any]) -> Any:
        """The tree, with other values under these paths."""
        return self.treedef.unflatten([changed.get(leaf.path, leaf.value) for leaf in self.entries])


def matching(specs: Any) -> Callable[[Any], Leaves]:
    """A function from trees to their leaves beside the specs that are theirs, which asks about mistakes once.

    Args:
      specs: whatever `resolve` takes.
    """

    def found(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
        leaves, treedef = resolve(specs, tree)
        return [(leaf.path, leaf.spec) for leaf in leaves], treedef

    remembered = by_structure(found)

    def match(tree: Any) -> Leaves:
        named, treedef = remembered(tree)
        values = treedef.flatten_up_to(tree)
        entries = (Leaf(path, value, spec) for (path, spec), value in zip(named, values, strict=True))
        return Leaves(tuple(entries), treedef)

    return match


def by_structure(function: Callable[[Any], Result]) -> Callable[[Any], Result]:
    """`function` of trees, called once for trees whose structure, shapes and dtypes are all that it looks at."""
    results: dict[Any, Result] = {}

    def remembered(tree: Any) -> Result:
        leaves, structure = jax.tree.flatten(tree)
        key = structure, tuple((getattr(x, "shape", None), getattr(x, "dtype", None)) for x in leaves)
        try:
            hash(key)
        except TypeError:
            # a structure may hold anything
            return function(tree)
        if key not in results:
            results[key] = function(tree)
        return results[key]

    return remembered
