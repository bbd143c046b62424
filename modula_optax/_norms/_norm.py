"""What a norm must know: itself, its dual, its steepest direction, its unit sphere."""

from typing import ClassVar, Protocol, runtime_checkable

import jax
from jaxtyping import DTypeLike, PRNGKeyArray

from modula_optax._axes import Axes
from modula_optax._canonical import Canonical, PerAtom


@runtime_checkable
class Norm(Protocol):
    """What a norm must know; write your own as a frozen, hashable dataclass that derives from this.

    It has to define `norm`, `dual_norm`, `dualize` and `project`. Arrays are canonical,
    `[*batch, taps, fan_in, fan_out]`, in float32 or float64; every index into the batch is an atom.
    """

    measures_singular_values: ClassVar[bool] = False
    """Whether the norm is one of singular values, which constraints such as `SpectralCap` bound."""
    is_largest_singular_value: ClassVar[bool] = False
    """Whether it is the largest singular value, in units of `Spectral`: `monitor` then needs no decomposition."""
    takes_vectors: ClassVar[bool] = False
    """Whether atoms are vectors: biases and gains, to which constraints on matrices do not apply."""
    looks_up_rows: ClassVar[bool] = False
    """Whether the rows of an atom are looked up one by one, as those of a table are."""
    round_along: ClassVar[tuple[int, ...]] = ()
    """The axes of an atom over which the unit sphere is a Euclidean one, such as (-2, -1), if it is."""
    # whether dual maps are so much work that they are done in turns, and on several devices each has atoms to itself
    expensive: ClassVar[bool] = False

    def norm(self, w: Canonical) -> PerAtom:
        """Norm of every atom."""
        ...

    def dual_norm(self, g: Canonical) -> PerAtom:
        """Largest inner product of `g` with an atom of norm one."""
        ...

    def dualize(self, g: Canonical) -> Canonical:
        """The atom of norm one with the largest inner product with `g`; 0 for 0."""
        ...

    def project(self, w: Canonical) -> Canonical:
        """A retraction to the unit sphere: same direction where the norm leaves a choice; 0 for 0."""
        ...

    def initialize(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Canonical:
        """A random atom of norm one."""
        return self.project(jax.random.normal(key, shape, dtype))

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Why this cannot be the norm of atoms of these taps, fan-in and fan-out; `None` if it can."""
        return None

    def default_axes(self, ndim: int) -> Axes:
        """What `axes=None` means: the last two axes, as `[fan_in, fan_out]`, or for norms of vectors all of them."""
        if self.takes_vectors:
            return Axes(fan_in=(), fan_out=tuple(range(ndim)))
        if ndim < 2:
            raise ValueError("needs at least two axes, [fan_in, fan_out]")
        return Axes(fan_in=ndim - 2, fan_out=ndim - 1)
