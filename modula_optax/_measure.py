"""What `monitor` measures of parameters: matrices where they lie, or each on one device of a mesh."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Scalar

from modula_optax._align import atoms, atoms_shape
from modula_optax._canonical import Stack
from modula_optax._linalg import one_where_zero, working_dtype
from modula_optax._mesh import varying_alike
from modula_optax._norms import Norm
from modula_optax._numbers import NUMBERS, RANKS, Followed, Kind, Numbers, leading_rows, numbers_of
from modula_optax._sketch import random_rows
from modula_optax._specs import NormSpec
from modula_optax._stacks import apply_alike
from modula_optax._visit import Matrices
from modula_optax._xla import cut

# the parameters that have a norm, by path
Measured = tuple[tuple[str, NormSpec], ...]
Arrays = dict[str, Array]
# weights, gradients and updates
Trees = Mapping[str, Arrays]
# by path and by what is followed, weights or updates
Directions = dict[str, dict[str, Array]]


class _Family(NamedTuple):
    """Parameters of one norm and one shape; see `Kind`."""

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
    def names(self) -> tuple[str, ...]:
        """What is measured."""
        ranks = RANKS[: len(self.followed)]
        return "weight_norm", "gradient_dual_norm", "update_ratio", "alignment", *ranks

    @property
    def short(self) -> int:
        """The length of what is followed."""
        return min(self.shape[2:])

    @property
    def sort(self) -> tuple[Any, ...]:
        """What those agree in that are measured together; what is by singular values comes first."""
        return -len(self.followed), str(jnp.dtype(self.dtype)), self.short if self.followed else 0

    def read(self, arrays: Arrays, member: tuple[str, NormSpec]) -> Stack:
        """The atoms of a parameter."""
        path, spec = member
        return atoms(arrays[path], spec).astype(self.dtype)

    def kind(self, trees: Trees, together: bool) -> Kind:
        """Its matrices: of every parameter where they lie, or of all in one array, for one exchange where sharded."""
        groups = [self.members] if together else [(member,) for member in self.members]

        def matrices(arrays: Arrays, group: Measured) -> Matrices:
            def read() -> Stack:
                return jnp.concatenate([self.read(arrays, member) for member in group])

            return Matrices(read, (len(group) * self.shape[0], *self.shape[1:]))

        return Kind(self.norm, [{what: matrices(tree, group) for what, tree in trees.items()} for group in groups])


def names_measured(specs: Measured, weights: Arrays) -> dict[str, tuple[str, ...]]:
    """What is measured of every parameter, by path."""
    return {path: family.names for sort in _sorts(specs, (), weights) for family in sort for path, _ in family.members}


def first_directions(specs: Measured, axes: tuple[str, ...], weights: Arrays) -> Directions:
    """Where power iterations start: at leading singular vectors of weights, at random for updates."""
    sorts = _sorts(specs, axes, weights)
    directions: Directions = {path: {} for path, _ in specs}
    for family in itertools.chain(*sorts):
        start = random_rows(family.matrices, 1, family.short, family.dtype).reshape(*family.shape[:2], -1)
        directions |= {path: dict.fromkeys(family.followed, start) for path, _ in family.members}
    weights, directions = varying_alike((weights, directions))
    for families in filter(lambda families: families[0].followed, sorts):
        _, leading = _seen(leading_rows, (), families, axes, {"weight": weights}, directions, ("weight",))
        _put(directions, families, leading)
    return directions


def measure(
    specs: Measured, axes: tuple[str, ...], weights: Arrays, grads: Arrays, updates: Arrays, directions: Directions
) -> tuple[dict[str, dict[str, Scalar]], Directions]:
    """All measurements of all parameters, and where power iterations go on.

    Over these axes of the mesh every matrix goes to one device, which measures it alone: products with what is sharded
    would have to be added up at every step.
    """
    weights, grads, updates, directions = varying_alike((weights, grads, updates, directions))
    trees = {"weight": weights, "gradient": grads, "update": updates}
    onward: Directions = {path: {} for path, _ in specs}
    keys, numbers = [], []
    for families in _sorts(specs, axes, weights):
        found, rows = _seen(numbers_of, NUMBERS, families, axes, trees, directions, families[0].followed)
        _put(onward, families, rows)
        result = _of_parameters(families, found)
        for name in families[0].names:
            keys += [(path, name) for family in families for path, _ in family.members]
            numbers.append(result[name].astype(jnp.float32))
    measurements: dict[str, dict[str, Scalar]] = {path: {} for path, _ in specs}
    if not keys:
        return measurements, onward
    for (path, name), number in zip(keys, _apart(jnp.concatenate(numbers), [1] * len(keys)), strict=True):
        measurements[path][name] = number.reshape(())
    return measurements, onward


def _sorts(specs: Measured, axes: tuple[str, ...], weights: Arrays) -> list[list[_Family]]:
    """Families that are measured together; on a mesh each alone that stays as it is, or loops would have exchanges."""
    members: dict[Any, list[tuple[str, NormSpec]]] = defaultdict(list)
    for path, spec in specs:
        norm = None if spec.norm.is_largest_singular_value else spec.norm
        members[norm, atoms_shape(spec, weights[path].shape), working_dtype(weights[path].dtype)].append((path, spec))
    families = [_Family(*key, members=tuple(group)) for key, group in members.items()]
    families.sort(key=lambda f: f.sort)
    return [list(sort) for _, sort in itertools.groupby(families, lambda f: f if axes and f.norm else f.sort)]


def _seen(
    function: Callable[[Sequence[Kind], Followed], tuple[Numbers, Followed]],
    names: Sequence[str],
    families: Sequence[_Family],
    axes: tuple[str, ...],
    trees: Trees,
    directions: Directions,
    followed: Sequence[str],
) -> tuple[Numbers, Followed]:
    """The numbers of these names, and the rows, that `function` has of all matrices, here or on their devices."""
    if not axes or families[0].norm is not None:
        rows = {
            what: jnp.concatenate(
                [directions[path][what].reshape(-1, f.short) for f in families for path, _ in f.members]
            )
            for what in followed
        }
        return function([family.kind(trees, together=bool(axes)) for family in families], rows)

    def here(known: Array, arrays: Array) -> Array:
        """What is known of every matrix, and is sent in one with the rows."""
        n, _, taps, fan_in, fan_out = arrays.shape
        shape = n, taps, fan_in, fan_out
        place = {what: Matrices(lambda k=k: arrays[:, k], shape) for k, what in enumerate(trees)}
        rows = jnp.split(known.reshape(-1, known.shape[-1])[:, len(names) :], len(followed), axis=-1)
        numbers, rows = function([Kind(None, [place])], dict(zip(followed, rows, strict=True)))
        columns = [*(numbers[name][:, None] for name in names), *rows.values()]
        return jnp.concatenate(columns, axis=-1).reshape(known.shape)

    items = []
    for family in families:
        for member in family.members:
            rows = [directions[member[0]][what].astype(family.dtype) for what in followed]
            nothing = jnp.zeros((*family.shape[:2], len(names)), family.dtype)
            matrices = jnp.stack([family.read(tree, member) for tree in trees.values()], axis=1)
            items.append((jnp.concatenate([nothing, *rows], axis=-1), matrices))
    known = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in apply_alike(here, items, axes=axes)])
    rows = jnp.split(known[:, len(names) :], len(followed), axis=-1)
    return {name: known[:, i] for i, name in enumerate(names)}, dict(zip(followed, rows, strict=True))


def _of_parameters(families: Sequence[_Family], numbers: Numbers) -> Numbers:
    """One number for each metric and parameter: over matrices as the modular norm and its dual have it."""
    matrices = np.array([f.matrices for f in families for _ in f.members])
    counts = np.array([f.matrices if f.norm is None else f.shape[0] for f in families for _ in f.members])
    over = partial(_over, counts)
    norm, step = (over(jnp.max, numbers[name]) for name in ("weight_norm", "update_norm"))
    dual = over(jnp.sum, numbers["gradient_dual_norm"])
    # divided before they are multiplied: 1e-30 times 1e-30 is 0 in float32
    each = (jnp.repeat(one_where_zero(x), counts, total_repeat_length=sum(counts)) for x in (dual, step))
    gradient, update = (numbers[f"{what}_scale"] / x for what, x in zip(("gradient", "update"), each, strict=True))
    result = {
        "weight_norm": norm,
        "gradient_dual_norm": dual,
        "update_ratio": jnp.where(norm == 0.0, 0.0, step / one_where_zero(norm)),
        "alignment": over(jnp.sum, gradient * update * numbers["inner"]),
    }
    return result | {name: _over(matrices, jnp.mean, numbers[name]) for name in RANKS if name in numbers}


def _over(counts: np.ndarray, reduce: Callable[..., Array], x: Float[Array, " n"]) -> Array:
    """One number for each parameter of those of its matrices."""
    starts = np.cumsum(counts) - counts
    kinds = [(n, np.flatnonzero(counts == n)) for n in np.unique(counts)]
    if kinds[0][0] == len(kinds) == 1:
        return x
    parts = [reduce(x[starts[chosen][:, None] + np.arange(n)], axis=1) for n, chosen in kinds]
    return jnp.concatenate(parts)[np.argsort(np.concatenate([chosen for _, chosen in kinds]))]


def _put(directions: Directions, families: Sequence[_Family], followed: Followed) -> None:
    """Notes the row of every matrix under the path of its parameter."""
    members = [(path, f.shape[:2]) for f in families for path, _ in f.members]
    for what, rows in followed.items():
        pieces = _apart(rows, [n * taps for _, (n, taps) in members])
        for (path, batch), piece in zip(members, pieces, strict=True):
            directions[path] = directions[path] | {what: piece.reshape(*batch, piece.shape[-1])}


def _apart(x: Array, lengths: list[int]) -> list[Array]:
    # of what has no place yet, a mesh in force would have every piece gathered
    return cut(x, lengths, at_run_time=jax.sharding.get_abstract_mesh().empty)
