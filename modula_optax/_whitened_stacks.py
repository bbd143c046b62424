"""The matrices that a learned metric is for: what is known of those of one shape, and a visit to each of them."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike

from modula_optax._align import Leaf
from modula_optax._layout import atoms, atoms_shape, restored
from modula_optax._linalg import working_dtype
from modula_optax._mesh import batched_over
from modula_optax._metric import Matrices, Metric, Step, first_metric, steepest, whitened
from modula_optax._norms import Frobenius, Norm, Spectral, SpectralNormalized
from modula_optax._specs import NormSpec
from modula_optax._stacks import apart, apply_alike, apply_beside, filled, joined

# by path
Arrays = dict[str, Array]


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


def visited(
    groups: dict[str, Group], gradients: Arrays, metrics: dict[str, Metric], numbers: Step, axes: tuple[str, ...]
) -> tuple[Arrays, dict[str, Metric]]:
    """What comes of the gradients of all groups, by path, and what is known after them."""
    pieces: Arrays = {}
    onward: dict[str, Metric] = {}
    # those that a dual map follows together: what travels over devices does so in rounds
    for norm in dict.fromkeys(group.norm for group in groups.values()):
        alike = {name: group for name, group in groups.items() if group.norm == norm}
        visit = _on_devices if axes else _where_they_lie
        for name, stacks, metric in visit(norm, alike, gradients, metrics, numbers, axes):
            pieces |= _restored(alike[name], stacks)
            onward[name] = metric
    return pieces, {name: onward[name] for name in groups}


def _where_they_lie(
    norm: Norm | None, groups: dict[str, Group], gradients: Arrays, metrics: Any, numbers: Step, axes: tuple[str, ...]
) -> Iterator[tuple[str, list[Matrices], Metric]]:
    """Names of groups, what comes of the gradients of each parameter, and what is known after."""

    def work(matrices: Matrices, metric: Metric) -> tuple[Matrices, Metric]:
        return _step_of(norm)(matrices, metric, _for_each(numbers, matrices))

    for name, group in groups.items():
        yield name, *apply_beside(work, _matrices(group, gradients, metrics[name]), metrics[name])


def _on_devices(
    norm: Norm | None, groups: dict[str, Group], gradients: Arrays, metrics: Any, numbers: Step, axes: tuple[str, ...]
) -> Iterator[tuple[str, list[Matrices], Metric]]:
    """The same, each matrix on one of the devices along these axes."""
    items = []
    for name, group in groups.items():
        stacks = [(x,) for x in _matrices(group, gradients, metrics[name])]
        (stack,) = joined(stacks, len(metrics[name].scale), axes)
        items.append((Work(stack, metrics[name]), _for_each(numbers, stack)))

    def work(known: Work, numbers: Step) -> Work:
        return Work(*_step_of(norm)(known.matrices, known.metric, numbers))

    works = apply_alike(work, items, axes=axes, in_turns=True, stays=_STAYS)
    for (name, group), done in zip(groups.items(), works, strict=True):
        yield name, apart(done.matrices, list(map(_count, group.members)), axes), done.metric


class Work(NamedTuple):
    """Gradients of one shape, in whose place comes what is made of them, and what is known of those before."""

    matrices: Matrices
    metric: Metric


# a metric lies where its matrices are worked on
_STAYS = (Work(False, True), False)  # pyright: ignore[reportArgumentType]


def _step_of(norm: Norm | None) -> Callable[[Matrices, Metric, Step], tuple[Matrices, Metric]]:
    """What a visit does: the average in the metric, or the steepest direction of a norm there."""
    return whitened if norm is None else partial(steepest, norm)


def _for_each(numbers: Step, stack: Matrices) -> Step:
    return jax.tree.map(partial(jnp.full, len(stack)), numbers)


def _matrices(group: Group, arrays: Arrays, metric: Metric) -> list[Matrices]:
    """Those of every parameter of a group, in the dtype of its metric."""
    stacks = (atoms(arrays[leaf.path], leaf.spec).astype(metric.scale.dtype) for leaf in group.members)
    return [x.reshape(-1, *group.shape) for x in stacks]


def _restored(group: Group, stacks: list[Matrices]) -> Arrays:
    """Inverse of `_matrices`, by path; where a dual map was taken, as long as the specs say."""
    pieces = {}
    for leaf, piece in zip(group.members, stacks, strict=True):
        taps = _shape(leaf)[1]
        # a direction of norm one is that of each tap, over their number
        scale = 1.0 if group.norm is None else leaf.spec.target / taps
        pieces[leaf.path] = restored(piece.reshape(-1, taps, *group.shape), leaf.spec, leaf.value, scale)
    return pieces
