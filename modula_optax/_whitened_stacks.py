"""The matrices that a learned metric is for: those of one shape as one stack, and what is known of it at first."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike

from modula_optax._align import Leaf
from modula_optax._layout import atoms, atoms_shape, restored
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
      members: the parameters.
    """

    norm: Norm | None
    shape: tuple[int, int]
    members: list[Leaf]


def takes_operators(spec: NormSpec) -> bool:
    """Whether the norm of a parameter takes its matrices as operators: these are whitened."""
    return isinstance(spec.norm, Spectral | SpectralNormalized | Frobenius)


def grouped(leaves: Sequence[Leaf], follows: Callable[[NormSpec], Norm | None]) -> dict[str, Group]:
    """The parameters that are whitened, by the shape of their matrices and what follows, under names for a state."""
    found = defaultdict(list)
    for leaf in leaves:
        if takes_operators(leaf.spec):
            found[follows(leaf.spec), _shape(leaf)[2:]].append(leaf)
    groups: dict[str, Group] = {}
    for (norm, shape), members in found.items():
        name = f"{shape[0]}x{shape[1]}"
        alike = sum(group.shape == shape for group in groups.values())
        groups[f"{name}-{alike + 1}" if alike else name] = Group(norm, shape, members)
    return groups


def _shape(leaf: Leaf) -> tuple[int, int, int, int]:
    """That of the atoms of a parameter: how many there are, their taps, fan-in and fan-out."""
    return atoms_shape(leaf.spec, leaf.value.shape)


def _count(leaf: Leaf) -> int:
    """How many matrices a parameter is a stack of."""
    return math.prod(_shape(leaf)[:2])


def start(group: Group, mu_dtype: DTypeLike | None, max_size: int, axes: tuple[str, ...]) -> Metric:
    """The metric of a group of which nothing is known, shared out over these axes of the mesh.

    On a mesh it has as many rows as fill the devices, so that each keeps what it works on.
    """
    count = sum(map(_count, group.members))
    rows = filled(count, group.shape, axes) if axes else count
    dtypes = [jax.dtypes.canonicalize_dtype(leaf.value.dtype) for leaf in group.members]
    dtype = jnp.result_type(*map(working_dtype, dtypes))
    kept = jnp.result_type(*dtypes) if mu_dtype is None else mu_dtype
    return batched_over(
        axes, rows, lambda: first_metric((rows, *group.shape), dtype, kept, max_size, group.norm is None)
    )


def gathered(group: Group, arrays: dict[str, Array], metric: Metric, axes: tuple[str, ...]) -> Matrices:
    """The matrices of a group as one stack, as long as its metric and in the dtype of that."""
    stacks = (atoms(arrays[leaf.path], leaf.spec).astype(metric.scale.dtype) for leaf in group.members)
    return joined([(x.reshape(-1, *group.shape),) for x in stacks], len(metric.scale), axes)[0]


def taken_apart(group: Group, stack: Matrices, axes: tuple[str, ...]) -> dict[str, Array]:
    """Inverse of `gathered`; where a dual map was taken, as long as the specs say."""
    pieces = {}
    for leaf, piece in zip(group.members, apart(stack, list(map(_count, group.members)), axes), strict=True):
        taps = _shape(leaf)[1]
        # a direction of norm one is that of each tap, over their number
        scale = 1.0 if group.norm is None else leaf.spec.target / taps
        pieces[leaf.path] = restored(piece.reshape(-1, taps, *group.shape), leaf.spec, leaf.value, scale)
    return pieces
