"""What a norm must know: itself, its dual, its steepest direction, its unit sphere."""

from typing import ClassVar, Protocol, runtime_checkable

import jax
from jaxtyping import DTypeLike, PRNGKeyArray

from modula_optax._axes import Axes
from modula_optax._canonical import Canonical, PerAtom


@runtime_checkable
class Norm(Protocol):
    """What a norm must know; write your own by giving these methods to a frozen, hashable dataclass."""

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

    def default_axes(self, ndim: int) -> Axes:
        """What `axes=None` means: here the last two axes, as `[fan_in, fan_out]`."""
        if ndim < 2:
            raise ValueError("needs at least two axes, [fan_in, fan_out]")
        return Axes(fan_in=ndim - 2, fan_out=ndim - 1)
