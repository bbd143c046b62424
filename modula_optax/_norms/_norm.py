"""What a norm must know: itself, its dual, its steepest direction, its unit sphere."""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Protocol, runtime_checkable

import jax
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from modula_optax._axes import Axes
from modula_optax._canonical import Canonical, PerAtom
from modula_optax._gram_form import Multiplier


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

    def multiplier_for(self, g: Canonical) -> Multiplier | None:
        """Where `dualize` is a product with what the Gram matrix of the smaller side says: how that is found.

        `g` gives a shape and a dtype; `None` says that there is no such way.
        """
        del g
        return None

    def project(self, w: Canonical) -> Canonical:
        """A retraction to the unit sphere: same direction where the norm leaves a choice; 0 for 0."""
        ...

    def initialize(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Canonical:
        """A random atom of norm one."""
        return made_of_gaussian(self.project, key, shape, dtype)

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


def made_of_gaussian(
    make: Callable[[Canonical], Canonical], key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike
) -> Canonical:
    """What is made of normal random numbers, the first of a power of two: these take longer to compile than the rest.

    The numbers of `jax.random.normal`, where bits do not depend on how many there are, as they do not by default.
    """
    count = max(_FEWEST, 1 << (math.prod(shape) - 1).bit_length())
    return _made(make, shape, _normal(key, count, jax.dtypes.canonicalize_dtype(dtype)))


# a millisecond's worth
_FEWEST = 2**16


# `inline`, here and below: outside of `jit` compiled once
@partial(jax.jit, static_argnums=(1, 2), inline=True)
def _normal(key: PRNGKeyArray, count: int, dtype: DTypeLike) -> Float[Array, " count"]:
    return jax.random.normal(key, (count,), dtype)


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def _made(make: Callable[[Canonical], Canonical], shape: tuple[int, ...], numbers: Float[Array, " count"]) -> Canonical:
    return make(numbers[: math.prod(shape)].reshape(shape))
