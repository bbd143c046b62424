"""Arguments of what makes transformations: refused at once where another was meant, in a line."""

import inspect
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from modula_optax._checks import FINITE, Kind, as_float, is_number
from modula_optax._norms import Norm
from modula_optax._paths import is_array, kind_of
from modula_optax._specs import NormSpec


def check_rates(function: str, **values: Any) -> None:
    """Refuses what is neither a finite number nor a schedule, a function from the number of a step to a number."""
    for name, value in values.items():
        if _is_of(FINITE, value) or _is_schedule(f"{name} of {function}", value):
            continue
        hint = f" The specs come second: write mo.{function}(0.05, specs)." if holds_specs(value) else ""
        raise ValueError(f"{name} of {function} must be a finite number or a schedule; got {in_words(value)}.{hint}")


def _is_schedule(name: str, value: Any) -> bool:
    """Whether a value may be a schedule, of which those are refused that give no number."""
    if not callable(value) or isinstance(value, type | Norm):
        return False
    try:
        inspect.signature(value).bind(0)
    except TypeError:
        return False
    except ValueError:
        pass  # a function that does not tell what it takes
    try:
        given = jax.eval_shape(value, jax.ShapeDtypeStruct((), jnp.int32))
    except Exception:  # one that asks for the number of the step in Python tells nothing before
        return True
    if not is_array(given) or given.shape or not jnp.issubdtype(given.dtype, jnp.number):
        raise ValueError(f"{name} must be one number for every step; its schedule gives {kind_of(given)}.")
    return True


def check_numbers(function: str, kind: Kind, **values: Any) -> None:
    """Refuses what is no number of a kind; schedules, too, with what makes numbers follow them."""
    for name, value in values.items():
        if _is_of(kind, value):
            continue
        hint = ""
        if callable(value):
            hint = (
                f" For one that follows a schedule, wrap the optimizer:\noptax.inject_hyperparams(mo.{function})"
                f"(..., {name}=schedule)."
            )
        raise ValueError(f"{name} of {function} must be {kind.words}; got {in_words(value)}.{hint}")


def _is_of(kind: Kind, value: Any) -> bool:
    # arrays may be traced, or rounded to the dtype of the parameters, as `optax.inject_hyperparams` makes them
    return is_number(value) and (isinstance(value, jax.Array) or kind.holds(as_float(value)))


def check_dtype(name: str, value: Any) -> None:
    """Refuses what no average can be kept in."""
    try:
        fits = value is None or jnp.issubdtype(jnp.dtype(value), jnp.inexact)
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must be a floating-point dtype, such as jnp.float32, or None; got {in_words(value)}.")


def check_mesh_axes(value: Any) -> None:
    """Refuses what is no sequence of names."""
    if value is not None and (isinstance(value, str) or not isinstance(value, Collection)):
        raise ValueError(f"mesh_axes must be names of axes, such as ('data',), or None; got {in_words(value)}.")


def check_transformation(name: str, value: Any, example: str) -> None:
    """Refuses what is no transformation of Optax."""
    if isinstance(value, optax.GradientTransformation):
        return
    raise ValueError(f"{name} must be a transformation, as in {example}; got {in_words(value)}.")


def check_specs(specs: Any, usage: str = "mo.modular(0.05, specs)") -> None:
    """Refuses what can never be specs, of whatever parameters."""
    hint = f"write {usage}"
    if isinstance(specs, type):
        hint = f"write NormSpec({specs.__name__}())" if Norm in specs.__mro__ else "make one"
    elif isinstance(specs, Norm):
        hint = f"write NormSpec({specs!r})"
    elif isinstance(specs, str | bytes):
        hint = "write specs_from_json(text)"
    elif _is_rule(specs) or (isinstance(specs, list | tuple) and specs and all(map(_is_rule, specs))):
        hint = "write NormRegistry(Rule(...), Rule(...))"
    elif not (isinstance(specs, optax.GradientTransformation) or specs is None or is_number(specs)):
        return
    raise ValueError(
        f"specs must be a spec tree, a NormRegistry or a function from parameters to a spec tree; got "
        f"{in_words(specs)}: {hint}."
    )


def _is_rule(value: Any) -> bool:
    # the class stands in a module above this one
    return type(value).__name__ == "Rule" and isinstance(getattr(value, "spec", None), NormSpec)


def _is_registry(value: Any) -> bool:
    # its class stands in a module above this one, too
    return callable(getattr(value, "resolve", None)) and hasattr(value, "rules")


def holds_specs(value: Any) -> bool:
    """Whether these are specs of any kind."""
    return _is_registry(value) or any(isinstance(leaf, NormSpec) for leaf in jax.tree.leaves(value))


def in_words(value: Any) -> str:
    """What an argument is, without printing a whole tree."""
    if isinstance(value, optax.GradientTransformation):
        return "a transformation"
    if _is_registry(value):
        return "a NormRegistry"
    if holds_specs(value):
        return "a NormSpec" if isinstance(value, NormSpec) else "a spec tree"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, jax.Array) or hasattr(value, "__array__"):
        return f"an array of shape {tuple(value.shape)}" if hasattr(value, "shape") else "an array"
    if callable(value) and not isinstance(value, Norm):
        return f"the function {getattr(value, '__name__', '')}".rstrip()
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
