"""Rotations and other maps that combine entries of one axis with constant weights: their exact norm."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from modula_optax._jaxpr import Kind, Op, evaluate, named
from modula_optax._lipschitz._linear import largest_singular_value
from modula_optax._lipschitz._states import Known, State, euclidean, over, scaled
from modula_optax._lipschitz._view import View

# matrices of all positions together have at most so many entries
_LARGEST = 2**26

_LINEAR = named(Kind.SUM, Kind.PRODUCT, Kind.NEGATION, Kind.SHIFT, Kind.SAME)


def rearranged(view: View, op: Op) -> State | None:
    """The bound on pieces of one axis of a value put together again, as a rotary embedding does.

    Piece by piece, norms would add up: a rotation would seem to lengthen vectors by sqrt(8).
    """
    if op.name != "concatenate" or any(view.known(i) is not None for i in op.ins):
        return None
    found = _Region(view)
    if not found.extend(op) or found.root is None or found.axis is None:
        return None
    bound, shape, axis = view.bound(found.root), view.shape(found.root), found.axis
    if bound is None or shape[axis] * math.prod(shape) > _LARGEST:
        return None
    bound = over(bound, euclidean(bound).features | {axis}, shape)
    return scaled(bound, largest_singular_value(found.matrices(op.outs[0])))


class _Region:
    """Operations that combine entries of one axis of one value, the root, linearly."""

    def __init__(self, view: View):
        self.view = view
        self.root: int | None = None
        self.axis: int | None = None

    def extend(self, op: Op) -> bool:
        """Follows the operands back to where they come from; whether that is one value, and one axis changes."""
        if op.name not in _LINEAR or not self._is_linear(op) or not self._changes(_changed(self.view, op)):
            return False
        for position in op.ins:
            if self.view.known(position) is not None:
                continue
            before = self.view.producers.get(position)
            goes_on = before is not None and before.name in _LINEAR and self._is_linear(before)
            if before is not None and goes_on:
                if not self.extend(before):
                    return False
            elif self.root not in (None, position):
                return False
            else:
                self.root = position
        return True

    def _is_linear(self, op: Op) -> bool:
        known = [self.view.known(i) is not None for i in op.ins]
        match op.name:
            case "mul":
                return sum(known) == 1
            case "div":
                return known == [False, True]
            case "pad":
                return known[1] and not np.any(self.view.known(op.ins[1]))
            case _:
                return not any(known)

    def _changes(self, axes: set[int]) -> bool:
        """Notes that entries of these axes are combined; whether there is only one such axis yet."""
        if self.axis is None and len(axes) == 1:
            (self.axis,) = axes
        return axes <= {self.axis}

    def matrices(self, position: int) -> np.ndarray:
        """What becomes of each entry of the axis, at every position of the other axes: [..., before, after]."""
        root = self.root
        assert root is not None
        assert self.axis is not None
        shape = self.view.shape(root)
        n, dtype = shape[self.axis], self.view.avals[root].dtype
        unit = jnp.eye(n, dtype=dtype).reshape(n, *(n if i == self.axis else 1 for i in range(len(shape))))
        constants = {i: state for i, state in self.view.states.items() if isinstance(state, Known)}

        def image(x: jax.Array) -> jax.Array:
            return evaluate(position, constants | {root: x}, self.view.producers)

        images = jax.vmap(image)(jnp.broadcast_to(unit, (n, *shape)))
        return np.moveaxis(np.asarray(images), (0, self.axis + 1), (-2, -1))


def _changed(view: View, op: Op) -> set[int]:
    """Axes whose entries an operation moves."""
    match op.name:
        case "concatenate":
            return {op.params["dimension"]}
        case "split":
            return {op.params["axis"]}
        case "rev":
            return set(op.params["dimensions"])
        case "slice" | "pad":
            before, after = view.shape(op.ins[0]), view.shape(op.outs[0])
            return {axis for axis, (n, m) in enumerate(zip(before, after, strict=True)) if n != m}
        case _:
            return set()
