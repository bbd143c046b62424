"""Constraints: where `project` puts the weights of a parameter back after a step."""

import dataclasses
from typing import Protocol, runtime_checkable

from modula_optax._norms import Canonical, Norm


@runtime_checkable
class Constraint(Protocol):
    """A set of weights and the way back to it."""

    def retract(self, norm: Norm, w: Canonical) -> Canonical:
        """Weights in the set, near `w`; `w` itself where it is in the set."""
        ...


@dataclasses.dataclass(frozen=True)
class UnitSphere:
    """Weights of atomic norm one: orthogonal matrices under `Spectral`, rows of RMS one under `Embedding`.

    Example:
      >>> spec = NormSpec(Embedding(), constraint=UnitSphere())
      >>> project({"table": jnp.array([[3.0, -3.0]])}, {"table": spec})["table"].round(3)
      Array([[ 1., -1.]], dtype=float32)

    References:
      Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265.
    """

    def retract(self, norm: Norm, w: Canonical) -> Canonical:
        return norm.project(w)
