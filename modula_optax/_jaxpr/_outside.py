"""Primitives from outside: `register_primitive`, and how a program takes what it was told."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from modula_optax._checks import as_mass
from modula_optax._jax import Equation
from modula_optax._jaxpr._primitives import PRIMITIVES, Kind, Primitive, Slope

# control flow is taken apart, and has no row
_OURS = frozenset(PRIMITIVES) | {"scan", "while", "cond"}


def register_primitive(
    name: str,
    reference: Callable[..., Any] | None = None,
    *,
    slope: float | None = None,
    at_zero: float = 0.0,
    bound: float = math.inf,
) -> None:
    r"""Says what a primitive that JAX does not have does, such as a kernel of your own.

    `infer_specs`, with traced sensitivities or without, and `lipschitz_bound` read it from then on; before, they refuse
    parameters that go into it, and networks that it is a part of. One of two things answers all of them:

    - a `reference`, which computes the same with functions of JAX. It is read in the primitive's place: roles pass
      through its operations, and sensitivities and bounds follow them. It is traced, and never run.
    - a `slope`, if it is a function of one array that works entry by entry: :math:`|f(x) - f(y)| \le s \, |x - y|`. A
      parameter stays itself in other coordinates; the slope is sensitivity and Lipschitz constant.

    Args:
      name: of the primitive, as `primitive.name` says.
      reference: function of the operands, with the primitive's parameters as keywords; these tell kernels apart that
        share a primitive, as those of `"ffi_call"` do.
      slope: largest slope of the function, proven.
      at_zero: its absolute value at 0, which bounds of sizes start from.
      bound: its largest absolute value; infinite where it has none.

    Raises:
      ValueError: no name, or one of JAX's primitives; both of `reference` and `slope`, or neither; what is no function
        or no number.

    Example:
      >>> from jax.extend.core import Primitive
      >>> snake = Primitive("snake")  # x + sin(x)^2
      >>> _ = snake.def_abstract_eval(lambda x: x)
      >>> register_primitive("snake", slope=2.0)
      >>> round(lipschitz_bound(lambda p, x: snake.bind(x @ p), jnp.eye(3), jnp.ones((4, 3))), 3)
      2.0
    """
    if not (isinstance(name, str) and name):
        hint = ": write primitive.name" if hasattr(name, "name") else ""
        raise ValueError(f"name must be that of a primitive, as a string; got {name!r}{hint}.")
    if name in _OURS:
        raise ValueError(f"{name} is a primitive of JAX, which modula_optax knows: register primitives of your own.")
    if reference is not None and not callable(reference):
        hint = f": write slope={reference!r}" if isinstance(reference, int | float) else ""
        raise ValueError(f"reference of {name} must be a function of its operands; got {reference!r}{hint}.")
    if reference is not None and slope is None:
        PRIMITIVES[name] = Primitive(Kind.OUTSIDE, reference=reference)
    elif reference is None and slope is not None:
        largest = bound if bound == math.inf else as_mass("bound", bound)
        values = Slope(as_mass("slope", slope), as_mass("at_zero", at_zero), largest)
        PRIMITIVES[name] = Primitive(Kind.ENTRYWISE, values)
    else:
        raise ValueError(
            f"{name} needs a reference, which computes the same with functions of JAX, or the slope of a function that "
            f"works entry by entry, and not both: write mo.register_primitive({name!r}, slope=1.0), for example."
        )


def untold(problem: str, name: str) -> str:
    """A problem with a primitive, and what to write if that is because nothing is known of it."""
    if name in PRIMITIVES or name in _OURS:
        return problem
    return f"{problem}; mo.register_primitive({name!r}, ...) says what it computes"


def from_outside(eqn: Equation, calls: Sequence[Equation]) -> Any:
    """The jaxpr to read in the place of an equation, or `None` where its primitive is read as it is.

    Args:
      eqn: of a primitive that is in the table.
      calls: those that it was met in.

    Raises:
      ValueError: what was told of the primitive does not fit how it is used.
    """
    name, row = eqn.primitive.name, PRIMITIVES[eqn.primitive.name]
    if row.slope is None and row.reference is None:
        return None
    avals, expected = ([atom.aval for atom in atoms] for atoms in (eqn.invars, eqn.outvars))
    if row.slope is not None and [x.shape for x in avals] != [x.shape for x in expected]:
        raise ValueError(
            f"{name} was registered by its slope, as a function of one array that works entry by entry, but makes "
            f"{_shapes(expected)} of {_shapes(avals)}: register a reference in place of the slope."
        )
    if row.reference is None:
        return None
    if any(call.primitive.name == name for call in calls):
        raise ValueError(f"The reference of {name} computes with {name} itself: write it with functions of JAX.")
    reference = functools.partial(row.reference, **eqn.params)
    try:
        closed = jax.make_jaxpr(reference)(
            *(jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type) for x in avals)
        )
    except Exception as error:
        error.add_note(f"Raised by the reference of {name} that mo.register_primitive was given.")
        raise
    if [x.shape for x in closed.out_avals] != [x.shape for x in expected]:
        raise ValueError(
            f"The reference of {name} makes {_shapes(closed.out_avals)} of {_shapes(avals)}, where {name} makes "
            f"{_shapes(expected)}: register one that computes the same."
        )
    return closed


def _shapes(avals: Sequence[Any]) -> str:
    return " and ".join(f"{x.dtype}{list(x.shape)}" for x in avals) or "nothing"
