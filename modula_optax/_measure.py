"""What `monitor` measures, parameters of one shape in one loop, and where its power iterations go on."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Scalar

from modula_optax._align import atoms, atoms_shape
from modula_optax._canonical import Stack, spectral_gain_of
from modula_optax._linalg import length, one_where_zero, scale_of, unit, working_dtype
from modula_optax._mesh import varying_alike
from modula_optax._norms import Norm, Spectral, SpectralNormalized
from modula_optax._sketch import random_rows, sketch_singular_values
from modula_optax._specs import NormSpec
from modula_optax._visit import Matrices, PerMatrix, Rows, gram_products, visit
from modula_optax._xla import cut

# the parameters that have a norm, by path
Measured = tuple[tuple[str, NormSpec], ...]
Arrays = dict[str, Array]
# by path and by what is followed, weights or updates
Directions = dict[str, dict[str, Array]]
# numbers by what they are; for every matrix, or for every parameter
Numbers = dict[str, Float[Array, " n"]]

_OF_ALL = ("weight_norm", "gradient_dual_norm", "update_ratio", "alignment")
_FIRST_ITERATIONS = 32


class _Family(NamedTuple):
    """Parameters of one norm and one shape; norms by singular values are one, `None`."""

    norm: Norm | None
    shape: tuple[int, int, int, int]
    dtype: DTypeLike
    members: Measured

    @property
    def matrices(self) -> int:
        """How many every parameter has."""
        return self.shape[0] * self.shape[1]

    @property
    def followed(self) -> tuple[str, ...]:
        """What power iterations follow."""
        if self.norm is None:
            return "weight", "update"
        return ("weight",) if min(self.shape[2:]) > 1 else ()

    @property
    def sort(self) -> tuple[Any, ...]:
        """What those agree in that are measured together; what is by singular values comes first."""
        return -len(self.followed), str(jnp.dtype(self.dtype)), min(self.shape[2:]) if self.followed else 0

    def read(self, arrays: Arrays, member: tuple[str, NormSpec]) -> Stack:
        """The atoms of a parameter."""
        path, spec = member
        return atoms(arrays[path], spec).astype(self.dtype)

    def to_visit(self, arrays: Arrays) -> list[Matrices]:
        """The matrices of all parameters."""
        return [Matrices(partial(self.read, arrays, member), self.shape) for member in self.members]


def names_measured(specs: Measured, weights: Arrays) -> dict[str, tuple[str, ...]]:
    """What is measured of every parameter, by path."""
    return {path: _names(family) for sort in _sorts(specs, weights) for family in sort for path, _ in family.members}


def _names(family: _Family) -> tuple[str, ...]:
    ranks = "weight_stable_rank", "gradient_stable_rank"
    return *_OF_ALL, *ranks[: len(family.followed)]


def first_directions(specs: Measured, weights: Arrays) -> Directions:
    """Where power iterations start: at leading singular vectors of weights, at random for updates."""
    weights = varying_alike(weights)
    directions: Directions = {path: {} for path, _ in specs}
    for families in filter(lambda families: families[0].followed, _sorts(specs, weights)):
        scales = jnp.concatenate([visit(_looks(f, weights), then=_scale).ravel() for f in families])
        times = gram_products([m for f in families for m in f.to_visit(weights)], scales)
        # under `shard_map` what a loop carries must vary over devices from the beginning, as the matrices may
        start = random_rows(len(scales), 1, families[0].sort[-1], scales.dtype) + 0 * scales[:, None, None]
        leading = jax.lax.fori_loop(0, _FIRST_ITERATIONS, lambda _, rows, times=times: _next(rows, times(rows)), start)
        for what, rows in zip(families[0].followed, (leading, start), strict=False):
            _put(directions, what, families, rows)
    return directions


def measure(
    specs: Measured, weights: Arrays, grads: Arrays, updates: Arrays, directions: Directions
) -> tuple[dict[str, dict[str, Scalar]], Directions]:
    """All measurements of all parameters, and where power iterations go on."""
    weights, grads, updates, directions = varying_alike((weights, grads, updates, directions))
    onward: Directions = {path: {} for path, _ in specs}
    keys, numbers = [], []
    for families in _sorts(specs, weights):
        found = [visit(_looks(f, weights, grads, updates), then=partial(_sizes, f)) for f in families]
        sizes = {name: jnp.concatenate([each[name].ravel() for each in found]) for name in found[0]}
        if families[0].followed:
            sizes |= _follow(families, {"weight": weights, "update": updates}, sizes, directions, onward)
        if families[0].norm is None:
            sizes |= _sketch(families, grads, sizes["gradient_scale"])
        result = _in_norms(families, sizes)
        for name in _names(families[0]):
            keys += [(path, name) for family in families for path, _ in family.members]
            numbers.append(result[name].astype(jnp.float32))
    measurements: dict[str, dict[str, Scalar]] = {path: {} for path, _ in specs}
    if not keys:
        return measurements, onward
    for (path, name), number in zip(keys, _apart(jnp.concatenate(numbers), [1] * len(keys)), strict=True):
        measurements[path][name] = number.reshape(())
    return measurements, onward


def _sorts(specs: Measured, weights: Arrays) -> list[list[_Family]]:
    """Families that are measured together, those of as many matrices beside each other."""
    members: dict[tuple[Norm | None, tuple[int, int, int, int], DTypeLike], list[tuple[str, NormSpec]]] = defaultdict(
        list
    )
    for path, spec in specs:
        norm = None if isinstance(spec.norm, Spectral | SpectralNormalized) else spec.norm
        members[norm, atoms_shape(spec, weights[path].shape), working_dtype(weights[path].dtype)].append((path, spec))
    families = [_Family(*key, members=tuple(group)) for key, group in members.items()]
    families.sort(key=lambda f: (f.sort, f.matrices))
    return [list(sort) for _, sort in itertools.groupby(families, key=lambda f: f.sort)]


def _looks(family: _Family, *trees: Arrays) -> list[Callable[[], tuple[Stack, ...]]]:
    """For every parameter, a function that reads it in each of the trees."""
    return [lambda member=member: tuple(family.read(tree, member) for tree in trees) for member in family.members]


def _scale(arrays: tuple[Stack, ...]) -> Float[Array, "n taps"]:
    return scale_of(arrays[0], (-2, -1))[..., 0, 0]


def _sizes(family: _Family, arrays: tuple[Stack, Stack, Stack]) -> Numbers:
    """Of one parameter, what is read off its entries: scales of matrices and sums of squares, or norms."""
    w, g, u = arrays
    scales = [scale_of(x, (-2, -1)) for x in arrays]
    sizes = {}
    for what, x, scale in zip(("weight", "gradient"), (w, g), scales, strict=False):
        if what == "weight" or family.norm is None:
            sizes |= {f"{what}_scale": scale[..., 0, 0], f"{what}_squares": jnp.sum((x / scale) ** 2, (-2, -1))}
    if family.norm is None:
        inner = jnp.sum((g / scales[1]) * (u / scales[2]), (-2, -1))
        return sizes | {"update_scale": scales[2][..., 0, 0], "inner": inner}
    norms = jnp.max(family.norm.norm(w)), jnp.max(family.norm.norm(u)), jnp.sum(family.norm.dual_norm(g))
    # divided before they are multiplied: 1e-30 times 1e-30 is 0 in float32
    alignment = jnp.sum((g / one_where_zero(norms[2])) * (u / one_where_zero(norms[1])))
    norms = dict(zip(("weight_norm", "update_norm", "gradient_dual_norm"), norms, strict=True))
    return (sizes if family.followed else {}) | norms | {"alignment": alignment}


def _follow(
    families: Sequence[_Family], trees: dict[str, Arrays], sizes: Numbers, directions: Directions, onward: Directions
) -> Numbers:
    """Largest singular values over scales, by a power iteration that goes on from `directions` to `onward`."""
    followed = [(f, what) for f in families for what in families[0].followed]
    counts = [len(f.members) * f.matrices for f, _ in followed]
    places = {what: [] for what in families[0].followed}
    for (_, what), indices in zip(followed, np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1]), strict=True):
        places[what].append(indices)
    places = {what: np.concatenate(indices) for what, indices in places.items()}
    # back from the order of what is followed to that of sizes, and forth
    forth = np.argsort(np.concatenate(list(places.values())))
    scales = jnp.concatenate([sizes[f"{what}_scale"] for what in places])[forth]
    rows = [directions[path][what] for f, what in followed for path, _ in f.members]
    rows = jnp.concatenate([x.reshape(-1, 1, x.shape[-1]) for x in rows]).astype(scales.dtype)
    image = gram_products([m for f, what in followed for m in f.to_visit(trees[what])], scales)(rows)
    # never above the truth, as the rows have length 1
    largest, rows = jnp.sqrt(length(image[:, 0], -1)), _next(rows, image)
    for what, indices in places.items():
        _put(onward, what, families, rows[indices])
    return {f"{what}_largest": largest[indices] for what, indices in places.items()}


def _next(rows: Rows, image: Rows) -> Rows:
    """What is zero or no number says nothing, and must not end the iteration for the steps to come."""
    onward = unit(image, -1)
    return jnp.where(jnp.any(jnp.abs(onward) > 0.0, axis=-1, keepdims=True), onward, rows)


def _sketch(families: Sequence[_Family], grads: Arrays, scales: PerMatrix) -> Numbers:
    times = gram_products([m for f in families for m in f.to_visit(grads)], scales)
    largest, total = sketch_singular_values(times, len(scales), families[0].sort[-1], scales.dtype)
    return {"gradient_largest": largest, "gradient_total": total}


def _in_norms(families: Sequence[_Family], sizes: Numbers) -> Numbers:
    """One number for each metric and parameter: over matrices as the modular norm and its dual have it."""
    over = _over_matrices(families)
    result = dict(sizes)
    for what in ("weight", "gradient"):
        if f"{what}_largest" in sizes:
            ranks = sizes[f"{what}_squares"] / one_where_zero(sizes[f"{what}_largest"]) ** 2
            result[f"{what}_stable_rank"] = over(jnp.mean, ranks)
    if families[0].norm is None:
        gains = [spectral_gain_of(f.shape) for f in families for _ in range(len(f.members) * f.matrices)]
        gains = jnp.asarray(gains, sizes["inner"].dtype)
        for what in ("weight", "update"):
            result[f"{what}_norm"] = over(jnp.max, sizes[f"{what}_largest"] * sizes[f"{what}_scale"] / gains)
        scale = sizes["gradient_scale"]
        dual = over(jnp.sum, gains * scale * sizes["gradient_total"])
        # divided before they are multiplied: 1e-30 times 1e-30 is 0 in float32
        owners = np.repeat(np.arange(len(dual)), [f.matrices for f in families for _ in f.members])
        divisors = one_where_zero(dual)[owners], one_where_zero(result["update_norm"])[owners]
        aligned = (scale / divisors[0]) * (sizes["update_scale"] / divisors[1]) * sizes["inner"]
        result |= {"gradient_dual_norm": dual, "alignment": over(jnp.sum, aligned)}
    norm = result["weight_norm"]
    result["update_ratio"] = jnp.where(norm == 0.0, 0.0, result["update_norm"] / one_where_zero(norm))
    return result


def _over_matrices(families: Sequence[_Family]) -> Callable[[Callable[..., Array], Array], Array]:
    """A function that makes one number for each parameter of those of its matrices."""
    counts = np.array([f.matrices for f in families for _ in f.members])
    starts = np.cumsum(counts) - counts
    kinds = [(n, np.flatnonzero(counts == n)) for n in np.unique(counts)]

    def over(reduce: Callable[..., Array], x: Float[Array, " n"]) -> Array:
        parts = [reduce(x[starts[chosen][:, None] + np.arange(n)], axis=1) for n, chosen in kinds]
        return jnp.concatenate(parts)[np.argsort(np.concatenate([chosen for _, chosen in kinds]))]

    return over


def _put(directions: Directions, what: str, families: Sequence[_Family], rows: Rows) -> None:
    """Notes the row of every matrix under the path of its parameter."""
    members = [(path, f.shape[:2]) for f in families for path, _ in f.members]
    pieces = _apart(rows[:, 0], [n * taps for _, (n, taps) in members])
    for (path, batch), piece in zip(members, pieces, strict=True):
        directions[path][what] = piece.reshape(*batch, piece.shape[-1])


def _apart(x: Array, lengths: list[int]) -> list[Array]:
    # of what has no place yet, a mesh in force would have every piece gathered
    return cut(x, lengths, at_run_time=jax.sharding.get_abstract_mesh().empty)
