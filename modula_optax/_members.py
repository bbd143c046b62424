"""Functions of parameters that see the members of an ensemble as more of the same, and that can be differentiated."""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from modula_optax._checks import is_traced
from modula_optax._mesh import free_axes


def over_members(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(settings, mesh_axes, *trees)`, of all members of an ensemble at once where it is under `vmap`.

    Args:
      function: `function(settings, axes, members, *trees)`, of hashable settings, of the axes of the mesh to share out
        work over, and of trees of arrays that begin with as many axes of members.

    Returns:
      A function that `jit`, `vmap` with and without `spmd_axis_name`, and derivatives of both kinds may go through.
      Members are shared out over devices like everything else. Derivatives are taken where the arrays are: the
      exchange of an update between devices is not gone through backwards.
    """

    def of_settings(settings: Hashable, mesh_axes: Sequence[str] | None, *trees: Any) -> Any:
        if any(map(is_traced, _entries(settings))):
            # what is traced is no setting, which JAX would keep
            return function(settings, free_axes(mesh_axes), 0, *trees)
        return at(settings, None if mesh_axes is None else tuple(mesh_axes), 0, *trees)

    # `inline`: compiled once where it is called outside of `jit`
    @partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
    def at(settings: Hashable, mesh_axes: tuple[str, ...] | None, members: int, *trees: Any) -> Any:
        @jax.custom_batching.custom_vmap
        def together(*trees: Any) -> Any:
            return function(settings, free_axes(mesh_axes), members, *trees)

        @together.def_vmap
        def _(size: int, is_batched: Sequence[Any], *trees: Any) -> tuple[Any, Any]:
            def whole(x: Any, batched: bool) -> Any:
                return x if batched else jnp.broadcast_to(x, (size, *x.shape))

            results = at(settings, mesh_axes, members + 1, *jax.tree.map(whole, trees, tuple(is_batched)))
            return results, jax.tree.map(lambda _: True, results)

        @jax.custom_jvp
        def differentiable(*trees: Any) -> Any:
            return together(*trees)

        @differentiable.defjvp
        def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
            return jax.jvp(partial(function, settings, (), members), primals, tangents)

        return differentiable(*trees)

    return of_settings


def _entries(settings: Any) -> Iterator[Any]:
    """What dataclasses and sequences are made of, in the end."""
    if dataclasses.is_dataclass(settings):
        settings = [getattr(settings, field.name) for field in dataclasses.fields(settings)]
    if isinstance(settings, tuple | list):
        for entry in settings:
            yield from _entries(entry)
    else:
        yield settings
