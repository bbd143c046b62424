"""Specs matched to a tree once: what was found is remembered by the structure, shapes and dtypes of the tree."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from modula_optax._align import Leaf, Leaves, Named
from modula_optax._arguments import check_specs
from modula_optax._registry import resolve

Result = TypeVar("Result")


def matching(specs: Any, usage: str = "mo.modular(0.05, specs)") -> Callable[[Any], Leaves]:
    """A function from trees to their leaves beside the specs that are theirs, which asks about mistakes once.

    Args:
      specs: whatever `resolve` takes; what can never be specs is refused at once.
      usage: what to write, for that message.
    """
    check_specs(specs, usage)

    @by_structure
    def found(tree: Any) -> tuple[Named, Any]:
        leaves = resolve(specs, tree)
        return leaves.where(lambda spec: True), leaves.treedef

    def match(tree: Any) -> Leaves:
        named, treedef = found(tree)
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
