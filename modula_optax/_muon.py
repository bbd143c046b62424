"""Muon, as a special case of modular duality: the spectral norm everywhere, with masses that give Muon's step sizes."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import DTypeLike
from optax.contrib import MuonDimensionNumbers

from modula_optax._align import Leaf, resolve_axes
from modula_optax._axes import Axes
from modula_optax._coefficients import Coefficients
from modula_optax._decay import decayed
from modula_optax._dualize import dualize
from modula_optax._momentum import scale_by_momentum
from modula_optax._norms import Spectral, Unnormed
from modula_optax._optimizers import with_fallback
from modula_optax._registry import resolve
from modula_optax._specs import NormSpec

_PRESETS = {"standard": "muon", "dion": "five-step"}


def muon(
    learning_rate: optax.ScalarOrSchedule,
    ns_coeffs: str | Sequence[float] | Sequence[Sequence[float]] = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
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
    consistent_rms: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Drop-in for `optax.contrib.muon`: the same arguments and the same steps, on grouped and batched matrices.

    .. math:: w \leftarrow w - \eta \sqrt{\max(1, d_{out} / d_{in})} \, U V^\top

    Args:
      learning_rate: size of the step, or a schedule of it.
      ns_coeffs: a triple (a, b, c), one triple for each step, or `"standard"` or `"dion"`.
      ns_steps: number of Newton-Schulz steps; at least as many as triples, of which there is one for each step if
        there are several.
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
    norm = Spectral(_coefficients(ns_coeffs, ns_steps), ns_steps, preconditioning)

    def specs(params: Any) -> Any:
        return _muon_specs(norm, muon_weight_dimension_numbers, consistent_rms, params)

    def matrices(specs: Any) -> optax.GradientTransformation:
        return optax.chain(
            scale_by_momentum(beta, nesterov=nesterov, accumulator_dtype=mu_dtype),
            _scale_by_dual_norm(specs) if adaptive else dualize(specs),
            decayed(weight_decay, weight_decay_mask),
            optax.scale_by_learning_rate(learning_rate),
        )

    others = optax.adamw(
        learning_rate if adam_learning_rate is None else adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=eps,
        eps_root=adam_eps_root,
        weight_decay=adam_weight_decay,
        mu_dtype=mu_dtype,
        nesterov=nesterov,
    )
    return with_fallback(specs, matrices, others)


def _coefficients(ns_coeffs: str | Sequence[Any], ns_steps: int) -> Coefficients:
    if isinstance(ns_coeffs, str):
        if ns_coeffs not in _PRESETS:
            raise ValueError(f"Unknown ns_coeffs {ns_coeffs!r}. Write 'standard', 'dion', or triples (a, b, c).")
        return _PRESETS[ns_coeffs]
    if np.ndim(ns_coeffs) == 2:
        if len(ns_coeffs) > ns_steps:
            raise ValueError(f"{len(ns_coeffs)} triples in ns_coeffs need as many ns_steps; got ns_steps={ns_steps}.")
        return ns_coeffs
    return (ns_coeffs,)


def _muon_specs(norm: Spectral, dimension_numbers: Any, consistent_rms: float | None, params: Any) -> Any:
    """Spec tree in which a spectral step of learning rate 1 is as large as Muon's."""

    def spec(numbers: MuonDimensionNumbers | None, x: Any) -> NormSpec:
        if numbers is None:
            return NormSpec(Unnormed())
        axes = Axes(numbers.reduction_axis, numbers.output_axis)
        fan_in, fan_out = _fans(axes, x.shape)
        if consistent_rms is None:
            scale = math.sqrt(max(1.0, fan_out / fan_in))
        else:
            scale = math.sqrt(max(fan_in, fan_out)) * consistent_rms
        return NormSpec(norm, axes, mass=scale * math.sqrt(fan_in / fan_out))

    if dimension_numbers is None:
        return jax.tree.map(lambda x: spec(MuonDimensionNumbers() if x.ndim == 2 else None, x), params)
    numbers = dimension_numbers(params) if callable(dimension_numbers) else dimension_numbers
    return jax.tree.map(
        lambda n, subtree: jax.tree.map(lambda x: spec(n, x), subtree),
        numbers,
        params,
        is_leaf=lambda n: n is None or isinstance(n, MuonDimensionNumbers),
    )


def _scale_by_dual_norm(specs: Any) -> optax.GradientTransformation:
    """The dual map times the nuclear norm of what it came from, as steepest descent without a learning rate has it."""
    dual_map = dualize(specs)

    def scale(leaf: Leaf, u: Any) -> Any:
        _, g, spec = leaf
        if not spec.is_normed:
            return u
        fan_in, fan_out = _fans(resolve_axes(spec, g.shape), g.shape)
        # u is the polar factor times this; the nuclear norm is the product of g with the polar factor alone
        gain = spec.target * math.sqrt(fan_out / fan_in)
        return jnp.sum(g * u) / gain * u

    def update(updates: optax.Updates, state: optax.OptState, params: Any = None):
        duals, state = dual_map.update(updates, state, params)
        leaves, treedef = resolve(specs, updates)
        scaled = [scale(*pair) for pair in zip(leaves, treedef.flatten_up_to(duals), strict=True)]
        return treedef.unflatten(scaled), state

    return optax.GradientTransformation(dual_map.init, update)


def _fans(axes: Axes, shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[i] for i in axes.fan_in), math.prod(shape[i] for i in axes.fan_out)
