"""What `monitor` measures of parameters: where they lie, one after the other, or matrices on the devices of a mesh."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Scalar

from modula_optax._align import Named
from modula_optax._canonical import Stack, spectral_gain_of
from modula_optax._layout import atoms, atoms_shape
from modula_optax._linalg import one_where_zero, working_dtype
from modula_optax._mesh import varying_alike
from modula_optax._norms import Norm
from modula_optax._numbers import NUMBERS, RANKS, Followed, Numbers, leading_rows, numbers_of
from modula_optax._sketch import random_rows
from modula_optax._specs import NormSpec
from modula_optax._stacks import apply_alike
from modula_optax._turns import visit
from modula_optax._xla import cut

Arrays = dict[str, Array]
# by path and by what is followed, weights or updates
Directions = dict[str, dict[str, Array]]


class _Look(NamedTuple):
    """What is found of atoms and of what is followed, under which names, and what is made of it for a parameter."""

    of_atoms: Callable[..., tuple[Numbers, Followed]]
    names: Sequence[str]
    of_parameter: Callable[[Numbers], Any]


class _Family(NamedTuple):
    """Parameters of one norm and one shape; norms that are the largest singular value are one, `None`.

    Matrices of these may be shorter than the shape on their longer side: zeros make it up.
    """

    norm: Norm | None
    shape: tuple[int, int, int, int]
    dtype: DTypeLike
    members: Named

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

    def rows(self, directions: Directions) -> Followed:
        """Where the iterations stand, as arrays `[len(self.members), n, taps, short]`."""
        return {what: jnp.stack([directions[path][what] for path, _ in self.members]) for what in self.followed}

    def read(self, member: tuple[str, NormSpec], *trees: Arrays) -> tuple[Stack, ...]:
        """The atoms of a parameter in each of the trees."""
        path, spec = member
        stacks = (atoms(tree[path], spec).astype(self.dtype) for tree in trees)
        return tuple(_lengthened(x, self.shape) for x in stacks)


def names_measured(specs: Named, weights: Arrays) -> dict[str, tuple[str, ...]]:
    """What is measured of every parameter, by path."""
    return {path: family.names for family in _families(specs, (), weights) for path, _ in family.members}


def first_directions(specs: Named, axes: tuple[str, ...], weights: Arrays) -> Directions:
    """Where power iterations start: at leading singular vectors of weights, at random for updates."""
    directions: Directions = {path: {} for path, _ in specs}
    families = _families(specs, axes, weights)
    for family in families:
        n, taps, *matrix = family.shape
        start = random_rows(n * taps, 1, min(matrix), family.dtype).reshape(n, taps, -1)
        directions |= {path: dict.fromkeys(family.followed, start) for path, _ in family.members}
    weights, directions = varying_alike((weights, directions))
    for family in (family for family in families if family.followed):
        start = {"weight": family.rows(directions)["weight"]}
        _, rows = _seen(_Look(leading_rows, (), dict), family, axes, [weights], start)
        _note(directions, family, rows)
    return directions


def measure(
    specs: Named, axes: tuple[str, ...], weights: Arrays, grads: Arrays, updates: Arrays, directions: Directions
) -> tuple[dict[str, dict[str, Scalar]], Directions]:
    """All measurements of all parameters, and where power iterations go on."""
    *trees, directions = varying_alike((weights, grads, updates, directions))
    onward: Directions = {path: {} for path, _ in specs}
    keys: list[tuple[str, str, float]] = []
    results = []
    for family in _families(specs, axes, weights):
        look = _Look(partial(numbers_of, family.norm), NUMBERS, _of_parameter)
        found, rows = _seen(look, family, axes, trees, family.rows(directions))
        _note(onward, family, rows)
        for path, spec in family.members:
            gain = 1.0 if family.norm else spectral_gain_of(atoms_shape(spec, weights[path].shape))
            units = {"weight_norm": 1 / gain, "gradient_dual_norm": gain}
            keys += [(path, name, units.get(name, 1.0)) for name in family.names]
        results.append(found.ravel())
    measurements: dict[str, dict[str, Scalar]] = {path: {} for path, _ in specs}
    if keys:
        *_, units = zip(*keys, strict=True)
        # at last, so that families differ in nothing that is compiled
        numbers = jnp.concatenate(results) * jnp.asarray(units, jnp.float32)
        for (path, name, _), number in zip(keys, _unstacked(numbers), strict=True):
            measurements[path][name] = number
    return measurements, onward


def _families(specs: Named, axes: tuple[str, ...], weights: Arrays) -> list[_Family]:
    """All families; where nothing travels over axes of a mesh, alike but for the longer side is alike enough."""
    members: dict[Any, list[tuple[str, NormSpec]]] = defaultdict(list)
    for path, spec in specs:
        norm = None if spec.norm.is_largest_singular_value else spec.norm
        members[norm, atoms_shape(spec, weights[path].shape), working_dtype(weights[path].dtype)].append((path, spec))
    families = [_Family(*key, members=tuple(group)) for key, group in members.items()]
    return families if axes else _joined(families)


def _joined(families: list[_Family]) -> list[_Family]:
    """Those of matrices that agree in their shorter side joined, where the longer ones do not differ by much."""
    joined: list[_Family] = []
    for family in sorted(families, key=lambda family: -math.prod(family.shape)):
        for i, longer in enumerate(joined):
            if longer.norm is family.norm is None and longer.dtype == family.dtype and _fits(family, longer):
                joined[i] = longer._replace(members=longer.members + family.members)
                break
        else:
            joined.append(family)
    return joined


def _fits(family: _Family, longer: _Family) -> bool:
    """Whether matrices may be made up to those of another family, a third longer at most: more would take its time."""
    *atoms, rows, columns = family.shape
    *others, long_rows, long_columns = longer.shape
    if atoms != others or 3 * math.prod(longer.shape) > 4 * math.prod(family.shape):
        return False
    return rows == long_rows <= columns <= long_columns or columns == long_columns <= rows <= long_rows


def _lengthened(x: Stack, shape: tuple[int, ...]) -> Stack:
    missing = [(0, long - short) for long, short in zip(shape[1:], x.shape[1:], strict=True)]
    return jnp.pad(x, [(0, 0), *missing]) if x.shape[1:] != shape[1:] else x


def _seen(
    look: _Look, family: _Family, axes: tuple[str, ...], trees: Sequence[Arrays], rows: Followed
) -> tuple[Any, Followed]:
    """What is found of the parameters of a family, and rows, as arrays `[parameters, ...]`."""

    def finished(numbers: Numbers, onward: Followed) -> tuple[Any, Followed]:
        return look.of_parameter(numbers), onward

    if not axes:
        reads = [partial(family.read, member, *trees) for member in family.members]
        return visit(lambda *arguments: finished(*look.of_atoms(*arguments)), reads, rows)
    if family.norm is None:
        found = _seen_on_devices(look, family, axes, trees, rows)
    else:
        # all at once: loops would have the exchanges of what is sharded in them
        each = zip(*(family.read(member, *trees) for member in family.members), strict=True)
        found = look.of_atoms(*map(jnp.concatenate, each), jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows))
        found = jax.tree.map(lambda x: x.reshape(len(family.members), -1, *x.shape[1:]), found)
    return jax.vmap(finished)(*found)


def _seen_on_devices(
    look: _Look, family: _Family, axes: tuple[str, ...], trees: Sequence[Arrays], rows: Followed
) -> tuple[Numbers, Followed]:
    """Each matrix on one of the devices along these axes, by one exchange there and one of numbers back."""
    names = look.names

    def unpacked(known: Array) -> tuple[Numbers, Followed]:
        numbers = {name: known[..., i] for i, name in enumerate(names)}
        return numbers, dict(zip(rows, jnp.split(known[..., len(names) :], len(rows), axis=-1), strict=True))

    def here(known: Array, arrays: Array) -> Array:
        numbers, onward = look.of_atoms(*jnp.unstack(arrays, axis=1), unpacked(known)[1])
        return jnp.concatenate(
            [*(numbers[name][..., None] for name in names), *(onward[what] for what in rows)], axis=-1
        )

    nothing = jnp.zeros((len(family.members), *family.shape[:2], len(names)), family.dtype)
    known = jnp.concatenate([nothing, *(x.astype(family.dtype) for x in rows.values())], axis=-1)
    matrices = (jnp.stack(family.read(member, *trees), axis=1) for member in family.members)
    return unpacked(jnp.stack(apply_alike(here, list(zip(known, matrices, strict=True)), axes=axes)))


def _of_parameter(numbers: Numbers) -> Float[Array, " names"]:
    """The metrics of one parameter, in the order of `names`: over matrices as the modular norm and its dual have it."""
    norm, step = jnp.max(numbers["weight_norm"]), jnp.max(numbers["update_norm"])
    dual = jnp.sum(numbers["gradient_dual_norm"])
    ratio = jnp.where(norm == 0.0, 0.0, step / one_where_zero(norm))
    # divided before they are multiplied: 1e-30 times 1e-30 is 0 in float32
    promised, moved = numbers["gradient_scale"] / one_where_zero(dual), numbers["update_scale"] / one_where_zero(step)
    ranks = (jnp.mean(numbers[name]) for name in RANKS if name in numbers)
    return jnp.stack([norm, dual, ratio, jnp.sum(promised * moved * numbers["inner"]), *ranks]).astype(jnp.float32)


def _note(directions: Directions, family: _Family, rows: Followed) -> None:
    """Notes the rows of every parameter under its path."""
    for what, x in rows.items():
        for (path, _), piece in zip(family.members, _unstacked(x), strict=True):
            directions[path] = directions[path] | {what: piece}


def _unstacked(x: Array) -> list[Array]:
    """Its rows; of what has no place yet, a mesh in force would have every one gathered, were it found at run time."""
    at_run_time = jax.sharding.get_abstract_mesh().empty
    return [piece.reshape(x.shape[1:]) for piece in cut(x, [1] * len(x), at_run_time)]
