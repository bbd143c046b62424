"""The chain that `modular` and `whitened` share: from steepest directions to weights."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from modula_optax._decay import decayed_where, decaying
from modula_optax._fallback import with_fallback
from modula_optax._project import keep_params_projected
from modula_optax._rate import warn_of_small_rate

Links = tuple[optax.GradientTransformation, ...]


def steepest(
    name: str,
    direction: Callable[[Any], Links],
    learning_rate: optax.ScalarOrSchedule,
    specs: Any,
    weight_decay: optax.ScalarOrSchedule,
    weight_decay_mask: Any,
    fallback: optax.GradientTransformation,
    mesh_axes: Sequence[str] | None,
) -> optax.GradientTransformationExtraArgs:
    """The chain that aliases share: the links from gradients to steepest directions, then a step of these.

    `name` is the alias, for its warnings, and `direction` makes those links of resolved specs; all else is what
    `modular` takes.
    """

    def normed(specs: Any, tree: Any) -> optax.GradientTransformation:
        decays = decaying(weight_decay, weight_decay_mask, specs, tree)
        stays = jax.tree.map(operator.not_, decays)
        return optax.chain(
            *direction(specs),
            # after the dual map, so that decay is not normalised away
            decayed_where(decays, weight_decay),
            optax.scale_by_learning_rate(learning_rate),
            # last, since any later link would lead out of the constraints; two, since each tells all its own one decay
            keep_params_projected(_held(specs, stays), learning_rate=learning_rate, mesh_axes=mesh_axes),
            keep_params_projected(
                _held(specs, decays), learning_rate=learning_rate, weight_decay=weight_decay, mesh_axes=mesh_axes
            ),
        )

    tx = with_fallback(specs, normed, fallback)

    def init(params: optax.Params) -> Any:
        warn_of_small_rate(name, learning_rate)
        return tx.init(params)

    return optax.GradientTransformationExtraArgs(init, tx.update)


def _held(specs: Any, some: Any) -> Any:
    """The specs, with the constraints of some parameters alone, by a tree of booleans."""
    return jax.tree.map(
        lambda spec, is_one: spec if is_one else dataclasses.replace(spec, constraint=None), specs, some
    )
