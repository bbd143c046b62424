"""Blocks of outputs that are matrices of their own, of several sizes."""

import dataclasses
import itertools
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike, PRNGKeyArray

from modula_optax._canonical import Canonical, PerAtom
from modula_optax._checks import is_count, set_fields
from modula_optax._norms._norm import Norm


@dataclasses.dataclass(frozen=True)
class Blocks(Norm):
    r"""The largest norm of blocks of outputs, each a matrix of its own.

    .. math:: \|w\| = \max_i \|w_i\|, \qquad w = [w_1, w_2, \ldots]

    For fused kernels whose blocks differ in size, as those of grouped queries, keys and values do. Blocks of one size
    are `Axes(groups=...)`, which is as much and takes fewer operations.

    Args:
      each: the norm of each block.
      sizes: how many outputs each block has, in order.

    Raises:
      ValueError: `each` is no norm of matrices, or `sizes` are no positive integers.

    Example:
      >>> step = norms.Blocks(Spectral(), (32, 8, 8)).dualize(jnp.ones((1, 16, 48)))
      >>> [round(float(Spectral().norm(block)), 2) for block in jnp.split(step, (32, 40), axis=-1)]
      [1.0, 1.0, 1.0]
    """

    each: Norm
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if isinstance(self.each, type) or not isinstance(self.each, Norm) or self.each.takes_vectors:
            raise ValueError(f"each must be a norm of matrices such as Spectral(); got {self.each!r}.")
        sizes = tuple(self.sizes) if isinstance(self.sizes, Iterable) else ()
        if not sizes or not all(map(is_count, sizes)):
            raise ValueError(f"sizes must be positive integers, such as (32, 8, 8); got {self.sizes!r}.")
        set_fields(self, sizes=tuple(map(operator.index, sizes)), expensive=self.each.expensive)

    def norm(self, w: Canonical) -> PerAtom:
        return jnp.max(jnp.stack([self.each.norm(block) for block in self._cut(w)]), 0)

    def dual_norm(self, g: Canonical) -> PerAtom:
        return jnp.sum(jnp.stack([self.each.dual_norm(block) for block in self._cut(g)]), 0)

    def dualize(self, g: Canonical) -> Canonical:
        return jnp.concatenate([self.each.dualize(block) for block in self._cut(g)], -1)

    def project(self, w: Canonical) -> Canonical:
        return jnp.concatenate([self.each.project(block) for block in self._cut(w)], -1)

    def initialize(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Canonical:
        keys = jax.random.split(key, len(self.sizes))
        blocks = zip(keys, self.sizes, strict=True)
        return jnp.concatenate([self.each.initialize(k, (*shape[:-1], size), dtype) for k, size in blocks], -1)

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        outputs = shape[-1]
        if sum(self.sizes) == outputs:
            return None
        return f"has blocks of {' + '.join(map(str, self.sizes))} outputs, and there are {outputs}"

    def _cut(self, w: Canonical) -> list[Canonical]:
        return jnp.split(w, list(itertools.accumulate(self.sizes))[:-1], axis=-1)
