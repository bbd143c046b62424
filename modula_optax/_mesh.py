"""The mesh in force: which of its axes work is shared out over, and a function of stacks on each of its devices."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Bool

from modula_optax._xla import never

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
    free = tuple(name for name in wanted if kinds[name] != AxisType.Manual and mesh.shape[name] > 1)
    return tuple(filter(_is_free, free)) if AxisType.Explicit in mesh.axis_types else free


def _is_free(axis: str) -> bool:
    """Whether `shard_map` takes an axis, which alone knows the explicit one that the members of a `vmap` lie along."""
    try:
        jax.eval_shape(
            jax.shard_map(
                lambda: jnp.zeros(()), in_specs=(), out_specs=PartitionSpec(), axis_names={axis}, check_vma=False
            )
        )
    except ValueError:
        return False
    return True


def unclaimed(axes: tuple[str, ...], x: Array) -> tuple[str, ...]:
    """The axes, or none if a `vmap` around has one for its members, which only a constraint on its arrays tells."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AxisType.Explicit in mesh.axis_types:
        return axes
    for axis in axes:
        one_each = jnp.full(mesh.shape[axis], jnp.ravel(x)[0])
        try:
            jax.lax.with_sharding_constraint(one_each, PartitionSpec(axis))
        except ValueError:
            return ()
    return axes


def varying_alike(tree: Any) -> Any:
    """Inside `shard_map`, arrays that all vary over the devices that one of them varies over, as loops want them."""
    if AxisType.Manual not in jax.sharding.get_abstract_mesh().axis_types:
        return tree
    # zeros that vary as an array does: all versions of JAX have them, where names for the property come and go
    zero = sum(jnp.zeros_like(x, jnp.float32, shape=()) for x in jax.tree.leaves(tree))
    return jax.tree.map(lambda x: x + jnp.astype(zero, x.dtype), tree)


def warn_of_idle_mesh(mesh_axes: Sequence[str] | None, arrays: Iterable[Any]) -> None:
    """Says that work on matrices that lie on several devices is not shared out, as no mesh is in force.

    Only of arrays with values: what is traced does not tell where it lies. No axes at all are taken for intended.
    """
    if (mesh_axes is not None and not mesh_axes) or not jax.sharding.get_abstract_mesh().empty:
        return
    concrete = (x for x in arrays if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer))
    count = max((len(x.sharding.device_set) for x in concrete), default=1)
    if count > 1:
        warnings.warn(
            f"Parameters lie on {count} devices and no mesh is in force, so that matrices are not shared out: every "
            "step of the\northogonalization waits for all of them. Write with jax.set_mesh(mesh): around init and the "
            "training step,\nor mesh_axes=() if this is meant.",
            stacklevel=2,
        )


def devices_along(axes: tuple[str, ...]) -> int:
    """How many devices there are along axes of the mesh in force."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in axes)


@contextlib.contextmanager
def _mesh_for(arrays: Any) -> Iterator[jax.sharding.AbstractMesh]:
    """The mesh in force. Where there is none, but arrays have one in their types, theirs is."""
    mesh = jax.sharding.get_abstract_mesh()
    theirs = (jax.typeof(x).sharding.mesh for x in jax.tree.leaves(arrays) if mesh.empty)
    found = next((other for other in theirs if not other.empty), None)
    with contextlib.nullcontext() if found is None else jax.sharding.use_abstract_mesh(found):
        yield found or mesh


def automatic(function: Callable[..., Any], *args: Any, shardings: Any) -> Any:
    """`function(*args)` where the compiler finds the shardings, whatever the mesh; those of the results are given."""
    with _mesh_for(args) as mesh:
        if AxisType.Explicit not in mesh.axis_types:
            return function(*args)
        in_automatic_mode: Any = jax.sharding.auto_axes(function, out_sharding=shardings)
        return in_automatic_mode(*args)


def shardings_of(tree: Any) -> Any:
    """How arrays lie over the mesh, as far as their types say."""
    return jax.tree.map(lambda x: jax.typeof(x).sharding.spec, tree)


def replicated(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` where the compiler finds the shardings, whatever the mesh; every device gets the whole results."""

    def on_every_device(*args: Any) -> Any:
        with _mesh_for(args) as mesh:
            if mesh.empty or AxisType.Manual in mesh.axis_types:
                return function(*args)
            if AxisType.Explicit in mesh.axis_types:
                return automatic(function, *args, shardings=PartitionSpec())
            return jax.lax.with_sharding_constraint(function(*args), PartitionSpec())

    return on_every_device


def batched_over(axes: tuple[str, ...], count: int, function: Callable[[], Any]) -> Any:
    """Arrays `[count, ...]` made with their first axis over these axes of the mesh, if their devices divide it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AxisType.Manual in mesh.axis_types:
        return function()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if AxisType.Explicit in mesh.axis_types:
        # types name explicit axes alone: along the others the compiler chooses
        axes = tuple(name for name in axes if kinds[name] == AxisType.Explicit)
    sharding = PartitionSpec(axes if axes and count % devices_along(axes) == 0 else None)
    if AxisType.Explicit in mesh.axis_types:
        in_automatic_mode: Any = jax.sharding.auto_axes(function, out_sharding=sharding)
        return in_automatic_mode()
    return jax.lax.with_sharding_constraint(function(), sharding)


def on_each_device(
    functions: Sequence[Callable[[Any], Any]], stacks: Trees, axes: tuple[str, ...], even: Sequence[bool], stays: Any
) -> tuple[Trees, Bool[Array, ""]]:
    """Every function of its stacks, as many of their first axis on every device along `axes`; and that it is done.

    What is made of `even` parts, as many for each device, may lie there already, and is not brought together first.
    What `stays`, by this prefix of all stacks, is there.
    """

    def on_each(stacks: Trees) -> tuple[Trees, Bool[Array, "1"]]:
        results = [function(stack) for function, stack in zip(functions, stacks, strict=True)]
        return results, ~jnp.any(jnp.stack([never(x) for x in jax.tree.leaves(results)]), keepdims=True)

    # one axis after the other: the compiler exchanges along one, but gathers everything to move two at once
    ways = [axes[:n] for n in range(len(axes) + 1)]
    for way in ways:
        stacks = [
            stack if not way and is_even else travelling(stays, partial(_batch_over, way), stack)
            for stack, is_even in zip(stacks, even, strict=True)
        ]
    spread_out = jax.shard_map(
        on_each,
        in_specs=(PartitionSpec(axes),),
        out_specs=PartitionSpec(axes),
        axis_names=set(axes),
        # every result differs from device to device: constraints need not say so of each number in their loops
        check_vma=False,
    )
    stacks, done = spread_out(stacks)
    of_results = stays[0] if isinstance(stays, tuple) else stays
    for way in reversed(ways):
        stacks = [
            stack if not way and is_even else travelling(of_results, partial(_batch_over, way), stack)
            for stack, is_even in zip(stacks, even, strict=True)
        ]
    return stacks, jnp.all(done)


def travelling(stays: Any, change: Callable[..., Array], tree: Any, *others: Any) -> Any:
    """The tree with everything changed but what stays, by a prefix of it."""

    def changed(stay: bool, *parts: Any) -> Any:
        return parts[0] if stay else jax.tree.map(change, *parts)

    return jax.tree.map(changed, stays, tree, *others)


def _batch_over(axes: tuple[str, ...], x: Array) -> Array:
    """The first axis sharded over these axes of the mesh, the rest as the compiler likes.

    Over no axes, too: without that stop on the way, the sharding of the batch spreads to every single parameter, and
    these are exchanged one by one.
    """
    free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes or None, *free))
