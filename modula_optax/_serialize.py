"""Spec trees as JSON: saved beside a project, compared in its CI, used without tracing the model again."""

import dataclasses
import json
from typing import Any, TypeVar

from modula_optax import _constraints, _norms
from modula_optax._axes import Axes
from modula_optax._constraints import Constraint
from modula_optax._norms import Norm
from modula_optax._parameters import flatten_parameters
from modula_optax._paths import is_absent, nested, prefixes, refuse
from modula_optax._specs import NormSpec, spec_leaves

_VERSION = 1
_Class = TypeVar("_Class", bound=type)
# classes of others by the names that they have in JSON, which is never a reason to import anything
_REGISTERED: dict[str, type] = {}


def register(cls: _Class) -> _Class:
    """Lets `specs_to_json` write, and `specs_from_json` read, a norm or a constraint of your own: a class decorator.

    In JSON its name is that of its module and its class. A program that reads it has to register it as well: nothing
    is imported because a text names it.

    Args:
      cls: a dataclass that derives from `Norm` or `Constraint`, whose fields JSON can hold.

    Returns:
      The class itself.

    Raises:
      ValueError: it is no such class.

    Example:
      >>> import dataclasses
      >>> @norms.register
      ... @dataclasses.dataclass(frozen=True)
      ... class Half(RMS):
      ...     pass
      >>> specs_from_json(specs_to_json({"b": NormSpec(Half())}))["b"].norm
      Half()
    """
    if not (_is_ours(cls, Norm) or _is_ours(cls, Constraint)):
        raise ValueError(f"{cls!r} is no dataclass that derives from mo.Norm or mo.Constraint.")
    _REGISTERED[_qualified(cls)] = cls
    return cls


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def specs_to_json(specs: Any) -> str:
    """Text of a spec tree, one entry for each path, stable enough to be compared line by line.

    Args:
      specs: a spec tree, from `infer_specs`, `NormRegistry.resolve` or written by hand.

    Returns:
      JSON that `specs_from_json` reads.

    Raises:
      ValueError: no spec tree, or a norm or a constraint that is not of this package; names its path.

    Example:
      >>> specs = {"w": NormSpec(Spectral(), mass=0.5)}
      >>> specs_from_json(specs_to_json(specs)) == specs
      True
    """
    flat, _ = spec_leaves("specs_to_json", specs)
    entries = {path: _entry(path, spec) for path, spec in flat if not is_absent(spec)}
    return json.dumps({"version": _VERSION, "specs": entries}, indent=1)


def specs_from_json(text: str, params: Any = None) -> Any:
    """Spec tree that `specs_to_json` wrote.

    Args:
      text: what `specs_to_json` returned.
      params: parameters of the same paths, or a tree of `jax.ShapeDtypeStruct`: JSON keeps paths, not classes.

    Returns:
      A tree of the structure of `params`; without them, of nested dictionaries, which go by their paths everywhere.

    Raises:
      ValueError: not such a text; an entry that is no spec, by its path; paths that are not those of `params`, all
        that are missing or extra.

    Example:
      >>> specs = {"w": NormSpec(Spectral(), mass=0.5)}
      >>> specs_from_json(specs_to_json(specs), {"w": jnp.zeros((3, 2))})["w"].mass
      0.5
    """
    entries = _read(text)
    if params is None:
        for path in entries:
            if below := next((parent for parent in prefixes(path)[1:-1] if parent in entries), None):
                raise ValueError(f"{path}: its parent {below} is a spec, too.")
        return nested({path: _spec(path, entry) for path, entry in entries.items()}, ())
    flat, treedef = flatten_parameters(params)
    paths = {path for path, leaf in flat if not is_absent(leaf)}
    lines = [f"{path}: has no spec in the text" for path in sorted(paths - entries.keys())]
    lines += [f"{path}: is no parameter" for path in sorted(entries.keys() - paths)]
    advice = "The model has changed since the specs were saved: infer them again."
    refuse("path differs", "paths differ", lines, advice)
    return treedef.unflatten([leaf if is_absent(leaf) else _spec(path, entries[path]) for path, leaf in flat])


