"""The matrices that a learned metric is for: those of one shape as one stack, and what is known of it at first."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike

from modula_optax._align import Leaf, atoms, restored
from modula_optax._canonical import Stack
from modula_optax._linalg import working_dtype
from modula_optax._mesh import batched_over
from modula_optax._metric import Metric, first_metric
from modula_optax._norms import Frobenius, Norm, Spectral, SpectralNormalized
from modula_optax._specs import NormSpec
from modula_optax._stacks import apart, filled, joined


class Group(NamedTuple):
    """Parameters whose matrices are worked on together.

    Attributes:
      norm: that of the dual map which follows in the same visit; `None`: none does.
      shape: of an atom.
      members: numbers of the parameters.
    """

    norm: Norm | None
    shape: tuple[int, ...]
    members: list[int]


def takes_operators(spec: NormSpec) -> bool:
    """Whether the norm of a parameter takes its matrices as operators: these are whitened."""
    return isinstance(spec.norm, Spectral | SpectralNormalized | Frobenius)


def grouped(leaves: Sequence[Leaf], follows: Callable[[NormSpec], Norm | None]) -> dict[str, Group]:
    """The parameters that are whitened, by the shape of their matrices and what follows, under names for a state."""
    found = defaultdict(list)
    for i, leaf in enumerate(leaves):
        if takes_operators(leaf.spec):
            found[follows(leaf.spec), _shape(leaf)].append(i)
    groups: dict[str, Group] = {}
    for (norm, shape), members in found.items():
        name = "x".join(map(str, shape[shape[0] == 1 :]))
        alike = sum(group.shape == shape for group in groups.values())
        groups[f"{name}-{alike + 1}" if alike else name] = Group(norm, shape, members)
    return groups


def _shape(leaf: Leaf) -> tuple[int, ...]:
    like = jax.ShapeDtypeStruct(leaf.value.shape, leaf.value.dtype)
    return jax.eval_shape(lambda x: atoms(x, leaf.spec), like).shape[1:]


def _count(leaf: Leaf, group: Group) -> int:
    """How many atoms a parameter is a stack of."""
    return math.prod(leaf.value.shape) // math.prod(group.shape)


def start(
    leaves: Sequence[Leaf], group: Group, mu_dtype: DTypeLike | None, max_size: int, axes: tuple[str, ...]
) -> Metric:
    """The metric of a group of which nothing is known, shared out over these axes of the mesh.

    On a mesh it has as many rows as fill the devices, so that each keeps what it works on.
    """
    values = [leaves[i].value for i in group.members]
    count = sum(_count(leaves[i], group) for i in group.members)
    rows = filled(count, group.shape, axes) if axes else count
    dtype = jnp.result_type(*(working_dtype(x.dtype) for x in values))
    kept = jnp.result_type(*(x.dtype for x in values)) if mu_dtype is None else mu_dtype
    return batched_over(axes, rows, lambda: first_metric((rows, *group.shape), dtype, kept, max_size))


def gathered(
    leaves: Sequence[Leaf], group: Group, arrays: dict[int, Array], metric: Metric, axes: tuple[str, ...]
) -> Stack:
    """The matrices of a group as one stack, as long as its metric and in the dtype of that."""
    rows, dtype = metric.scale.shape[0], metric.scale.dtype
    return joined([(atoms(arrays[i], leaves[i].spec).astype(dtype),) for i in group.members], rows, axes)[0]


def taken_apart(leaves: Sequence[Leaf], group: Group, stack: Stack, axes: tuple[str, ...]) -> dict[int, Any]:
    """Inverse of `gathered`; where a dual map was taken, as long as the specs say."""
    members = [leaves[i] for i in group.members]
    lengths = [_count(leaf, group) for leaf in members]
    return {
        i: restored(piece, leaf.spec, leaf.value, 1.0 if group.norm is None else leaf.spec.target)
        for i, leaf, piece in zip(group.members, members, apart(stack, lengths, axes), strict=True)
    }
