"""The chain that `modular` and `whitened` share: from steepest directions to weights."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import optax

from modula_optax._decay import decayed_where, decaying
from modula_optax._fallback import with_fallback
from modula_optax._guard import guarded
from modula_optax._match import by_structure
from modula_optax._project import keep_params_projected
from modula_optax._rate import warn_of_small_rate
from modula_optax._registry import resolve_tree
from modula_optax._specs import NormSpec

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

    def normed(decays: Any, specs: Any) -> optax.GradientTransformation:
        return optax.chain(
            *direction(specs),
            # after the dual map, so that decay is not normalised away
            decayed_where(decays, weight_decay),
            optax.scale_by_learning_rate(learning_rate),
            # last, since any later link would lead out of the constraints
            keep_params_projected(constrained(specs, decays, False), learning_rate=learning_rate, mesh_axes=mesh_axes),
            keep_params_projected(
                constrained(specs, decays, True),
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                mesh_axes=mesh_axes,
            ),
        )

    @by_structure
    def chain(tree: Any) -> optax.GradientTransformationExtraArgs:
        spec_tree = resolve_tree(specs, tree)
        decays = decaying(weight_decay, weight_decay_mask, spec_tree, tree)
        return with_fallback(spec_tree, partial(normed, decays), fallback)

    def init(params: optax.Params) -> Any:
        warn_of_small_rate(name, learning_rate)
        return chain(params).init(params)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        return chain(updates).update(updates, state, params, **extra_args)

    return guarded(init, update)


def constrained(specs: Any, decays: Any, which: bool) -> Any:
    """The specs, with the constraints only of what decays, or of what does not: each have to know how much they do."""

    def held(spec: NormSpec, does: bool) -> NormSpec:
        return spec if does is which else dataclasses.replace(spec, constraint=None)

    return jax.tree.map(held, specs, decays)
