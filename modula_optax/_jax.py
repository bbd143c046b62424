"""What depends on the version of JAX: every entry says for which versions it is there, and nothing else does.

Jaxprs are read by what they have, not by their classes, which moved between modules and became one. Parameters of
primitives change from one release to the next, too: everything here either knows a form or raises `UnfamiliarError`,
which the interpreters take as "not known" - never a `KeyError` at a user's.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import jax


class Equation(Protocol):
    """An operation of a jaxpr, as much of it as is read."""

    primitive: Any
    params: dict[str, Any]
    invars: Sequence[Any]
    outvars: Sequence[Any]
    source_info: Any


class Jaxpr(Protocol):
    """A jaxpr, as much of it as is read."""

    constvars: Sequence[Any]
    invars: Sequence[Any]
    outvars: Sequence[Any]
    eqns: Sequence[Any]


# what a rule raises where parameters have another form than the one it was written for
_OTHER_FORMS = (AttributeError, IndexError, KeyError, TypeError, ValueError)


class UnfamiliarError(ValueError):
    """A primitive has other parameters than those that are known here; `reason` follows its name in the message."""

    def __init__(self, primitive: str, problem: str):
        self.reason = (
            f"{problem} in jax {jax.__version__}, a version whose {primitive} this modula_optax does not know "
            "(please open an issue that names it)"
        )
        super().__init__(f"{primitive} {self.reason}")


@contextmanager
def familiar(primitive: str) -> Iterator[None]:
    """Whatever a rule of a primitive stumbles over is told as `UnfamiliarError`, with its cause."""
    try:
        yield
    except UnfamiliarError:
        raise
    except _OTHER_FORMS as error:
        problem = f"has parameters of another form ({type(error).__name__}: {error})"
        raise UnfamiliarError(primitive, problem) from error


class Params(dict[str, Any]):
    """Parameters of an equation, where one that is missing is told by the primitive's name and JAX's version."""

    def __init__(self, primitive: str, params: Mapping[str, Any]):
        super().__init__(params)
        self.primitive = primitive

    def __missing__(self, name: str) -> Any:
        has = ", ".join(self) or "none"
        raise UnfamiliarError(self.primitive, f"has no parameter {name!r} (its parameters are {has})")


def params_of(eqn: Equation) -> Params:
    """The parameters of an equation."""
    return Params(eqn.primitive.name, eqn.params)


def is_jaxpr(value: Any) -> bool:
    """Whether a parameter of an equation is what the equation calls."""
    return hasattr(value, "eqns")


def is_literal(atom: Any) -> bool:
    """Whether an operand is a number that stands in the jaxpr."""
    return hasattr(atom, "val")


def opened(jaxpr: Any) -> tuple[Jaxpr, list[Any]]:
    """A jaxpr, and the values of its `constvars`.

    Up to jax 0.10 a closed jaxpr is a pair of a jaxpr and constants, and a jaxpr alone has none; since 0.11 both are
    of one class, which holds its constants itself.
    """
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


class ScanCounts(NamedTuple):
    """How the operands of a `scan` follow each other: constants, then carries, then stacks to slice."""

    consts: int
    carries: int


def scan_counts(eqn: Equation) -> ScanCounts:
    """Counts of the operands of a `scan`: numbers up to jax 0.10, lengths of a tree of three since 0.11."""
    params = params_of(eqn)
    if "num_consts" in params:
        return ScanCounts(params["num_consts"], params["num_carry"])
    consts, carries, stacks = map(len, params["ft_in"].unpack())
    if consts + carries + stacks != len(eqn.invars):
        raise UnfamiliarError("scan", f"has {len(eqn.invars)} operands, described by {params['ft_in']!r}")
    return ScanCounts(consts, carries)


def frames(eqn: Equation) -> Iterator[tuple[str, int, str]]:
    """File, line and function of every call that an equation was written in, the innermost first; without, nothing."""
    for frame in getattr(getattr(eqn.source_info, "traceback", None), "frames", ()):
        yield frame.file_name, frame.line_num, frame.function_name


def is_transposed(eqn: Equation) -> bool:
    """Whether an equation is of the backward pass of a gradient: JAX notes it in the stack of names, so far in all."""
    return "transpose(" in str(getattr(eqn.source_info, "name_stack", ""))
