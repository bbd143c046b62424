"""Muon, as a special case of modular duality: the spectral norm everywhere, with masses that give Muon's step sizes."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import DTypeLike
from optax.contrib import MuonDimensionNumbers

from modula_optax._align import Leaf
from modula_optax._arguments import check_dtype, check_numbers, check_rates, in_words
from modula_optax._axes import Axes, normalize_axes
from modula_optax._checks import AT_LEAST_0, DECAY, FINITE
from modula_optax._decay import decayed, decayed_where, marked
from modula_optax._dualize import dualize
from modula_optax._fallback import with_fallback
from modula_optax._layout import resolve_axes
from modula_optax._match import matching
from modula_optax._momentum import scale_by_momentum
from modula_optax._muon_norm import MuonNorms, copies, muon_norms, on_real_matrices, real_shape
from modula_optax._norms import Unnormed
from modula_optax._parameters import flatten_parameters
from modula_optax._paths import describe, is_absent, is_function, path_string
from modula_optax._registry import resolve_tree
from modula_optax._specs import NormSpec


def muon(
    learning_rate: optax.ScalarOrSchedule,
    ns_coeffs: str | Sequence[float] | Sequence[Sequence[float]] = (3.4445, -4.7750, 2.0315),
    ns_steps: jax.typing.ArrayLike = 5,
    beta: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Literal["frobenius", "spectral", "aol", "schatten"] = "frobenius",
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.999,
    adam_eps_root: jax.typing.ArrayLike = 0.0,
    adam_weight_decay: optax.ScalarOrSchedule = 0.0,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: Any | Callable[[optax.Params], Any] | None = None,
    consistent_rms: jax.typing.ArrayLike | None = None,
    mesh_axes: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Drop-in for `optax.contrib.muon`: the same arguments and the same steps, on grouped and batched matrices.

    .. math:: w \leftarrow w - \eta \sqrt{\max(1, d_{out} / d_{in})} \, U V^\top

    Complex matrices get :math:`U V^H`.

    Args:
      learning_rate: size of the step, or a schedule of it.
      ns_coeffs: a triple (a, b, c), one triple for each step, or `"standard"` or `"dion"`.
      ns_steps: number of Newton-Schulz steps, which may be traced (then at most 64 are taken); at least as many as
        triples, of which there is one for each step if there are several.
      beta: decay of the momentum.
      eps: stabilises Adam's denominator. Orthogonalization needs none: it does not depend on the gradient's scale.
      weight_decay: decoupled decay of matrices, multiplied with the learning rate.
      weight_decay_mask: which parameters decay; see `optax.add_decayed_weights`.
      mu_dtype: dtype of the momentum.
      nesterov: whether the momentum looks ahead.
      adaptive: whether steps are scaled by the dual norm of the momentum.
      preconditioning: the bound that matrices are scaled by; see `polar`.
      adam_b1: first decay of Adam, which updates what is no matrix; also the next four arguments.
      adam_b2: second decay of Adam.
      adam_eps_root: Adam's epsilon inside the square root.
      adam_weight_decay: decay of parameters that are no matrices.
      adam_learning_rate: `None`: that of the matrices.
      muon_weight_dimension_numbers: tree (or prefix of one, or a function that gives one) of
        `optax.contrib.MuonDimensionNumbers`, `None` for parameters that go to Adam. `None`: arrays of two axes.
      consistent_rms: scales steps by `sqrt(max(fan_in, fan_out)) * consistent_rms` instead.
      mesh_axes: axes of the mesh in force to share out the work over; see `dualize`.

    Returns:
      The corresponding transformation.

    Raises:
      ValueError: unknown preset or preconditioning, or more triples than steps.

    Example:
      >>> tx = muon(0.1)
      >>> params = {"kernel": jnp.eye(4), "bias": jnp.ones(4)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Jordan et al., Muon, 2024; Liu et al., Muon is Scalable for LLM Training, arXiv:2502.16982.
    """
    adam_learning_rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    check_rates("muon", learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    check_rates("muon", weight_decay=weight_decay, adam_weight_decay=adam_weight_decay)
    check_numbers("muon", DECAY, beta=beta, adam_b1=adam_b1, adam_b2=adam_b2)
    check_numbers("muon", AT_LEAST_0, eps=eps, adam_eps_root=adam_eps_root)
    check_numbers("muon", FINITE, consistent_rms=1.0 if consistent_rms is None else consistent_rms)
    check_dtype("mu_dtype", mu_dtype)
    norms = muon_norms(ns_coeffs, ns_steps, preconditioning)

    def specs(params: Any) -> Any:
        return _muon_specs(norms, muon_weight_dimension_numbers, consistent_rms is not None, params)

    def matrices(specs: Any, tree: Any) -> optax.GradientTransformation:
        decay = (
            decayed(weight_decay)
            if weight_decay_mask is None
            else decayed_where(marked(weight_decay_mask, specs, tree), weight_decay)
        )
        return optax.chain(
            scale_by_momentum(beta, nesterov=nesterov, accumulator_dtype=mu_dtype),
            on_real_matrices(
                _scale_by_dual_norm(specs, mesh_axes) if adaptive else dualize(specs, mesh_axes=mesh_axes)
            ),
            # a link of its own, since what masses are made of must not be traced
            optax.identity() if consistent_rms is None else optax.scale(consistent_rms),
            decay,
            optax.scale_by_learning_rate(learning_rate),
        )

    others = optax.adamw(
        adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=eps,
        eps_root=adam_eps_root,
        weight_decay=adam_weight_decay,
        mu_dtype=mu_dtype,
        nesterov=nesterov,
    )
    return with_fallback(specs, matrices, others, resolve=_resolve)


def _resolve(specs: Callable[[Any], Any], params: Any) -> Any:
    """Spec tree of the parameters, checked against the real matrices that stand for complex ones."""
    if is_absent(params):
        return resolve_tree(specs, params)
    flatten_parameters(params)
    return resolve_tree(specs(params), jax.tree.map(real_shape, params))


def _muon_specs(norms: MuonNorms, dimension_numbers: Any, consistent_rms: bool, params: Any) -> Any:
    """Spec tree in which a spectral step of learning rate 1 is as large as Muon's; see `MuonNorms` for complex ones."""

    def spec(path: Any, x: Any, numbers: tuple[MuonDimensionNumbers | None]) -> NormSpec:
        # nor has a matrix without entries a direction
        if numbers[0] is None or math.prod(x.shape) == 0:
            return NormSpec(Unnormed())
        try:
            axes = normalize_axes(Axes(numbers[0].reduction_axis, numbers[0].output_axis), x.shape)
        except ValueError as error:
            raise ValueError(
                f"{describe(path_string(path), x)}: {error}. In muon_weight_dimension_numbers, write "
                "MuonDimensionNumbers(reduction_axis=0, output_axis=1), with axes of this parameter, or None, which "
                "leaves it to Adam."
            ) from None
        fan_in, fan_out = _fans(axes, x.shape)
        scale = math.sqrt(max(fan_in, fan_out) if consistent_rms else max(1.0, fan_out / fan_in))
        norm, axes = norms.of(x, axes)
        return NormSpec(norm, axes, mass=scale * math.sqrt(fan_in / fan_out))

    return jax.tree_util.tree_map_with_path(spec, params, _for_each(dimension_numbers, params))


def _for_each(dimension_numbers: Any, params: Any) -> Any:
    """Tree of the parameters' structure: what a user says of each, in a tuple, since `None` is no leaf."""
    if dimension_numbers is None:
        return jax.tree.map(lambda x: (MuonDimensionNumbers() if x.ndim == 2 else None,), params)
    numbers = dimension_numbers(params) if is_function(dimension_numbers) else dimension_numbers

    def is_leaf(n: Any) -> bool:
        return n is None or isinstance(n, MuonDimensionNumbers)

    try:
        if not all(map(is_leaf, jax.tree.leaves(numbers, is_leaf=is_leaf))):
            raise ValueError("has leaves of another type")
        return jax.tree.map(lambda n, part: jax.tree.map(lambda _: (n,), part), numbers, params, is_leaf=is_leaf)
    except ValueError:
        raise ValueError(
            "muon_weight_dimension_numbers must be a tree of MuonDimensionNumbers and None, of the structure of the "
            f"parameters or a prefix of it, or a function that makes one; got {in_words(numbers)}. Write, such as,\n"
            "muon_weight_dimension_numbers=lambda params: jax.tree.map(\n"
            "    lambda p: optax.contrib.MuonDimensionNumbers() if p.ndim == 2 else None, params)"
        ) from None


def _scale_by_dual_norm(specs: Any, mesh_axes: Sequence[str] | None) -> optax.GradientTransformation:
    """The dual map times the nuclear norm of what it came from, as steepest descent without a learning rate has it."""
    dual_map, match = dualize(specs, mesh_axes=mesh_axes), matching(specs)

    def scale(leaf: Leaf, u: Any) -> Any:
        _, g, spec = leaf
        if not spec.is_normed:
            return u
        fan_in, fan_out = _fans(resolve_axes(spec, g.shape), g.shape)
        # u is the polar factor times this; the nuclear norm is the product of g with the polar factor alone
        gain = spec.target * math.sqrt(fan_out / fan_in) * copies(spec.norm)
        return jnp.sum(g * u) / gain * u

    def update(updates: optax.Updates, state: optax.OptState, params: Any = None):
        duals, state = dual_map.update(updates, state, params)
        leaves = match(updates)
        duals = leaves.by_path(duals)
        return leaves.rebuilt({leaf.path: scale(leaf, duals[leaf.path]) for leaf in leaves.entries}), state

    return optax.GradientTransformation(dual_map.init, update)


def _fans(axes: Axes, shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[i] for i in axes.fan_in), math.prod(shape[i] for i in axes.fan_out)
