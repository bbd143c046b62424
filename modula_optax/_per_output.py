"""Second moments of every output unit, after the dual map."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from modula_optax._align import Leaf, is_abstract
from modula_optax._arguments import check_numbers
from modula_optax._atomwise import map_atoms
from modula_optax._canonical import ATOM, Stack
from modula_optax._checks import ABOVE_0, AT_LEAST_0, DECAY
from modula_optax._guard import UNLIKE_PARAMETERS, guarded
from modula_optax._layout import atoms_shape
from modula_optax._linalg import length, one_where_zero, working_dtype
from modula_optax._match import matching
from modula_optax._mesh import replicated, varying_alike
from modula_optax._paths import is_absent, nested, unnested
from modula_optax._whitened_stacks import takes_operators


class OutputMomentsState(NamedTuple):
    """The running mean square of the weights' updates of every output unit, nested as parameters are."""

    moments: Any


def scale_by_output_moments(
    specs: Any,
    b2: jax.typing.ArrayLike = 0.95,
    *,
    eps: jax.typing.ArrayLike = 1e-8,
    rms: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Evens out how far output units move, as NorMuon does: after `dualize`, before the learning rate.

    .. math:: v_j \leftarrow \beta_2 v_j + (1 - \beta_2) \frac{1}{d_{in}} \sum_i U_{ij}^2, \qquad
      U_{ij} \leftarrow s \, \frac{U_{ij}}{\sqrt{v_j} + \epsilon}

    where s gives the update back its Euclidean length, or the root mean square `rms`. Which axis counts outputs is what
    the specs say. For every atom under `Spectral`, `SpectralNormalized` or `Frobenius`; other parameters pass.

    Args:
      specs: what the norm of each parameter is; see `dualize`.
      b2: decay of the mean squares, which begin at 0 and are not debiased.
      eps: stabilises the denominator.
      rms: root mean square of the entries that come out, 0.2 in the paper. `None`: length stays as it is, and with it
        the meaning of the learning rate.

    Returns:
      A transformation whose state is an `OutputMomentsState`: as many numbers as there are output units.

    Raises:
      ValueError: specs do not fit the parameters, `b2` is not in [0, 1), `eps` negative, or `rms` not above 0.

    Example:
      >>> tx = scale_by_output_moments(NormSpec(Frobenius()), rms=0.2)
      >>> u = jnp.array([[4.0, 0.1]])
      >>> tx.update(u, tx.init(u))[0].round(3)
      Array([[0.2, 0.2]], dtype=float32)

    References:
      Li et al., NorMuon, arXiv:2510.05491, algorithm 1.
    """
    match = matching(specs, "mo.scale_by_output_moments(specs)")
    check_numbers("scale_by_output_moments", DECAY, b2=b2)
    check_numbers("scale_by_output_moments", AT_LEAST_0, eps=eps)
    check_numbers("scale_by_output_moments", ABOVE_0, rms=1.0 if rms is None else rms)

    def init(params: optax.Params) -> OutputMomentsState:
        if is_absent(params):
            return OutputMomentsState(UNLIKE_PARAMETERS)

        def first(leaf: Leaf) -> jax.Array:
            n, _, _, outputs = atoms_shape(leaf.spec, leaf.value.shape)
            return jnp.zeros((n, 1, 1, outputs), working_dtype(leaf.value.dtype))

        leaves = [leaf for leaf in match(params).entries if takes_operators(leaf.spec)]
        paths = {leaf.path for leaf in leaves}
        moments = nested(replicated(lambda: {leaf.path: first(leaf) for leaf in leaves})(), paths)
        # inside `shard_map` they vary over devices as updates do
        arrays = [leaf.value for leaf in leaves if not is_abstract(leaf.value)]
        return OutputMomentsState(varying_alike((moments, arrays))[0] if arrays else moments)

    def scaled(u: Stack, v: Array) -> tuple[Stack, Array]:
        kept, decay = v.dtype, jnp.asarray(b2, u.dtype)
        v = decay * v.astype(u.dtype) + (1 - decay) * jnp.mean(u * u, axis=(-3, -2), keepdims=True)
        # a root has no derivative at zero, where nothing was seen
        roots = jnp.where(v > 0.0, jnp.sqrt(one_where_zero(v)), v)
        even = u / one_where_zero(roots + jnp.asarray(eps, u.dtype))
        size, wanted = length(even, ATOM), length(u, ATOM)
        if rms is not None:
            wanted = jnp.asarray(rms, u.dtype) * (u[0].size ** 0.5)
        return even * (wanted / one_where_zero(size))[:, None, None, None], v.astype(kept)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any):
        del params, extra_args
        if is_absent(updates):
            return updates, state
        leaves = match(updates)
        paths = {path for path, _ in leaves.where(takes_operators)}
        updates, moments = map_atoms(scaled, leaves, takes_operators, memory=unnested(state.moments, paths))
        return updates, OutputMomentsState(nested(moments, paths))

    return guarded(init, update)
