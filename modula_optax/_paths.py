"""Paths: the one name that every parameter goes by, in rules, in errors and in tables."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.tree_util import GetAttrKey, KeyPath


def path_string(path: KeyPath) -> str:
    """Slash path of a key path, such as `params/Dense_0/kernel`, without the slashes around the flat keys of Ninjax.

    Example:
      >>> path_string(jax.tree.leaves_with_path({"params": {"/layers/": [1.0]}})[0][0])
      'params/layers/0'
    """
    return "/".join(jax.tree_util.keystr((key,), simple=True).strip("/") for key in path)


def flatten_with_paths(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    """Paths and leaves of a tree, and its structure.

    What has no children (`None`, `optax.MaskedNode`, an empty dictionary) stands in the list as a leaf, so that a
    parameter that was masked keeps its path; `is_absent` tells which they are. The `.value` that Flax NNX and boxed
    Linen parameters end in is dropped.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_childless)
    below = Counter(path[:n] for path, _ in flat for n in range(len(path)))
    named = [(path_string(path[:-1] if _is_boxed(path, below) else path), leaf) for path, leaf in flat]
    repeated = [path for path, count in Counter(path for path, _ in named).items() if count > 1]
    one, many = "path is that of several parameters", "paths are those of several parameters"
    refuse(one, many, repeated, "Rename one of them, so that rules can tell them apart.")
    return named, treedef


def _is_boxed(path: KeyPath, below: Counter[KeyPath]) -> bool:
    """Whether a path ends in the one field of a box; a `value` beside other fields, such as `key`, is a name."""
    return len(path) > 1 and path[-1] == GetAttrKey("value") and below[path[:-1]] == 1


def _is_childless(node: Any) -> bool:
    structure = jax.tree.structure(node)
    return structure.num_leaves == 0 and structure.num_nodes == 1


def is_absent(node: Any) -> bool:
    """Whether a tree has no leaf, as `None`, `optax.MaskedNode()` and `{}` do not."""
    return jax.tree.structure(node).num_leaves == 0


def is_array(leaf: Any) -> bool:
    """Whether a leaf has a shape and a dtype, as arrays and `jax.ShapeDtypeStruct` do."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def is_function(value: Any) -> bool:
    """Whether a value is a function; a tree that is shaped like an Equinox module can be called too, but is no leaf."""
    return callable(value) and jax.tree_util.all_leaves([value])


def prefixes(path: str) -> list[str]:
    """The path, then its parents up to the root."""
    keys = path.split("/")
    return [*("/".join(keys[:n]) for n in range(len(keys), 0, -1)), ""]


class Owners(NamedTuple):
    """The owner of every path, its nearest prefix among given ones; paths that have none; owners of nothing."""

    of: dict[str, str | None]
    missing: list[str]
    extra: list[str]


def owners_among(given: Collection[str], flat: Sequence[tuple[str, Any]]) -> Owners:
    """Which of the given paths is whose; what is absent needs no owner, and what is above or below it may be one."""
    of = {path: next((p for p in prefixes(path) if p in given), None) for path, _ in flat}
    absent = {path for path, leaf in flat if is_absent(leaf)}
    unused = set(given) - set(of.values())
    return Owners(
        of,
        missing=[path for path, owner in of.items() if owner is None and path not in absent],
        extra=sorted(path for path in unused if absent.isdisjoint(prefixes(path))),
    )


def nested(values: Mapping[str, Any], paths: Collection[str]) -> Any:
    """Values of some of these paths as nested dictionaries: no key has a slash, by which formats flatten states."""
    if "" in values:
        return values[""]
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, name = _levels(path, paths)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def unnested(tree: Any, paths: Collection[str]) -> dict[str, Any]:
    """The values that `nested` was given for some of these paths."""
    values = {}
    for path in paths:
        node = tree
        for key in _levels(path, paths):
            node = node.get(key, _NOTHING) if isinstance(node, Mapping) else _NOTHING
        # of the root alone, nothing is an empty dictionary
        if node is not _NOTHING and not is_absent(node):
            values[path] = node
    return values


_NOTHING = object()


def _levels(path: str, paths: Collection[str]) -> list[str]:
    """The keys of a path; they stay together below what is a path itself."""
    keys = path.split("/") if path else []
    above = next((n for n in range(1, len(keys)) if "/".join(keys[:n]) in paths), None)
    return keys if above is None else [*keys[: above - 1], "/".join(keys[above - 1 :])]


def pattern_of(path: str) -> str:
    """The regular expression of one path alone, as it is written in a program."""
    # the rest of what `re.escape` escapes means nothing outside of classes
    pattern = re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", path)
    return f"r{pattern!r}" if "\\" not in pattern else f'r"{pattern}"'


def describe(path: str, leaf: Any) -> str:
    """One line of an error or a table: `decoder/kernel  float32[512, 64]`."""
    return f"{path or '(root)'}  {kind_of(leaf)}"


def kind_of(leaf: Any) -> str:
    """The dtype and the shape of an array, the class of anything else."""
    return f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]" if is_array(leaf) else type(leaf).__name__


def refuse(one: str, many: str, lines: Sequence[str], advice: str) -> None:
    """Raises an error with a line for each offender, if there are any."""
    if lines:
        raise ValueError(listing(one, many, lines, advice))


def listing(one: str, many: str, lines: Sequence[str], advice: str = "", count: int | None = None) -> str:
    """An error message with one line for each offender (or group, of `count` in all), headed by what they are."""
    count = len(lines) if count is None else count
    return "\n".join(
        [
            f"{count} {one if count == 1 else many}:",
            *(f"  {line}" for line in lines),
            *([advice] if advice else []),
        ]
    )
