"""Data that have a number for each entry of a parameter: noise that is drawn for it, masks, tangents."""

from collections.abc import Collection, Iterator

from modula_optax._infer._trace import Trace
from modula_optax._infer._values import SPECIAL, Value, labels_of, params_in, size_of
from modula_optax._jaxpr import Kind, Op, named

_CASTS, _SUMS, _SCALING = named(Kind.SAME), named(Kind.SUM), frozenset({"mul", "sub"})
_VIEWS = named(Kind.SAME, Kind.RESHAPE, Kind.SHIFT, Kind.NEGATION, Kind.ENTRYWISE)


def is_drawn_for(weight: Value, noise: Value) -> bool:
    """Whether there is a number for each entry of a parameter, as in a layer with noisy weights, but no samples."""
    drawn = {i for i, dim in enumerate(noise.dims) if size_of(dim) > 1}
    return drawn <= covered(weight, {part.param for part in weight.parts})


def is_masked(trace: Trace, op: Op, weight: Value, mask: Value) -> bool:
    """Whether data that no layer made have a number for each entry of a matrix, and no samples.

    They are a mask, or what the matrix was before, of which the difference is taken. A vector may scale the only
    sample, too, which then goes into a matrix, or is used for something else.
    """
    sizes = [size_of(dim) for dim in weight.dims]
    is_whole = all(any(trace.entries(x) == size_of(dim) for x in labels_of(dim) - SPECIAL) for dim in weight.dims)
    axes = sum(size > 1 for size in sizes)
    is_mask = op.name in ("mul", "sub") and not mask.deep and sizes == list(map(size_of, mask.dims))
    return bool(sizes) and is_whole and is_mask and (axes > 1 or _is_for_vectors(trace, op, mask))


def _is_for_vectors(trace: Trace, op: Op, mask: Value) -> bool:
    """Whether an input does nothing but scale parameters, and what it scales meets other data, or is a loss."""
    (position,) = {i for i in op.ins if trace.values[i] is mask}
    readers, maker = trace.readers[position], trace.makers.get(position)
    if maker is not None and maker.name not in _CASTS:
        return False
    # a difference has a length
    is_loss = op.name == "sub"
    return all(reader.name in _SCALING for reader in readers) and all(
        any(i in trace.of_data for i in end.ins if i != made) or (is_loss and set(end.ins) == {made})
        for reader in readers
        for end, made in _ends(trace, reader.outs[0])
    )


def _ends(trace: Trace, position: int) -> Iterator[tuple[Op, int]]:
    """What reads a value, through what only moves or changes its entries one by one."""
    for reader in trace.readers.get(position, ()):
        if reader.name in _VIEWS:
            for out in reader.outs:
                yield from _ends(trace, out)
        else:
            yield reader, position


def primal_of(trace: Trace, op: Op, i: int, j: int) -> Value | None:
    """What data are a tangent of: a product of it with the weight is differentiated, and the other term is added."""
    sums = (reader for reader in trace.readers.get(op.outs[0], ()) if reader.name in _SUMS)
    terms = (trace.makers.get(k) for reader in sums for k in reader.ins if k != op.outs[0])
    factors = {term.ins[j] for term in terms if term is not None and term.name == op.name}
    for product in trace.readers.get(op.ins[i], ()):
        if (product.name, product.params) == (op.name, op.params) and product.ins[j] in factors - {op.ins[j]}:
            return trace.values.get(product.ins[j])
    return None


def covered(weight: Value, params: Collection[int], least: int = 2) -> set[int]:
    """The axes, of that many entries at least, that come from these parameters, not from a broadcast."""
    dims = enumerate(weight.dims)
    return {i for i, dim in dims if size_of(dim) >= least and params_in([dim]) & set(params)}
