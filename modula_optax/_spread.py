"""A function of stacks of matrices, each matrix on one device of the mesh in force, once."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array

from modula_optax._canonical import stacked

Arrays = list[Array]


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


def automatic(function: Callable[[Arrays], Arrays], xs: Arrays) -> Arrays:
    """`function` where the compiler finds the shardings, whatever the mesh; results are sharded as arguments are."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AxisType.Explicit not in mesh.axis_types:
        return function(xs)
    shardings = [jax.typeof(x).sharding for x in xs]
    in_automatic_mode: Any = jax.sharding.auto_axes(function, out_sharding=shardings)
    return in_automatic_mode(xs)


def spread(function: Callable[[Arrays], Arrays], xs: Arrays, axes: tuple[str, ...]) -> Arrays:
    """`function` with the matrices it treats alike shared out over the devices along `axes`.

    Args:
      function: from arrays `[n, taps, fan_in, fan_out]` of several shapes to arrays of the same shapes.
      xs: arrays `[*batch, taps, fan_in, fan_out]`.
      axes: axes of the mesh in force; without any, all is done here.

    Returns:
      Arrays like `xs`. Those of equal shape travel together: one exchange takes every matrix to its device, and one
      brings it back into the sharding it came in.
    """
    if not axes:
        return function(xs)
    shapes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, x in enumerate(xs):
        shapes[x.shape[-3:]].append(i)
    mesh = jax.sharding.get_abstract_mesh()
    devices = math.prod(mesh.shape[name] for name in axes)
    stacks = [_stack([xs[i] for i in members], devices) for members in shapes.values()]
    # one axis after the other: the compiler exchanges along one, but gathers everything to move two at once
    ways = [axes[:n] for n in range(len(axes) + 1)]
    for way in ways:
        stacks = [_batch_over(stack, way) for stack in stacks]
    by_matrix = PartitionSpec(axes)
    results = jax.shard_map(function, in_specs=(by_matrix,), out_specs=by_matrix, axis_names=set(axes))(stacks)
    for way in reversed(ways):
        results = [_batch_over(result, way) for result in results]

    out = list(xs)
    for members, result in zip(shapes.values(), results, strict=True):
        ends = np.cumsum([math.prod(xs[i].shape[:-3]) for i in members])
        for i, part in zip(members, jnp.split(result, ends), strict=False):
            out[i], _ = shard_alike(part.reshape(xs[i].shape), xs[i])
    return out


def _stack(xs: Arrays, devices: int) -> Array:
    stack = jnp.concatenate([stacked(x) for x in xs])
    return jnp.pad(stack, ((0, -len(stack) % devices), *[(0, 0)] * 3))


def _batch_over(stack: Array, axes: tuple[str, ...]) -> Array:
    """The batch sharded over these axes, the rest as the compiler likes.

    Over no axes, too: without that stop on the way, the sharding of the batch spreads to every single parameter, and
    these are exchanged one by one.
    """
    free = PartitionSpec.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(stack, PartitionSpec(axes or None, free, free, free))
