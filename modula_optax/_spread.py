"""A function of stacks of matrices, each matrix on one device of the mesh in force, once."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array

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


def spread(function: Callable[[Trees], Trees], trees: Trees, axes: tuple[str, ...]) -> Trees:
    """`function` with the matrices it treats alike shared out over the devices along `axes`.

    Args:
      function: from trees of arrays `[n, ...]` to trees like them, each index of the first axis on its own.
      trees: stacks of matrices and what belongs to each of them.
      axes: axes of the mesh in force; without any, all is done here.

    Returns:
      Trees like `trees`. Those of equal shape travel together: one exchange takes every matrix to its device, and one
      brings it back into the sharding it came in.
    """
    if not axes:
        return function(trees)
    results = in_stacks(partial(_shared_out, function, axes), trees)
    return jax.tree.map(lambda result, x: shard_alike(result, x)[0], results, trees)


def in_stacks(function: Callable[[Trees], Trees], trees: Trees) -> Trees:
    """`function` of fewer trees: those whose arrays agree in dtype and in all axes but the first become one."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, tree in enumerate(trees):
        leaves, treedef = jax.tree.flatten(tree)
        groups[treedef, tuple((x.shape[1:], x.dtype) for x in leaves)].append(i)
    stacks = [jax.tree.map(lambda *x: jnp.concatenate(x), *(trees[i] for i in members)) for members in groups.values()]
    results = list(trees)
    for members, stack in zip(groups.values(), function(stacks), strict=True):
        ends = np.cumsum([len(jax.tree.leaves(trees[i])[0]) for i in members])
        for i, start, end in zip(members, [0, *ends[:-1]], ends, strict=True):
            results[i] = jax.tree.map(lambda x, start=start, end=end: x[start:end], stack)
    return results


def _shared_out(function: Callable[[Trees], Trees], axes: tuple[str, ...], stacks: Trees) -> Trees:
    """`function` of stacks, as many of their first axis on every device along `axes`."""
    mesh = jax.sharding.get_abstract_mesh()
    devices = math.prod(mesh.shape[name] for name in axes)
    whole = stacks
    stacks = jax.tree.map(lambda x: jnp.pad(x, ((0, -len(x) % devices), *[(0, 0)] * (x.ndim - 1))), stacks)
    # one axis after the other: the compiler exchanges along one, but gathers everything to move two at once
    ways = [axes[:n] for n in range(len(axes) + 1)]
    for way in ways:
        stacks = _batch_over(stacks, way)
    on_each = jax.shard_map(
        function,
        in_specs=(PartitionSpec(axes),),
        out_specs=PartitionSpec(axes),
        axis_names=set(axes),
        # every result differs from device to device: constraints need not say so of each number in their loops
        check_vma=False,
    )
    stacks = on_each(stacks)
    for way in reversed(ways):
        stacks = _batch_over(stacks, way)
    return jax.tree.map(lambda x, before: x[: len(before)], stacks, whole)


def _batch_over(stacks: Trees, axes: tuple[str, ...]) -> Trees:
    """The first axis sharded over these axes of the mesh, the rest as the compiler likes.

    Over no axes, too: without that stop on the way, the sharding of the batch spreads to every single parameter, and
    these are exchanged one by one.
    """

    def place(x: Array) -> Array:
        free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
        return jax.lax.with_sharding_constraint(x, PartitionSpec(axes or None, *free))

    return jax.tree.map(place, stacks)
