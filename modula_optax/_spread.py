"""A function of stacks of matrices, each matrix on one device of the mesh in force, once."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Bool

from modula_optax._slices import never, slice_bytes

Trees = list[Any]


def free_axes(mesh_axes: Sequence[str] | None) -> tuple[str, ...]:
    """The axes of the mesh in force to spread over: those asked for, or all, less those `shard_map` has taken."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return ()
    wanted = mesh.axis_names if mesh_axes is None else tuple(mesh_axes)
    if unknown := [name for name in wanted if name not in mesh.axis_names]:
        raise ValueError(f"mesh_axes names {unknown}, but the axes of the mesh in force are {list(mesh.axis_names)}.")
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return tuple(name for name in wanted if kinds[name] != AxisType.Manual and mesh.shape[name] > 1)


def automatic(function: Callable[..., Any], *args: Any, shardings: Any) -> Any:
    """`function(*args)` where the compiler finds the shardings, whatever the mesh; those of the results are given."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AxisType.Explicit not in mesh.axis_types:
        return function(*args)
    in_automatic_mode: Any = jax.sharding.auto_axes(function, out_sharding=shardings)
    return in_automatic_mode(*args)


def shardings_of(tree: Any) -> Any:
    """The shardings that are part of the types of arrays."""
    return jax.tree.map(lambda x: jax.typeof(x).sharding, tree)


def replicated(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` where the compiler finds the shardings, whatever the mesh; every device gets the whole results."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AxisType.Manual in mesh.axis_types:
        return function
    if AxisType.Explicit in mesh.axis_types:
        return jax.sharding.auto_axes(function, out_sharding=PartitionSpec())
    return lambda *arguments: jax.lax.with_sharding_constraint(function(*arguments), PartitionSpec())


def batched_over(axes: tuple[str, ...], count: int, function: Callable[[], Any]) -> Any:
    """Arrays `[count, ...]` made with their first axis over these axes of the mesh, if their devices divide it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AxisType.Manual in mesh.axis_types:
        return function()
    place = PartitionSpec(axes if axes and count % _devices(axes) == 0 else None)
    if AxisType.Explicit in mesh.axis_types:
        return jax.sharding.auto_axes(function, out_sharding=place)()
    return jax.lax.with_sharding_constraint(function(), place)


def spread(function: Callable[[Trees], Trees], trees: Trees, axes: tuple[str, ...]) -> Trees:
    """`function` with the matrices it treats alike shared out over the devices along `axes`.

    Args:
      function: from trees of arrays `[n, ...]` to trees like them, each index of the first axis on its own.
      trees: stacks of matrices and what belongs to each of them.
      axes: axes of the mesh in force; without any, all is done here.

    Returns:
      Trees like `trees`. Those of equal shape travel together: one exchange takes every matrix to its device, and one
      brings it back into the sharding it came in. What is more than a device should hold is done in rounds.
    """
    if not axes:
        return function(trees)
    results, done = list(trees), jnp.bool_(True)
    for members in _rounds(trees, axes):
        stacks, apart = _joined_alike([_once(done, trees[i]) for i in members])
        stacks, done = _shared_out(function, axes, stacks)
        for i, result in zip(members, apart(stacks), strict=True):
            results[i] = result
    return jax.tree.map(lambda result, x: shard_alike(result, x)[0], results, trees)


def in_stacks(function: Callable[[Trees], Trees], trees: Trees) -> Trees:
    """`function` of fewer trees: those whose arrays agree in dtype and in all axes but the first become one."""
    stacks, apart = _joined_alike(trees)
    return apart(function(stacks))


def _joined_alike(trees: Trees) -> tuple[Trees, Callable[[Trees], Trees]]:
    """Trees that are alike as one, and what takes results apart again."""
    groups = _alike(trees)
    stacks = [jax.tree.map(lambda *x: jnp.concatenate(x), *(trees[i] for i in members)) for members in groups]

    def apart(stacks: Trees) -> Trees:
        results = list(trees)
        for members, stack in zip(groups, stacks, strict=True):
            ends = np.cumsum([len(jax.tree.leaves(trees[i])[0]) for i in members])
            for i, start, end in zip(members, [0, *ends[:-1]], ends, strict=True):
                results[i] = jax.tree.map(lambda x, start=start, end=end: x[start:end], stack)
        return results

    return stacks, apart


def _alike(trees: Trees) -> list[list[int]]:
    """Numbers of the trees whose arrays agree in dtype and in all axes but the first."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, tree in enumerate(trees):
        leaves, treedef = jax.tree.flatten(tree)
        groups[treedef, tuple((x.shape[1:], x.dtype) for x in leaves)].append(i)
    return list(groups.values())


def _rounds(trees: Trees, axes: tuple[str, ...]) -> list[list[int]]:
    """Numbers of the trees that are exchanged at a time: those that are alike, and more while there is room."""
    # as they come, as they are worked on, and as they go
    room = slice_bytes() * _devices(axes) / 3
    rounds, held = [[]], 0
    for members in _alike(trees):
        size = sum(x.nbytes for i in members for x in jax.tree.leaves(trees[i]))
        if rounds[-1] and held + size > room:
            rounds.append([])
            held = 0
        rounds[-1] += members
        held += size
    return rounds


def _once(done: Bool[Array, ""], tree: Any) -> Any:
    """The same tree, which is not made before the round that says so is done.

    Compilers would exchange everything at once and hold it until its turn; `optimization_barrier` does not keep them
    from it, as the one for CPUs drops it before it orders what is left.
    """
    return jax.tree.map(lambda x: jnp.where(done, x, jnp.zeros_like(x)), tree)


def _shared_out(
    function: Callable[[Trees], Trees], axes: tuple[str, ...], stacks: Trees
) -> tuple[Trees, Bool[Array, ""]]:
    """`function` of stacks, as many of their first axis on every device along `axes`; and that it is done."""

    def on_each(stacks: Trees) -> tuple[Trees, Bool[Array, "1"]]:
        results = function(stacks)
        return results, ~jnp.any(jnp.stack([never(x) for x in jax.tree.leaves(results)]), keepdims=True)

    whole = stacks
    devices = _devices(axes)
    stacks = jax.tree.map(lambda x: jnp.pad(x, ((0, -len(x) % devices), *[(0, 0)] * (x.ndim - 1))), stacks)
    # one axis after the other: the compiler exchanges along one, but gathers everything to move two at once
    ways = [axes[:n] for n in range(len(axes) + 1)]
    for way in ways:
        stacks = _batch_over(stacks, way)
    spread_out = jax.shard_map(
        on_each,
        in_specs=(PartitionSpec(axes),),
        out_specs=PartitionSpec(axes),
        axis_names=set(axes),
        # every result differs from device to device: constraints need not say so of each number in their loops
        check_vma=False,
    )
    stacks, done = spread_out(stacks)
    for way in reversed(ways):
        stacks = _batch_over(stacks, way)
    return jax.tree.map(lambda x, before: x[: len(before)], stacks, whole), jnp.all(done)


def _devices(axes: tuple[str, ...]) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in axes)


def _batch_over(stacks: Trees, axes: tuple[str, ...]) -> Trees:
    """The first axis sharded over these axes of the mesh, the rest as the compiler likes.

    Over no axes, too: without that stop on the way, the sharding of the batch spreads to every single parameter, and
    these are exchanged one by one.
    """

    def place(x: Array) -> Array:
        free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
        return jax.lax.with_sharding_constraint(x, PartitionSpec(axes or None, *free))

    return jax.tree.map(place, stacks)