def _read(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, TypeError) as error:
        hint = "Pass the text itself, such as pathlib.Path(path).read_text()."
        raise ValueError(f"This is no JSON: {error}. {hint}") from None
    if not (
        isinstance(content, dict) and content.get("version") == _VERSION and isinstance(content.get("specs"), dict)
    ):
        raise ValueError(f"This is no spec tree of version {_VERSION}, as specs_to_json writes it.")
    return content["specs"]


def _entry(path: str, spec: NormSpec) -> dict[str, Any]:
    entry = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    for name, module in (("norm", _norms), ("constraint", _constraints)):
        entry[name] = _named(path, entry[name], module)
    entry["axes"] = None if spec.axes is None else dataclasses.asdict(spec.axes)
    return entry


def _named(path: str, value: Any, module: Any) -> dict[str, Any] | None:
    """A norm or a constraint as the name of its class and its arguments."""
    if value is None:
        return None
    cls, name = type(value), type(value).__name__
    if getattr(module, name, None) is not cls:
        name = _qualified(cls)
        if _REGISTERED.get(name) is not cls:
            raise ValueError(
                f"{path}: {value!r} is not one of this package's, and cannot be written to JSON before its class is "
                f"registered: write mo.norms.register({cls.__name__})."
            )
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    # the norm of each block
    return {"name": name} | {key: _named(path, x, module) if isinstance(x, Norm) else x for key, x in fields.items()}


def _spec(path: str, entry: Any) -> NormSpec:
    """The spec of one path, with errors that name it."""
    if isinstance(entry, dict) and "layers" not in entry:
        # older texts say atoms
        entry = {"layers" if name == "atoms" else name: value for name, value in entry.items()}
    fields = _fields(path, entry, NormSpec)
    fields["norm"] = _build(path, "norm", fields.get("norm"), _norms, Norm)
    if fields.get("constraint") is not None:
        fields["constraint"] = _build(path, "constraint", fields["constraint"], _constraints, Constraint)
    if fields.get("axes") is not None:
        fields["axes"] = _made(path, Axes, _fields(path, fields["axes"], Axes))
    return _made(path, NormSpec, fields)


def _build(path: str, what: str, entry: Any, module: Any, kind: type) -> Any:
    """The norm or the constraint that an entry names."""
    known = {cls.__name__: cls for cls in vars(module).values() if _is_ours(cls, kind)}
    known |= {name: cls for name, cls in _REGISTERED.items() if _is_ours(cls, kind)}
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"{path}: {what} must be one of {', '.join(sorted(known))}, as {_EXAMPLE}; got {entry!r}. One of another "
            "package is read after its module was imported and its class registered, by mo.norms.register."
        )
    rest = {
        key: _build(path, key, value, module, kind) if isinstance(value, dict) else value
        for key, value in entry.items()
        if key != "name"
    }
    return _made(path, known[name], _fields(path, rest, known[name]))


_EXAMPLE = '{"name": "..."}'


def _is_ours(value: Any, kind: type) -> bool:
    # the protocol itself and what else the module holds are none
    return isinstance(value, type) and dataclasses.is_dataclass(value) and kind in value.__mro__


def _fields(path: str, entry: Any, cls: type) -> dict[str, Any]:
    """Arguments of a class as an entry gives them; lists become tuples, for JSON has none and norms are hashable."""
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: {cls.__name__} must be an object of its fields; got {entry!r}.")
    known = [field.name for field in dataclasses.fields(cls)]
    extra = sorted(entry.keys() - set(known))
    if extra:
        raise ValueError(
            f"{path}: {cls.__name__} has no {', '.join(extra)}; its fields are {', '.join(known) or 'none'}. "
            "Infer the specs again if another version of this package saved them."
        )
    return {name: _frozen(value) for name, value in entry.items()}


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _made(path: str, cls: type, arguments: dict[str, Any]) -> Any:
    try:
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
