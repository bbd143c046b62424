"""What people watch while training: norms, ratios, alignments and ranks of every parameter, in a state."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Scalar

from modula_optax._align import Leaves, Named, is_abstract
from modula_optax._arguments import check_transformation
from modula_optax._checks import is_traced
from modula_optax._guard import UNLIKE_PARAMETERS, guarded, refuse_without
from modula_optax._match import matching
from modula_optax._measure import Directions, first_directions, measure, names_measured
from modula_optax._mesh import free_axes, replicated, unclaimed
from modula_optax._paths import flatten_with_paths, is_absent, listing, nested, unnested


class MonitorState(NamedTuple):
    """State of what is monitored, the last measurements, and where power iterations go on.

    Both are dictionaries nested as the paths of the parameters are.
    """

    inner_state: optax.OptState
    measurements: dict[str, Any]
    directions: dict[str, Any]


def monitor(
    specs: Any, inner: optax.GradientTransformation = optax.identity()
) -> optax.GradientTransformationExtraArgs:
    r"""Measures what goes into `inner` and what comes out of it, which is passed on unchanged.

    Around a whole optimizer, `monitor(specs, tx)`, it measures for every parameter that has a norm:

    - `weight_norm`: atomic norm :math:`\|w\|` of the weight, before the step.
    - `gradient_dual_norm`: :math:`\|g\|^\dagger`, the decrease of the loss that a step of norm 1 can promise.
    - `update_ratio`: :math:`\|u\| / \|w\|`, how much of itself a weight moves.
    - `alignment`: :math:`\langle g, u \rangle / (\|g\|^\dagger \|u\|)`, in [-1, 1]: -1 is the steepest descent.
    - `weight_stable_rank`: :math:`\|W\|_F^2 / s_1(W)^2` of matrices, from 1 to the rank; a mean over layers and taps.
    - `gradient_stable_rank`: that of the gradient, where the norm is `Spectral`.

    Nothing is decomposed: norms by singular values are estimates. Weights' and updates' :math:`s_1` come by power
    iteration that goes on from step to step, never above the truth and within 2 % of it after some; gradients' within
    3 %, and their dual norms within some 12 % (2 % on random matrices). What others divide by is 0: so are they.

    No derivative goes through what is measured; updates are as differentiable as those of `inner`.

    Alone, `monitor(specs)`, it is a link: what passes is the update, and the gradient is what `update` is given as
    `grad=`. Without that, what passes stands for both.

    Args:
      specs: what the norm of each parameter is; see `NormSpec`. `Unnormed` parameters are not measured.
      inner: the transformation to measure, usually the whole optimizer.

    Returns:
      A transformation whose state is a `MonitorState`, for `read_monitor`; it needs `params`.

    Raises:
      ValueError: specs do not fit the parameters, or `update` is called without `params`.

    Example:
      >>> spec, w = NormSpec(Spectral()), {"w": jnp.diag(jnp.array([2.0, 1.0]))}
      >>> tx = monitor(spec, modular(0.1, spec, weight_decay=0.0))
      >>> _, state = tx.update(w, tx.init(w), w)
      >>> {name: round(value, 2) for name, value in read_monitor(state).items()}
      {'w/alignment': -1.0, 'w/gradient_dual_norm': 3.0, 'w/gradient_stable_rank': 1.25, 'w/update_ratio': 0.05,
       'w/weight_norm': 2.0, 'w/weight_stable_rank': 1.25}

    References:
      Large et al., Scalable Optimization in the Modular Norm, arXiv:2405.14813; Meyer et al.,
      Hutch++: Optimal Stochastic Trace Estimation, arXiv:2010.09649.
    """
    match = matching(specs, "mo.monitor(specs, tx)")
    check_transformation("inner", inner, "mo.monitor(specs, optax.adam(1e-3))")
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> MonitorState:
        inner_state = inner.init(params)
        if is_absent(params):
            return MonitorState(inner_state, UNLIKE_PARAMETERS, UNLIKE_PARAMETERS)  # pyright: ignore[reportArgumentType]
        measured, (weights,) = _normed(match(params), params)
        if any(map(is_abstract, weights.values())):
            # shapes have no directions yet: power iterations begin with the first update
            weights = {path: jnp.zeros(x.shape, x.dtype) for path, x in weights.items()}
        return _state(inner_state, measured, *_begin(measured, _axes(weights), weights))

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        refuse_without(params, "monitor", ", to measure them")
        changed, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        if is_absent(updates):
            return changed, state._replace(inner_state=inner_state)
        measured, arrays = _normed(match(updates), params, extra_args.get("grad", updates), changed)
        directions = {path: {} for path, _ in measured} | unnested(state.directions, dict(measured))
        # for people: a derivative with respect to what nobody optimizes would only bring its singularities along
        arrays, directions = jax.lax.stop_gradient((arrays, directions))
        measuring = replicated(partial(measure, measured, _axes(arrays[0])))
        return changed, _state(inner_state, measured, *measuring(*arrays, directions))

    return guarded(init, update)


def read_monitor(opt_state: optax.OptState) -> dict[str, float]:
    """The last measurements of all monitors in the state of an optimizer, for any logger.

    Args:
      opt_state: the state, however it is wrapped: chained, masked, partitioned, accumulated.

    Returns:
      A flat dictionary, `{"path/metric": value}`; see `monitor`. All 0 before the first update.

    Raises:
      ValueError: no monitor is in the state, two measure the same parameter, the state is that of an ensemble, or is
        traced.

    Example:
      >>> read_monitor(monitor(NormSpec(RMS())).init({"b": jnp.ones(3)}))["b/weight_norm"]
      0.0
    """
    monitors = list(_monitors(opt_state))
    if not monitors:
        raise ValueError("There is no monitor in this state; write tx = monitor(specs, tx).")
    if any(map(is_traced, jax.tree.leaves(opt_state))):
        raise ValueError(
            "Measurements are known when a step has been computed: write read_monitor(state) outside of jit."
        )
    # one transfer for all
    measured = jax.device_get([state.measurements for state in monitors])
    named = [(path, np.asarray(x)) for tree in measured for path, x in flatten_with_paths(tree)[0] if not is_absent(x)]
    counts = Counter(name for name, _ in named)
    if repeated := sorted({name.rpartition("/")[0] for name, count in counts.items() if count > 1}):
        one, many = "parameter is measured by several monitors", "parameters are measured by several monitors"
        raise ValueError(listing(one, many, repeated, "Read the state of one at a time, e.g. read_monitor(state[0])."))
    if any(value.ndim for _, value in named):
        advice = "read those of one member, read_monitor(jax.tree.map(lambda x: x[0], state))"
        raise ValueError(f"This state holds the measurements of several models: {advice}.")
    return {name: float(value) for name, value in named}


def _monitors(tree: Any) -> Iterator[MonitorState]:
    """All monitors, also those inside of others."""
    for node in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, MonitorState)):
        if isinstance(node, MonitorState) and isinstance(node.measurements, dict):
            yield node
            yield from _monitors(node.inner_state)


def _state(inner: Any, specs: Named, measured: Mapping[str, Any], onward: Mapping[str, Any]) -> MonitorState:
    directions = {path: of_parameter for path, of_parameter in onward.items() if of_parameter}
    return MonitorState(inner, nested(measured, dict(specs)), nested(directions, dict(specs)))


def _normed(leaves: Leaves, *trees: Any) -> tuple[Named, list[dict[str, Array]]]:
    """Specs of the parameters that have a norm, and their arrays in each of the trees, by path."""
    specs = leaves.where(lambda spec: spec.is_normed)
    return specs, [leaves.of(specs, tree) for tree in trees]


# compiled once for all states of the same parameters, also outside of `jit`; axes are found before: what is compiled by
# itself does not know of a `vmap` around
@partial(jax.jit, static_argnums=(0, 1))
def _begin(
    specs: Named, axes: tuple[str, ...], weights: dict[str, Array]
) -> tuple[dict[str, dict[str, Scalar]], Directions]:
    """Measurements of nothing yet, and where power iterations start."""
    # every measurement is a number, and under `shard_map` varies as its weight does
    zeros = {path: jnp.zeros_like(w, jnp.float32, shape=()) for path, w in weights.items()}
    nothing = {path: dict.fromkeys(names, zeros[path]) for path, names in names_measured(specs, weights).items()}
    return nothing, replicated(partial(first_directions, specs, axes))(weights)


def _axes(weights: dict[str, Array]) -> tuple[str, ...]:
    """The axes of the mesh in force to measure over."""
    return unclaimed(free_axes(None), next(iter(weights.values()))) if weights else ()
