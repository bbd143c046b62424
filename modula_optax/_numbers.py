"""Numbers of some parameters of one shape: norms, scales, singular values and ranks of every atom and matrix."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from modula_optax._canonical import ATOM, PerTap, Stack
from modula_optax._linalg import one_where_zero, scale_of
from modula_optax._norms import Norm
from modula_optax._sketch import Rows, gram_products, scaled_length, sketch_singular_values

# for every atom, or for each of its taps
Numbers = dict[str, Array]
# what power iterations follow, weights or updates: a vector for every matrix
Followed = dict[str, Array]

RANKS = ("weight_stable_rank", "gradient_stable_rank")
NUMBERS = ("weight_norm", "gradient_dual_norm", "update_norm", "gradient_scale", "update_scale", "inner", *RANKS)
_MATRIX = (-2, -1)
_FIRST_ITERATIONS = 32


def leading_rows(w: Stack, rows: Followed) -> tuple[Numbers, Followed]:
    """No numbers, and where power iterations on weights lead to from these rows."""
    x = w.reshape(-1, *w.shape[-2:])
    times, start = gram_products(x, scale_of(x, _MATRIX)), _in_pairs(rows["weight"])
    leading = jax.lax.fori_loop(0, _FIRST_ITERATIONS, lambda _, rows: _image(times, rows)[0], start)
    return {}, {"weight": leading[:, 0].reshape(rows["weight"].shape)}


def numbers_of(norm: Norm | None, w: Stack, g: Stack, u: Stack, rows: Followed) -> tuple[Numbers, Followed]:
    """What is measured of weights, gradients and updates, and where power iterations go on from these rows.

    `None` is a norm that is the largest singular value: then there is a number for every tap, none is exact, and
    lengths are not in units of `Spectral`.
    """
    axes = ATOM if norm else _MATRIX
    gradient, update = scale_of(g, axes), scale_of(u, axes)
    numbers = {
        "gradient_scale": jnp.squeeze(gradient, axes),
        "update_scale": jnp.squeeze(update, axes),
        "inner": jnp.sum((u / update) * g, axes) / jnp.squeeze(gradient, axes),
    }
    onward: Followed = {}
    if norm:
        numbers |= {"weight_norm": norm.norm(w), "update_norm": norm.norm(u), "gradient_dual_norm": norm.dual_norm(g)}
    else:
        scale = numbers["gradient_scale"]
        largest, total = sketch_singular_values(g.reshape(-1, *g.shape[-2:]), gradient.reshape(-1, 1, 1))
        largest, total = largest.reshape(scale.shape), total.reshape(scale.shape)
        s, onward["update"] = _followed(u, update, rows["update"])
        numbers |= {"update_norm": s * numbers["update_scale"], "gradient_dual_norm": scale * total}
        numbers["gradient_stable_rank"] = _stable_rank(g, gradient, largest)
    if rows:
        weight = scale_of(w, _MATRIX)
        s, onward["weight"] = _followed(w, weight, rows["weight"])
        numbers["weight_stable_rank"] = _stable_rank(w, weight, s)
        if not norm:
            numbers["weight_norm"] = s * weight[..., 0, 0]
    return numbers, onward


def _stable_rank(x: Stack, scale: Array, largest: PerTap) -> PerTap:
    return jnp.sum((x / scale) ** 2, _MATRIX) / one_where_zero(largest) ** 2


def _followed(x: Stack, scale: Array, rows: Array) -> tuple[PerTap, Array]:
    """Largest singular values over the scale, by one step of a power iteration, and where it has come to."""
    times = gram_products(x.reshape(-1, *x.shape[-2:]), scale.reshape(-1, 1, 1))
    image, lengths = _image(times, _in_pairs(rows.astype(x.dtype)))
    # never above the truth, as the rows have length 1
    return jnp.sqrt(lengths[:, 0]).reshape(x.shape[:2]), image[:, 0].reshape(rows.shape)


def _in_pairs(rows: Array) -> Rows:
    """A row for every matrix, and zeros below."""
    return jnp.pad(rows.reshape(-1, 1, rows.shape[-1]), ((0, 0), (0, 1), (0, 0)))


def _image(times: Callable[[Rows], Rows], rows: Rows) -> tuple[Rows, Array]:
    """The images of unit rows, as unit rows again, and how long they were."""
    image = times(rows)
    lengths = scaled_length(image)
    # what is zero or no number says nothing, and must not end the iteration for the steps to come
    return jnp.where((lengths > 0.0) & (lengths < jnp.inf), image / one_where_zero(lengths), rows), lengths
