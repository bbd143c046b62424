"""The matrices that a learned metric is for: those of one shape as one stack, and what is known of it at first."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike

from modula_optax._align import Leaf
from modula_optax._layout import atoms, restored
from modula_optax._linalg import working_dtype
from modula_optax._mesh import batched_over
from modula_optax._metric import Matrices, Metric, first_metric
from modula_optax._norms import Frobenius, Norm, Spectral, SpectralNormalized
from modula_optax._specs import NormSpec
from modula_optax._stacks import apart, filled, joined


class Group(NamedTuple):
    """Parameters whose matrices are worked on together.

    Attributes:
      norm: that of the dual map which follows in the same visit; `None`: none does.
      shape: of a matrix.
      members: numbers of the parameters.
    """

    norm: Norm | None
    shape: tuple[int, int]
    members: list[int]


def takes_operators(spec: NormSpec) -> bool:
    """Whether the norm of a parameter takes its matrices as operators: these are whitened."""
    return isinstance(spec.norm, Spectral | SpectralNormalized | Frobenius)


def grouped(leaves: Sequence[Leaf], follows: Callable[[NormSpec], Norm | None]) -> dict[str, Group]:
    """The parameters that are whitened, by the shape of their matrices and what follows, under names for a state."""
    found = defaultdict(list)
    for i, leaf in enumerate(leaves):
        if takes_operators(leaf.spec):
            found[follows(leaf.spec), _atom(leaf)[1:]].append(i)
    groups: dict[str, Group] = {}
    for (norm, shape), members in found.items():
        name = f"{shape[0]}x{shape[1]}"
        alike = sum(group.shape == shape for group in groups.values())
        groups[f"{name}-{alike + 1}" if alike else name] = Group(norm, shape, members)
    return groups


def _atom(leaf: Leaf) -> tuple[int, int, int]:
    """Taps, fan-in and fan-out."""
    like = jax.ShapeDtypeStruct(leaf.value.shape, leaf.value.dtype)
    return jax.eval_shape(lambda x: atoms(x, leaf.spec), like).shape[1:]


def _count(leaf: Leaf) -> int:
    """How many matrices a parameter is a stack of."""
    return math.prod(leaf.value.shape) // math.prod(_atom(leaf)[1:])


def start(
    leaves: Sequence[Leaf], group: Group, mu_dtype: DTypeLike | None, max_size: int, axes: tuple[str, ...]
) -> Metric:
    """The metric of a group of which nothing is known, shared out over these axes of the mesh.

    On a mesh it has as many rows as fill the devices, so that each keeps what it works on.
    """
    values = [leaves[i].value for i in group.members]
    count = sum(_count(leaves[i]) for i in group.members)
    rows = filled(count, group.shape, axes) if axes else count
    dtype = jnp.result_type(*(working_dtype(x.dtype) for x in values))
    kept = jnp.result_type(*(x.dtype for x in values)) if mu_dtype is None else mu_dtype
    return batched_over(axes, rows, lambda: first_metric((rows, *group.shape), dtype, kept, max_size))


def gathered(
    leaves: Sequence[Leaf], group: Group, arrays: dict[int, Array], metric: Metric, axes: tuple[str, ...]
) -> Matrices:
    """The matrices of a group as one stack, as long as its metric and in the dtype of that."""
    items = [(atoms(arrays[i], leaves[i].spec).astype(metric.scale.dtype),) for i in group.members]
    return joined([(x.reshape(-1, *group.shape),) for (x,) in items], len(metric.scale), axes)[0]


def taken_apart(leaves: Sequence[Leaf], group: Group, stack: Matrices, axes: tuple[str, ...]) -> dict[int, Array]:
    """Inverse of `gathered`; where a dual map was taken, as long as the specs say."""
    members = [leaves[i] for i in group.members]
    pieces = {}
    for i, leaf, piece in zip(group.members, members, apart(stack, list(map(_count, members)), axes), strict=True):
        taps = _atom(leaf)[0]
        # a direction of norm one is that of each tap, over their number
        scale = 1.0 if group.norm is None else leaf.spec.target / taps
        pieces[i] = restored(piece.reshape(-1, taps, *group.shape), leaf.spec, leaf.value, scale)
    return pieces
