"""Numbers of matrices of one length of vectors, whatever they are read from: sizes, singular values and ranks."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from modula_optax._canonical import Stack, spectral_gain_of
from modula_optax._linalg import length, one_where_zero, scale_of, unit
from modula_optax._norms import Norm
from modula_optax._sketch import sketch_singular_values
from modula_optax._visit import Matrices, Rows, gram_products, visit

# for every matrix, or for every atom of a norm of its own
Numbers = dict[str, Float[Array, " n"]]
# one for every matrix, by what is followed: weights or updates
Followed = dict[str, Float[Array, "n short"]]

RANKS = ("weight_stable_rank", "gradient_stable_rank")
NUMBERS = ("weight_norm", "gradient_dual_norm", "update_norm", "gradient_scale", "update_scale", "inner", *RANKS)
_FIRST_ITERATIONS = 32


class Kind(NamedTuple):
    """Matrices of one norm and one shape, in each place as weights, gradients and updates.

    Norms that are the largest singular value are one, `None`: theirs are estimates, without a decomposition.
    """

    norm: Norm | None
    places: Sequence[Mapping[str, Matrices]]

    @property
    def looks(self) -> list[Callable[[], dict[str, Stack]]]:
        """For every place, a function that reads what is there."""
        return [lambda place=place: {what: x.read() for what, x in place.items()} for place in self.places]


def leading_rows(kinds: Sequence[Kind], rows: Followed) -> tuple[Numbers, Followed]:
    """No numbers, and where power iterations on weights lead to from these rows."""
    scales = jnp.concatenate([visit(kind.looks, then=_scale).ravel() for kind in kinds])
    times = gram_products(_matrices(kinds, "weight"), scales)
    leading = jax.lax.fori_loop(0, _FIRST_ITERATIONS, lambda _, rows: _next(rows, times(rows)), rows["weight"][:, None])
    return {}, {"weight": leading[:, 0]}


def numbers_of(kinds: Sequence[Kind], rows: Followed) -> tuple[Numbers, Followed]:
    """All numbers, and where power iterations go on from these rows."""
    seen = [visit(kind.looks, then=partial(_sizes, kind.norm)) for kind in kinds]
    numbers = {name: jnp.concatenate([each[name].ravel() for each in seen]) for name in seen[0]}
    largest, onward = _follow(kinds, rows, numbers) if rows else ({}, {})
    if kinds[0].norm is None:
        scale = numbers["gradient_scale"]
        times = gram_products(_matrices(kinds, "gradient"), scale)
        largest["gradient"], total = sketch_singular_values(times, len(scale), rows["weight"].shape[-1], scale.dtype)
        gains = [np.full(m.total, spectral_gain_of(m.shape)) for m in _matrices(kinds, "weight")]
        gains = jnp.asarray(np.concatenate(gains), scale.dtype)
        for what in rows:
            numbers[f"{what}_norm"] = largest[what] * numbers[f"{what}_scale"] / gains
        numbers["gradient_dual_norm"] = gains * scale * total
    for name in RANKS:
        what, *_ = name.split("_")
        if what in largest:
            numbers[name] = numbers[f"{what}_squares"] / one_where_zero(largest[what]) ** 2
    return numbers, onward


def _matrices(kinds: Sequence[Kind], what: str) -> list[Matrices]:
    return [place[what] for kind in kinds for place in kind.places]


def _scale(arrays: Mapping[str, Stack]) -> Float[Array, "n taps"]:
    return scale_of(arrays["weight"], (-2, -1))[..., 0, 0]


def _sizes(norm: Norm | None, arrays: Mapping[str, Stack]) -> dict[str, Array]:
    """What is read off entries: norms, scales, and in units of these squares and inner products."""
    w, g, u = (arrays[what] for what in ("weight", "gradient", "update"))
    axes = (-2, -1) if norm is None else (-3, -2, -1)
    gradient, update = scale_of(g, axes), scale_of(u, axes)
    sizes = {
        "gradient_scale": jnp.squeeze(gradient, axes),
        "update_scale": jnp.squeeze(update, axes),
        "inner": jnp.sum((g / gradient) * (u / update), axes),
    }
    if norm is None:
        sizes["gradient_squares"] = jnp.sum((g / gradient) ** 2, axes)
    else:
        sizes |= {"weight_norm": norm.norm(w), "update_norm": norm.norm(u), "gradient_dual_norm": norm.dual_norm(g)}
    if min(w.shape[-2:]) > 1 or norm is None:
        weight = scale_of(w, (-2, -1))
        sizes |= {"weight_scale": weight[..., 0, 0], "weight_squares": jnp.sum((w / weight) ** 2, (-2, -1))}
    return sizes


def _follow(kinds: Sequence[Kind], rows: Followed, numbers: Numbers) -> tuple[Numbers, Followed]:
    """Largest singular values over scales, by one step of a power iteration, and where it has come to."""
    each = jnp.concatenate(list(rows.values()))[:, None]
    scales = jnp.concatenate([numbers[f"{what}_scale"] for what in rows])
    image = gram_products([m for what in rows for m in _matrices(kinds, what)], scales)(each.astype(scales.dtype))
    # never above the truth, as the rows have length 1
    largest, onward = jnp.sqrt(length(image[:, 0], -1)), _next(each, image)[:, 0]
    parts = (dict(zip(rows, jnp.split(x, len(rows)), strict=True)) for x in (largest, onward))
    return next(parts), next(parts)


def _next(rows: Rows, image: Rows) -> Rows:
    """What is zero or no number says nothing, and must not end the iteration for the steps to come."""
    onward = unit(image, -1)
    return jnp.where(jnp.any(jnp.abs(onward) > 0.0, axis=-1, keepdims=True), onward, rows)
