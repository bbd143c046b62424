"""What goes into `update`: the state of this very optimizer, and parameters like the updates."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from modula_optax._parameters import flatten_parameters, mistake
from modula_optax._paths import describe, flatten_with_paths, is_absent, is_array, kind_of, listing, path_string


def guarded(init: Callable[..., Any], update: Callable[..., Any]) -> optax.GradientTransformationExtraArgs:
    """The transformation of two functions, with errors that say what was passed in place of what.

    Parameters and states are looked at only when something fails with them: nothing is asked of those that work.
    """

    def guarded_init(params: optax.Params) -> Any:
        try:
            return init(params)
        except _FAILURES:
            # refuses what is no tree of parameters
            flatten_parameters(params)
            raise

    def guarded_update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        alike = like_updates(params, updates)
        try:
            return update(updates, state, alike, **extra_args)
        except _FAILURES as error:
            problem = _problem_of_state(init, updates if alike is None else alike, state)
            if problem is None:
                raise
            raise ValueError(_without_gradient(init, updates, params, state) or problem) from error

    return optax.GradientTransformationExtraArgs(guarded_init, guarded_update)


_FAILURES = (ValueError, TypeError, AttributeError, LookupError)


def refuse_without(params: Any, name: str, purpose: str = "") -> None:
    """Refuses a call of `update` without the parameters."""
    if params is None:
        raise ValueError(f"{name} needs the parameters{purpose}: call tx.update(grads, state, params).")


# Optax asks placeholders without leaves which parts of a state are like parameters: this stands for one that is not
UNLIKE_PARAMETERS = np.zeros(())


def like_updates(params: Any, updates: Any) -> Any:
    """The parameters that the updates are of, in the structure of the updates.

    They are found by path, so that a whole model may be passed, as it may to Optax's own optimizers.

    Raises:
      ValueError: some are not there, or of another shape; lists them.
    """
    if params is None or is_absent(updates):
        return params
    treedef = jax.tree.structure(updates)
    shapes = [_shape(x) for x in jax.tree.leaves(updates)]
    if None in shapes:
        # what is no update is told by who reads them
        return params
    if jax.tree.structure(params) == treedef and [_shape(x) for x in jax.tree.leaves(params)] == shapes:
        return params
    found = dict(flatten_with_paths(params)[0])
    flat, treedef = flatten_with_paths(updates)
    lines = [
        f"{describe(path, x)}: {kind_of(found[path]) if path in found else 'nothing'} under this path"
        for path, x in flat
        if not is_absent(x) and not (path in found and _shape(found[path]) == _shape(x))
    ]
    if lines:
        if (known := mistake(params)) is not None:
            raise ValueError(f"In the third argument of update: {known}")
        one = "update is of a parameter that the third argument does not hold"
        many = "updates are of parameters that the third argument does not hold"
        advice = "Pass what the gradients are of: write tx.update(grads, state, params)."
        raise ValueError(listing(one, many, lines, advice))
    return treedef.unflatten([x if is_absent(x) else found[path] for path, x in flat])


def _shape(x: Any) -> tuple[int, ...] | None:
    return tuple(x.shape) if is_array(x) else None


def _without_gradient(init: Callable[..., Any], updates: Any, params: Any, state: Any) -> str | None:
    """Which parameters have no gradient, if the state was made of more than those that have one."""
    if params is None or _problem_of_state(init, params, state) is not None:
        return None
    theirs = {path for path, x in flatten_with_paths(updates)[0] if not is_absent(x)}
    lines = [describe(path, x) for path, x in flatten_with_paths(params)[0] if not is_absent(x) and path not in theirs]
    one, many = "parameter of this state has no gradient", "parameters of this state have no gradients"
    advice = (
        "Make the state of what gradients are taken of, and of nothing else: with Equinox,\n"
        "write tx.init(eqx.filter(model, eqx.is_inexact_array))."
    )
    return listing(one, many, lines, advice)


def _problem_of_state(init: Callable[..., Any], params: Any, state: Any) -> str | None:
    """How a state differs from one of `init`, and what to do about it; `None` if it does not, or nobody can say."""
    try:
        expected = jax.eval_shape(init, params)
    except Exception:  # whatever it is, it is no problem of the state
        return None
    wanted, found = _shapes(expected), _shapes(state)
    lines = [
        f"{path or '(root)'}: {found.get(path, 'nothing')} in place of {wanted.get(path, 'nothing')}"
        for path in sorted(wanted.keys() | found.keys())
        if wanted.get(path) != found.get(path)
    ]
    if not lines and jax.tree.structure(expected) == jax.tree.structure(state):
        return None
    # a chain takes the keys of a dictionary for the states of its links
    if not lines or isinstance(state, str):
        return (
            "This state holds the right arrays in other containers, as some formats restore them. Restore it into a "
            "new one: write\nflax.serialization.from_state_dict(tx.init(params), state), or with Orbax "
            "checkpointer.restore(path, tx.init(params))."
        )
    more = [f"... and {len(lines) - _LINES} more"] if len(lines) > _LINES else []
    advice = (
        "It was saved under other specs, by another optimizer, or of another model. Build the optimizer with the\n"
        "specs that it was saved under (specs_to_json keeps them), or start anew: write state = tx.init(params)."
    )
    return "\n".join(
        [
            "This state is not one of this optimizer and these parameters:",
            *(f"  {line}" for line in [*lines[:_LINES], *more]),
            advice,
        ]
    )


_LINES = 8


def _shapes(tree: Any) -> dict[str, str]:
    """The arrays of a tree in words, by path."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_string(path): f"an array {list(np.shape(x))}" for path, x in flat}
