"""Spheres: weights of norm one, whatever step led to them."""

import dataclasses
import math

from modula_optax._canonical import Stack
from modula_optax._constraints._constraint import Constraint, Step, needs_matrices
from modula_optax._linalg import unit
from modula_optax._norms import Norm, Spectral


@dataclasses.dataclass(frozen=True)
class UnitSphere(Constraint):
    r"""Weights of atomic norm one: orthogonal matrices under `Spectral`, rows of RMS one under `Embedding`.

    .. math:: W \mapsto \text{project}(W), \qquad \|\text{project}(W)\| = 1

    Example:
      >>> spec = NormSpec(Embedding(), constraint=UnitSphere())
      >>> project({"table": jnp.array([[3.0, -3.0]])}, {"table": spec})["table"].round(3)
      Array([[ 1., -1.]], dtype=float32)

    References:
      Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265.
    """

    def retract(self, norm: Norm, w: Stack, memory: tuple[()], step: Step) -> tuple[Stack, tuple[()]]:
        return norm.project(w), memory


@dataclasses.dataclass(frozen=True)
class Orthogonal(Constraint):
    r"""Matrices with all singular values equal, of spectral norm one, whatever norm their steps have.

    .. math:: W = U S V^\top \mapsto \sqrt{d_{out} / d_{in}} \; U V^\top

    The unit sphere of `Spectral`; see `Stiefel` for steps along it.

    Example:
      >>> spec = NormSpec(Frobenius(), constraint=Orthogonal())
      >>> project({"w": jnp.diag(jnp.array([3.0, 0.2]))}, spec)["w"].round(3)
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Bernstein & Newhouse, Modular Duality in Deep Learning, arXiv:2410.21265.
    """

    def misfit(self, norm: Norm, shape: tuple[int, int, int]) -> str | None:
        return needs_matrices(self, norm)

    def retract(self, norm: Norm, w: Stack, memory: tuple[()], step: Step) -> tuple[Stack, tuple[()]]:
        return Spectral().project(w), memory

    def is_expensive(self, norm: Norm) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class UnitRows(Constraint):
    r"""Rows (the outputs of one input) of RMS one, whatever norm their steps have: lookup tables, tied ones too.

    .. math:: w_i \mapsto w_i / \text{RMS}(w_i)

    Example:
      >>> spec = NormSpec(Sign(), constraint=UnitRows())
      >>> project({"table": jnp.array([[3.0, -3.0]])}, spec)["table"].round(3)
      Array([[ 1., -1.]], dtype=float32)

    References:
      Large et al., Scalable Optimization in the Modular Norm, arXiv:2405.14813.
    """

    def retract(self, norm: Norm, w: Stack, memory: tuple[()], step: Step) -> tuple[Stack, tuple[()]]:
        return math.sqrt(w.shape[-1]) * unit(w, -1), memory

    def is_expensive(self, norm: Norm) -> bool:
        return False
