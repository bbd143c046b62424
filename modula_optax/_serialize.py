"""Spec trees as JSON: saved beside a project, compared in its CI, used without tracing the model again."""

import dataclasses
import json
from typing import Any

from modula_optax import _constraints, _norms
from modula_optax._axes import Axes
from modula_optax._paths import flatten_with_paths, is_absent, listing
from modula_optax._specs import NormSpec

_VERSION = 1


def specs_to_json(specs: Any) -> str:
    """Text of a spec tree, one entry for each path, stable enough to be compared line by line.

    Args:
      specs: a spec tree, from `infer_specs`, `NormRegistry.resolve` or written by hand.

    Returns:
      JSON that `specs_from_json` reads.

    Raises:
      ValueError: a norm or a constraint that is not of this package; names its path.

    Example:
      >>> specs = {"w": NormSpec(Spectral(), mass=0.5)}
      >>> specs_from_json(specs_to_json(specs)) == specs
      True
    """
    entries = {path: _entry(path, spec) for path, spec in flatten_with_paths(specs)[0] if not is_absent(spec)}
    return json.dumps({"version": _VERSION, "specs": entries}, indent=1)


def specs_from_json(text: str, params: Any = None) -> Any:
    """Spec tree that `specs_to_json` wrote.

    Args:
      text: what `specs_to_json` returned.
      params: parameters of the same paths, or a tree of `jax.ShapeDtypeStruct`: JSON keeps paths, not classes.

    Returns:
      A tree of the structure of `params`; without them, of nested dictionaries, which go by their paths everywhere.

    Raises:
      ValueError: not such a text, or its paths are not those of `params`; lists those that are missing and extra.

    Example:
      >>> specs = {"w": NormSpec(Spectral(), mass=0.5)}
      >>> specs_from_json(specs_to_json(specs), {"w": jnp.zeros((3, 2))})["w"].mass
      0.5
    """
    entries = _read(text)
    if params is None:
        return _nested({path: _spec(entry) for path, entry in entries.items()})
    flat, treedef = flatten_with_paths(params)
    paths = {path for path, leaf in flat if not is_absent(leaf)}
    lines = [f"{path}: has no spec in the text" for path in sorted(paths - entries.keys())]
    lines += [f"{path}: is no parameter" for path in sorted(entries.keys() - paths)]
    if lines:
        advice = "The model has changed since the specs were saved: infer them again."
        raise ValueError(listing("path differs", "paths differ", lines, advice))
    return treedef.unflatten([leaf if is_absent(leaf) else _spec(entries[path]) for path, leaf in flat])


def _nested(specs: dict[str, NormSpec]) -> Any:
    """Dictionaries that have these paths; the only spec itself if its path is empty."""
    if "" in specs:
        return specs[""]
    tree: dict[str, Any] = {}
    for path, spec in specs.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = spec
    return tree


def _read(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"This is no JSON: {error}.") from None
    if not isinstance(content, dict) or content.get("version") != _VERSION or "specs" not in content:
        raise ValueError(f"This is no spec tree of version {_VERSION}, as specs_to_json writes it.")
    return content["specs"]


def _entry(path: str, spec: Any) -> dict[str, Any]:
    if not isinstance(spec, NormSpec):
        raise ValueError(f"{path}: {spec!r} is no NormSpec.")
    entry = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    for name, module in (("norm", _norms), ("constraint", _constraints)):
        entry[name] = _named(path, entry[name], module)
    entry["axes"] = None if spec.axes is None else dataclasses.asdict(spec.axes)
    return entry


def _named(path: str, value: Any, module: Any) -> dict[str, Any] | None:
    """A norm or a constraint as the name of its class and its arguments."""
    if value is None:
        return None
    name = type(value).__name__
    if getattr(module, name, None) is not type(value):
        raise ValueError(f"{path}: {value!r} is not one of this package's, and cannot be written to JSON.")
    return {"name": name} | dataclasses.asdict(value)


def _spec(entry: dict[str, Any]) -> NormSpec:
    arguments = {name: _frozen(value) for name, value in entry.items()}
    arguments["norm"] = _build(entry["norm"], _norms)
    arguments["constraint"] = _build(entry["constraint"], _constraints)
    arguments["axes"] = None if entry["axes"] is None else Axes(**entry["axes"])
    return NormSpec(**arguments)


def _build(entry: dict[str, Any] | None, module: Any) -> Any:
    if entry is None:
        return None
    arguments = {name: _frozen(value) for name, value in entry.items() if name != "name"}
    return getattr(module, entry["name"])(**arguments)


def _frozen(value: Any) -> Any:
    """JSON has no tuples, and norms are hashable."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
