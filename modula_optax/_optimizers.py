"""Optimizers: each a short chain of Optax links around `dualize`."""

from collections.abc import Sequence
from typing import Any

import jax
import optax
from jaxtyping import DTypeLike

from modula_optax._arguments import check_dtype, check_numbers, check_rates, check_specs
from modula_optax._checks import DECAY, SHARE, as_count_unless_traced
from modula_optax._decay import WEIGHT_DECAY, decayed
from modula_optax._dualize import dualize
from modula_optax._dualize_whitened import dualize_whitened
from modula_optax._fallback import with_fallback
from modula_optax._momentum import scale_by_momentum
from modula_optax._project import keep_params_projected
from modula_optax._steepest import Links, steepest


def modular(
    learning_rate: optax.ScalarOrSchedule,
    specs: Any,
    *,
    b1: jax.typing.ArrayLike = 0.9,
    nesterov: bool = True,
    weight_decay: optax.ScalarOrSchedule = WEIGHT_DECAY,
    weight_decay_mask: Any = None,
    accumulator_dtype: DTypeLike | None = None,
    fallback: optax.GradientTransformation = optax.adam(1e-3),
    mesh_axes: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Modular duality: momentum, then the steepest step under the norms of a network's parameters.

    .. math:: w_i \leftarrow w_i - \eta \left( \frac{m_i}{s_i} \, \text{dualize}_i(\mu_i) + \lambda_i w_i \right)

    Its defaults, with the masses of `infer_specs`, were chosen together on a panel of networks; what is left to choose
    is the learning rate. Start with 0.05, warmed up over some percent of the steps and falling to zero.

    Args:
      learning_rate: modular norm moved per step, or a schedule of it; not Adam's, which are a hundred times smaller.
      specs: what the norm of each parameter is: a spec tree, a prefix of one, a `NormRegistry`, or a function from
        parameters to a spec tree. Constraints are kept after every step.
      b1: decay of the momentum.
      nesterov: whether the momentum looks ahead.
      weight_decay: decoupled decay :math:`\lambda`, multiplied with the learning rate. Where anything decays,
        `update` needs the parameters.
      weight_decay_mask: which parameters decay: a tree of booleans, a prefix of one (`True` for everything), or a
        function from parameters to either, as in `optax.adamw`. `None`: hidden matrices, by the `role` and the `place`
        of their specs, or, where these say nothing, by a norm that is meant for them, such as `Spectral`; not those of
        mass 0. `Unnormed` parameters never do.
      accumulator_dtype: dtype of the momentum; `None`: that of the parameters.
      fallback: what updates `Unnormed` parameters, learning rate included.
      mesh_axes: axes of the mesh in force to share out the work over; see `dualize`.

    Returns:
      The corresponding transformation.

    Raises:
      ValueError: specs or mask do not fit the parameters, or a decay is asked for that is of no parameter; raised by
        `init`.

    Warns:
      UserWarning: in `init`, if the learning rate, or the highest of the first 1,000 of its schedule, is below 0.002.

    Example:
      >>> tx = modular(0.5, NormRegistry(Rule(r".*/kernel", Spectral()), default=Unnormed()))
      >>> params = {"dense": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> f"{-updates['dense']['kernel'][0, 0]:.3f}"  # 0.5 (1 + 0.03)
      '0.515'

    References:
      Large et al., Scalable Optimization in the Modular Norm, arXiv:2405.14813; Bernstein & Newhouse,
      Modular Duality in Deep Learning, arXiv:2410.21265.
    """
    check_rates("modular", learning_rate=learning_rate, weight_decay=weight_decay)
    check_numbers("modular", DECAY, b1=b1)
    check_specs(specs)

    def direction(specs: Any) -> Links:
        return (
            # averages before the direction is taken: the dual map of a noisy gradient is mostly noise
            scale_by_momentum(b1, nesterov=nesterov, accumulator_dtype=accumulator_dtype),
            dualize(specs, mesh_axes=mesh_axes),
        )

    return steepest("modular", direction, learning_rate, specs, weight_decay, weight_decay_mask, fallback, mesh_axes)


def whitened(
    learning_rate: optax.ScalarOrSchedule,
    specs: Any,
    *,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.9,
    every: int = 10,
    max_size: int = 2048,
    nesterov: bool = True,
    weight_decay: optax.ScalarOrSchedule = WEIGHT_DECAY,
    weight_decay_mask: Any = None,
    accumulator_dtype: DTypeLike | None = None,
    fallback: optax.GradientTransformation = optax.adam(1e-3),
    mesh_axes: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""`modular` in a metric that is learned: the steepest step where recent gradients are isotropic.

    .. math:: w_i \leftarrow w_i - \eta \left( \frac{m_i}{s_i} \, u_i + \lambda_i w_i \right), \qquad
      u_i = L_i^{-1/4} \; \text{dualize}_i(L_i^{-1/4} \mu_i R_i^{-1/4}) \; R_i^{-1/4}

    with :math:`L` and :math:`R` the second moments of the gradients of a matrix, `dualize_whitened`, which says what it
    needs of memory. In everything else it is `modular`; start with a learning rate of 0.05, or a little more.

    Args:
      learning_rate: modular norm moved per step, or a schedule of it; see `modular`.
      specs: what the norm of each parameter is; see `modular`.
      b1: decay of the momentum.
      b2: decay of what is learned of the gradients.
      every: steps from one pair of bases to the next.
      max_size: the largest side of a matrix that is given a basis.
      nesterov: whether the momentum looks ahead.
      weight_decay: decoupled decay, multiplied with the learning rate.
      weight_decay_mask: which parameters decay; `None`: hidden matrices. See `modular`.
      accumulator_dtype: dtype of the momentum; `None`: that of the parameters.
      fallback: what updates `Unnormed` parameters, learning rate included.
      mesh_axes: axes of the mesh in force to share out the work over; see `dualize`.

    Returns:
      The corresponding transformation.

    Raises:
      ValueError: specs or mask do not fit the parameters, or a decay is asked for that is of no parameter; raised by
        `init`. `every` or `max_size` is not an integer of at least 1.

    Warns:
      UserWarning: in `init`, if the learning rate is as small as Adam's; see `modular`.

    Example:
      >>> tx = whitened(0.5, NormSpec(Spectral()), every=1, weight_decay=0.0)
      >>> grads = {"w": jnp.diag(jnp.array([5.0, 0.1]))}
      >>> tx.update(grads, tx.init(grads))[0]["w"].round(1) + 0.0
      Array([[-0.2,  0. ],
             [ 0. , -0.7]], dtype=float32)

    References:
      Large et al., Scalable Optimization in the Modular Norm, arXiv:2405.14813; Gupta et al., Shampoo,
      arXiv:1802.09568; Zhang et al., Mousse, arXiv:2603.09697.
    """
    check_rates("whitened", learning_rate=learning_rate, weight_decay=weight_decay)
    check_numbers("whitened", DECAY, b1=b1, b2=b2)
    check_specs(specs)
    every = as_count_unless_traced("every", every)
    max_size = as_count_unless_traced("max_size", max_size)

    def direction(specs: Any) -> Links:
        return (
            # in place of momentum and dual map
            dualize_whitened(
                specs,
                b1,
                nesterov=nesterov,
                b2=b2,
                every=every,
                max_size=max_size,
                accumulator_dtype=accumulator_dtype,
                mesh_axes=mesh_axes,
            ),
        )

    return steepest("whitened", direction, learning_rate, specs, weight_decay, weight_decay_mask, fallback, mesh_axes)


def scion(
    learning_rate: optax.ScalarOrSchedule,
    specs: Any,
    *,
    momentum: jax.typing.ArrayLike = 0.1,
    constrained: bool = False,
    accumulator_dtype: DTypeLike | None = None,
    fallback: optax.GradientTransformation = optax.adam(1e-3),
    mesh_axes: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Scion: steps to (or towards) the extreme points of norm balls; the mass of a spec is the radius of its ball.

    .. math:: \mu \leftarrow (1 - \alpha) \mu + \alpha g, \qquad
      w \leftarrow w - \eta \rho \, \text{dualize}(\mu) \quad \text{or} \quad
      w \leftarrow (1 - \eta) w - \eta \rho \, \text{dualize}(\mu)

    The paper's choice for a language model: `Spectral()` of mass 50 for matrices, `Sign()` of mass 3000 for the output
    layer and for tied tables, `RMS()` for biases; it starts from weights on the ball (`initialize`, times the mass).

    Args:
      learning_rate: fraction of the radius moved per step, or a schedule of it.
      specs: what the norm of each parameter is; see `modular`.
      momentum: weight :math:`\alpha` of the newest gradient; 1 for none.
      constrained: the second form, which keeps weights inside their balls (Frank-Wolfe).
      accumulator_dtype: dtype of the momentum; `None`: that of the parameters.
      fallback: what updates `Unnormed` parameters, learning rate included.
      mesh_axes: axes of the mesh in force to share out the work over; see `dualize`.

    Returns:
      The corresponding transformation.

    Raises:
      ValueError: specs do not fit the parameters; raised by `init`.

    Example:
      >>> tx = scion(0.1, NormSpec(Sign(), mass=3.0))
      >>> grads = {"head": jnp.array([[1.0], [-2.0]])}
      >>> tx.update(grads, tx.init(grads), grads)[0]["head"]
      Array([[-0.15],
             [ 0.15]], dtype=float32)

    References:
      Pethick et al., Training Deep Learning Models with Norm-Constrained LMOs, arXiv:2502.07529.
    """
    check_rates("scion", learning_rate=learning_rate)
    check_numbers("scion", SHARE, momentum=momentum)
    check_dtype("accumulator_dtype", accumulator_dtype)
    check_specs(specs, "mo.scion(0.05, specs)")

    def normed(specs: Any, tree: Any) -> optax.GradientTransformation:
        del tree
        return optax.chain(
            # debiased or not, since the dual map forgets the length of the average
            scale_by_momentum(1 - momentum, nesterov=False, accumulator_dtype=accumulator_dtype),
            dualize(specs, mesh_axes=mesh_axes),
            # w + η (ρ · extreme point − w) is a decay of one
            decayed(1.0 if constrained else 0.0),
            optax.scale_by_learning_rate(learning_rate),
            keep_params_projected(
                specs, learning_rate=learning_rate, weight_decay=1.0 if constrained else 0.0, mesh_axes=mesh_axes
            ),
        )

    return with_fallback(specs, normed, fallback)
