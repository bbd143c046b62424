"""Parameters that have a norm go to one transformation, all others to a fallback."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from modula_optax._arguments import check_transformation
from modula_optax._guard import guarded
from modula_optax._match import by_structure
from modula_optax._registry import resolve_tree


def with_fallback(
    specs: Any,
    normed: Callable[[Any, Any], optax.GradientTransformation],
    fallback: optax.GradientTransformation,
    resolve: Callable[[Any, Any], Any] = resolve_tree,
) -> optax.GradientTransformationExtraArgs:
    """Sends parameters that have a norm to `normed(specs, tree)` and `Unnormed` ones to `fallback`.

    Specs are resolved on the whole tree, before `optax.partition` masks any of it: a function that traces the model
    needs all parameters.
    """
    check_transformation("fallback", fallback, "fallback=optax.adam(1e-3)")

    @by_structure
    def partition(tree: Any) -> optax.GradientTransformationExtraArgs:
        spec_tree = resolve(specs, tree)
        labels = jax.tree.map(lambda spec: "fallback" if not spec.is_normed else "normed", spec_tree)
        # what nothing is left to does nothing: Adam promotes dtypes, if only of its count, where JAX may be told not to
        is_idle = "fallback" not in jax.tree.leaves(labels)
        others = optax.GradientTransformation(fallback.init, optax.identity().update) if is_idle else fallback
        # as a function: Optax would call labels that are shaped like an Equinox module
        return optax.partition({"normed": normed(spec_tree, tree), "fallback": others}, lambda _: labels)

    def init(params: optax.Params) -> Any:
        return partition(params).init(params)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        return partition(updates).update(updates, state, params, **extra_args)

    return guarded(init, update)
