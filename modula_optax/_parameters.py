"""Parameters: a tree of arrays; and what each framework's users pass in their place, with what to pass instead."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from modula_optax._paths import describe, flatten_with_paths, is_absent, is_array, listing, path_string, refuse
from modula_optax._specs import NormSpec


def flatten_parameters(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    """`flatten_with_paths` of what must be parameters, their gradients or their updates.

    Raises:
      ValueError: the tree holds something else as well: a model, its statistics, an optimizer's state, functions.
    """
    if (known := mistake(tree)) is not None:
        raise ValueError(known)
    flat, treedef = flatten_with_paths(tree)
    wrong = [(path, leaf) for path, leaf in flat if not is_absent(leaf) and not is_array(leaf)]
    if any(isinstance(leaf, NormSpec) for _, leaf in wrong):
        raise ValueError("The parameters are specs: are the two arguments in each other's place?")
    advice = (
        "Leave them out. With Equinox, pass eqx.filter(model, eqx.is_inexact_array); with Flax NNX,\n"
        "nnx.state(model, nnx.Param). Of a number, make an array."
    )
    one, many = "leaf of the parameters is not an array", "leaves of the parameters are not arrays"
    refuse(one, many, [describe(*leaf) for leaf in wrong], advice)
    return flat, treedef


def refuse_step(tree: Any) -> None:
    """Raises where a function from parameters to specs is called with the number of a step."""
    if is_array(tree) and tree.shape == () and jnp.issubdtype(tree.dtype, jnp.integer):
        raise ValueError(
            "This is an integer, not parameters: optax.inject_hyperparams takes functions for schedules. Write\n"
            'optax.inject_hyperparams(mo.modular, static_args="specs")(...).'
        )


def mistake(tree: Any) -> str | None:
    """Why a tree is not one of parameters, and what to pass instead, if it is of a known kind."""
    return next(_mistakes(tree), None)


def _mistakes(tree: Any) -> Iterator[str]:
    """Why a tree is not one of parameters, seen by what it is made of."""
    name = type(tree).__name__
    if states := [node for node in (tree, *(tree if isinstance(tree, tuple) else ())) if _is_optimizer_state(node)]:
        yield (
            f"A {type(states[0]).__name__} is the state of an optimizer, not parameters. Write tx.init(params), "
            "tx.update(grads, state, params)."
        )
    if hasattr(tree, "params") and hasattr(tree, "opt_state"):
        yield f"A {name} is not the parameters: it holds the optimizer's state, too. Pass its field, state.params."
    is_model = callable(getattr(tree, "init", None)) and callable(getattr(tree, "apply", None))
    # a tree of arrays may have methods of these names
    if is_model and not any(map(is_array, jax.tree.leaves(tree))):
        yield (
            f"A {name} is a model, not its parameters. Pass what it is initialized to: "
            "model.init(key, x)['params'] with Flax Linen, transformed.init(key, x) with Haiku."
        )
    if others := _collections(tree):
        yield (
            f"These are whole variables: 'params' beside {', '.join(map(repr, others))}. Statistics are not trained; "
            "pass variables['params'],\nto infer_specs with lambda p, *a: model.apply({**variables, 'params': p}, *a). "
            "If all are trained, name them otherwise than 'params'."
        )
    if averages := _averages(tree):
        advice = "They are the state of hk.transform_with_state: params, state = transformed.init(key, x); pass params."
        yield listing("moving average is no parameter", "moving averages are no parameters", averages, advice)
    if variables := _untrained_variables(tree):
        advice = (
            "Of an nnx.Module, pass the parameters alone: nnx.state(model, nnx.Param), with the filter that is wrt=\n"
            "of nnx.Optimizer, or graph, params, rest = nnx.split(model, nnx.Param, ...)."
        )
        yield listing("variable is no parameter", "variables are no parameters", variables, advice)


def _is_optimizer_state(node: Any) -> bool:
    kind = type(node)
    of_optax = kind.__module__.split(".")[0] in ("optax", "modula_optax")
    return isinstance(node, tuple) and of_optax and kind.__name__.endswith("State")


def _collections(tree: Any) -> list[str]:
    """Names of the collections that stand beside the parameters of a Linen module; masked ones do not count."""
    if not (isinstance(tree, Mapping) and "params" in tree):
        return []
    return [
        name
        for name, collection in tree.items()
        if name != "params" and isinstance(collection, Mapping) and not is_absent(collection)
    ]


_HAIKU_AVERAGE = {"average", "counter", "hidden"}


def _averages(tree: Any) -> list[str]:
    """Paths of the moving averages in a tree, in the form that Haiku keeps them in."""

    def is_average(node: Any) -> bool:
        return isinstance(node, Mapping) and set(node) == _HAIKU_AVERAGE

    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_average)
    return [path_string(path) for path, node in flat if is_average(node)]


def _untrained_variables(tree: Any) -> list[str]:
    """Paths and kinds of the Flax NNX variables in a tree that no gradient is taken of."""
    # there are none before it has been imported
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None:
        return []
    untrained = (nnx.BatchStat, nnx.RngState, nnx.Cache, nnx.Intermediate, nnx.OptState)
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return [f"{path_string(path)}  {type(node).__name__}" for path, node in flat if isinstance(node, untrained)]
