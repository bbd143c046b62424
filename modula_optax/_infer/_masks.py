"""Data that have a number for each entry of a parameter: noise that is drawn for it, and masks."""

from collections.abc import Collection

from modula_optax._infer._trace import Trace
from modula_optax._infer._values import SPECIAL, Value, labels_of, params_in, size_of
from modula_optax._jaxpr import Op


def is_drawn_for(weight: Value, noise: Value) -> bool:
    """Whether there is a number for each entry of a parameter, as in a layer with noisy weights, but no samples."""
    drawn = {i for i, dim in enumerate(noise.dims) if size_of(dim) > 1}
    return drawn <= covered(weight, {part.param for part in weight.parts})


def is_masked(trace: Trace, op: Op, weight: Value, mask: Value) -> bool:
    """Whether data that no layer made have a number for each entry of a matrix, and no samples.

    They are a mask, or what the matrix was before, of which the difference is taken.
    """
    sizes = [size_of(dim) for dim in weight.dims]
    is_whole = all(any(trace.entries(x) == size_of(dim) for x in labels_of(dim) - SPECIAL) for dim in weight.dims)
    is_matrix = sum(size > 1 for size in sizes) > 1
    is_mask = op.name in ("mul", "sub") and not mask.deep and sizes == list(map(size_of, mask.dims))
    return is_matrix and is_whole and is_mask


def covered(weight: Value, params: Collection[int], least: int = 2) -> set[int]:
    """The axes, of that many entries at least, that come from these parameters, not from a broadcast."""
    dims = enumerate(weight.dims)
    return {i for i, dim in dims if size_of(dim) >= least and params_in([dim]) & set(params)}
