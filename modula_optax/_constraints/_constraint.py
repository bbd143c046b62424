"""What a constraint must know, and what it is told of the step that it comes after."""

from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float

from modula_optax._canonical import Stack
from modula_optax._norms import Norm


class Step(NamedTuple):
    """The step that led to every atom, as arrays of a number for each.

    Attributes:
      learning_rate: that of the step; 0 where `project` is called without one.
      weight_decay: that of the step; 0 where `project` is called without one.
      target: atomic norm of a step of learning rate 1; see `NormSpec.target`.
    """

    learning_rate: Float[Array, " n"]
    weight_decay: Float[Array, " n"]
    target: Float[Array, " n"]


@runtime_checkable
class Constraint(Protocol):
    """A set of weights and the way back to it; write your own as a frozen, hashable dataclass that derives from this.

    Every method works on stacks of atoms, `[n, taps, fan_in, fan_out]`, each atom on its own: the atoms of several
    parameters may stand in one stack.
    """

    needs_learning_rate: ClassVar[bool] = False
    """Whether `retract` reads the learning rate, so that a chain must say what it is."""

    def misfit(self, norm: Norm, shape: tuple[int, int, int]) -> str | None:
        """Why atoms of this norm and shape (taps, fan_in, fan_out) cannot be held, and what to write instead."""
        del norm, shape
        return None

    def init(self, norm: Norm, w: Stack) -> Any:
        """What to remember of weights from step to step: a tree of arrays `[n, ...]`, here nothing."""
        del norm, w
        return ()

    def retract(self, norm: Norm, w: Stack, memory: Any, step: Step) -> tuple[Stack, Any]:
        """Weights in the set, near `w`, and what to remember of them; `w` itself where it is in the set."""
        ...

    def is_expensive(self, norm: Norm) -> bool:
        """Whether `retract` costs so much that it is done in turns, and shared out over devices."""
        return norm.expensive


@runtime_checkable
class Manifold(Constraint, Protocol):
    """A constraint along which steps are taken: smooth, so that its directions at a weight are a linear space."""

    def tangent(self, norm: Norm, w: Stack, g: Stack) -> Stack:
        """The direction of norm one (at most) along the set at `w` with the largest inner product with `g`."""
        ...


def needs_spectral(constraint: Constraint, norm: Norm) -> str | None:
    """Misfit of a constraint on singular values whose radius is in units of `Spectral`, for its method `misfit`.

    Args:
      constraint: the constraint itself.
      norm: that of the atoms.

    Returns:
      Why the norm does not suit, and what to write instead; `None` if it does.

    Example:
      >>> constraints.needs_spectral(SpectralCap(), RMS())
      'SpectralCap(radius=1.0) is about singular values, which RMS() does not measure; write NormBall(1.0)'
    """
    if norm.measures_singular_values:
        return None
    ball = f"NormBall({getattr(constraint, 'radius', 1.0)})"
    instead = ball if norm.takes_vectors else f"Spectral() or {ball}"
    return f"{constraint!r} is about singular values, which {norm!r} does not measure; write {instead}"


def needs_matrices(constraint: Constraint, norm: Norm) -> str | None:
    """Misfit of a constraint on matrices, for its method `misfit`.

    Args:
      constraint: the constraint itself.
      norm: that of the atoms.

    Returns:
      Why the norm does not suit, and what to write instead; `None` if it does.

    Example:
      >>> constraints.needs_matrices(Orthogonal(), RMS())
      'Orthogonal() is about matrices, and RMS() takes vectors; write UnitSphere()'
    """
    if not norm.takes_vectors:
        return None
    return f"{constraint!r} is about matrices, and {norm!r} takes vectors; write UnitSphere()"
