"""Weight decay: which parameters it is of, and the link that adds it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from modula_optax._checks import is_number, is_traced
from modula_optax._norms import Embedding, RowL2, Sign
from modula_optax._paths import flatten_with_paths, is_absent, is_function, listing, owners_among, refuse
from modula_optax._specs import NormSpec

# What won on a panel of networks (`benchmarks/panel.py`); of hidden matrices alone, since decay holds a norm to mass
# over decay: the gains' mass is small, and the rows of tables are looked up unequally often.
WEIGHT_DECAY = 0.03
_LAYERS = ("linear", "conv", "depthwise")


def is_hidden_matrix(spec: NormSpec) -> bool:
    """Whether a parameter is a matrix between others that moves, as far as its spec says so.

    Roles and places say it where inference or a rule gave them. Without, it is by the norm: one that tells inputs from
    outputs, and none of those for tables and heads. One of mass 0 is to stay where it is.
    """
    if not spec.is_normed or spec.mass == 0 or spec.place not in (None, "hidden"):
        return False
    if spec.role is not None:
        return spec.role in _LAYERS
    axes = spec.norm.default_axes(2) if spec.axes is None else spec.axes
    reads_matrices = bool(spec.norm.default_axes(2).fan_in) and not isinstance(spec.norm, Embedding | RowL2 | Sign)
    return reads_matrices and bool(axes.fan_in) and bool(axes.fan_out)


def decaying(weight_decay: optax.ScalarOrSchedule, mask: Any, specs: Any, params: Any) -> Any:
    """Tree of booleans: which parameters decay.

    Args:
      weight_decay: how much.
      mask: as a user gives it: `None`, a tree of booleans, a prefix of one, or a function from parameters to either.
      specs: spec tree of the parameters.
      params: the parameters, or any tree of their structure.

    Raises:
      ValueError: a mask of another structure, of anything but booleans, or that decays no parameter with a norm; a
        decay other than the default where no spec is of a hidden matrix.
    """
    flat, _ = flatten_with_paths(specs)
    if is_constant(weight_decay, 0.0):
        decays = jax.tree.map(lambda spec: False, specs)
    elif mask is None:
        decays = jax.tree.map(is_hidden_matrix, specs)
    else:
        decays = marked(mask, specs, params)
    present = [f"{path or '(root)'}  {spec.norm!r}" for path, spec in flat if not is_absent(spec)]
    # of a masked tree nobody knows what the mask hides
    is_whole = not any(isinstance(spec, optax.MaskedNode) for _, spec in flat)
    if present and is_whole and not any(jax.tree.leaves(decays)):
        _refuse_idle(weight_decay, mask, present)
    return decays


def marked(mask: Any, specs: Any, params: Any) -> Any:
    """Tree of booleans: which parameters have a norm, and decay by a user's mask; see `decaying`."""
    flat, treedef = flatten_with_paths(specs)
    marks = _of_user(mask, params, flat)
    return treedef.unflatten([spec if is_absent(spec) else marks[path] and spec.is_normed for path, spec in flat])


def is_constant(weight_decay: optax.ScalarOrSchedule, value: float) -> bool:
    """Whether a decay is this number, as far as it is known before the program runs."""
    if not is_number(weight_decay) or is_traced(weight_decay):
        return False
    known = np.asarray(weight_decay)
    # in its own precision: `optax.inject_hyperparams` rounds numbers to that of the parameters
    return bool(known == np.asarray(value, known.dtype if jnp.issubdtype(known.dtype, jnp.inexact) else float))


def _of_user(mask: Any, params: Any, flat: Sequence[tuple[str, Any]]) -> dict[str, bool]:
    """What a user's mask says of these paths."""
    if is_function(mask):
        mask = mask(params)
    marks = {path: mark for path, mark in flatten_with_paths(mask)[0] if not is_absent(mark)}
    wrong = [f"{path or '(root)'}: {mark!r}" for path, mark in marks.items() if not _is_boolean(mark)]
    one, many = "entry of weight_decay_mask is no boolean", "entries of weight_decay_mask are no booleans"
    refuse(one, many, wrong, "Write True for what decays and False for what does not.")
    owners = owners_among(marks, flat)
    kinds = (
        ("parameter is not in weight_decay_mask", "parameters are not in weight_decay_mask", owners.missing),
        ("entry of weight_decay_mask is no parameter", "entries of weight_decay_mask are no parameters", owners.extra),
    )
    if parts := [listing(*kind) for kind in kinds if kind[-1]]:
        advice = (
            "A mask is a tree of booleans of the structure of the parameters or a prefix of it, or a function that\n"
            "makes one, such as weight_decay_mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)."
        )
        raise ValueError("\n".join([*parts, advice]))
    return {path: bool(marks[owner]) for path, owner in owners.of.items() if owner is not None}


def _is_boolean(mark: Any) -> bool:
    return not is_traced(mark) and np.ndim(mark) == 0 and np.asarray(mark).dtype == bool


def _refuse_idle(weight_decay: optax.ScalarOrSchedule, mask: Any, lines: list[str]) -> None:
    """Refuses a decay that was asked for, and is of nothing."""
    if mask is not None and not is_constant(weight_decay, 0.0):
        advice = (
            "Mark one of them that has a norm (Unnormed() parameters are the fallback's), leave the mask out to decay\n"
            "hidden matrices, or write weight_decay=0.0."
        )
        if mask is False:
            advice += (
                " Of a function,\noptax.inject_hyperparams makes this: it takes functions for schedules. Write\n"
                'optax.inject_hyperparams(mo.modular, static_args="weight_decay_mask")(...).'
            )
        many = "parameters, and weight_decay_mask decays none of them"
        refuse("parameter, and weight_decay_mask does not decay it", many, lines, advice)
    if not any(is_constant(weight_decay, value) for value in (0.0, WEIGHT_DECAY)) and not is_traced(weight_decay):
        advice = (
            "Decay is of hidden matrices unless told otherwise. Write weight_decay_mask=True to decay everything, or\n"
            "weight_decay=0.0."
        )
        many = "parameters, and none is a hidden matrix that could decay"
        refuse("parameter, and it is no hidden matrix that could decay", many, lines, advice)


def decayed_where(decays: Any, weight_decay: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Adds decay where a tree of booleans says so; its state is the same whatever the tree says."""
    # as a function: Optax would call a mask that is shaped like an Equinox module
    decay = decayed(weight_decay, lambda _: decays)

    def update(updates: optax.Updates, state: Any, params: Any = None):
        # nor are parameters asked for where there is nothing to decay
        return decay.update(updates, state, params) if any(jax.tree.leaves(decays)) else (updates, state)

    return optax.GradientTransformation(decay.init, update)


def decayed(weight_decay: optax.ScalarOrSchedule, mask: Any = None) -> optax.GradientTransformation:
    """`optax.add_decayed_weights`, but without asking for parameters where there is nothing to decay.

    Of a traced decay only the program knows whether it is 0: without parameters, any other makes NaN.
    """
    decay = optax.add_decayed_weights(weight_decay, mask)

    def update(updates: optax.Updates, state: Any, params: Any = None):
        # the state is the same for every number, which may be 0 when it is made and traced when it is used
        if is_constant(weight_decay, 0.0):
            return updates, state
        if params is not None:
            return decay.update(updates, state, params)
        if is_traced(weight_decay):
            return jax.tree.map(lambda u: jnp.where(weight_decay == 0.0, u, jnp.nan), updates), state
        raise ValueError(
            "Weight decay needs the parameters: write tx.update(grads, state, params), or weight_decay=0.0."
        )

    return optax.GradientTransformation(decay.init, update)
