"""The rules: what each primitive does to a bound, by its name, or as all of its kind."""

from modula_optax._jaxpr import PRIMITIVES, Kind, rule_of
from modula_optax._lipschitz import _linear as linear
from modula_optax._lipschitz import _structure as structure
from modula_optax._lipschitz._structure import Rule, entrywise

_BY_KIND: dict[Kind, Rule] = {
    Kind.CONVOLUTION: linear.convolution,
    Kind.EXTREME: structure.entries_of_several,
    Kind.NEGATION: structure.keep,
    Kind.SAME: structure.keep,
    Kind.SELECT: structure.select,
    Kind.SUM: structure.add,
}
_BY_NAME: dict[str, Rule] = {
    "abs": structure.keep,
    "broadcast_in_dim": structure.broadcast_in_dim,
    "concatenate": structure.concatenate,
    "div": structure.divide,
    "dot_general": linear.dot_general,
    "dynamic_slice": structure.subset,
    "dynamic_update_slice": structure.updated,
    "gather": structure.gather,
    "integer_pow": structure.integer_power,
    "mul": structure.multiply,
    "pad": structure.pad,
    "reduce_max": linear.reduced_max,
    "reduce_min": linear.reduced_max,
    "reduce_sum": linear.reduced_sum,
    "reduce_window_max": linear.pooled_max,
    "reduce_window_min": linear.pooled_max,
    "reduce_window_sum": linear.pooled_sum,
    "reshape": structure.reshape,
    "rev": structure.keep,
    "scan_slice": structure.scan_slice,
    "slice": structure.subset,
    "split": structure.split,
    "square": structure.integer_power,
    "squeeze": structure.squeeze,
    "transpose": structure.transpose,
}


def rule_for(name: str) -> Rule | None:
    """What a primitive does to the bounds of its operands, if that is proven."""
    row = PRIMITIVES.get(name)
    return entrywise(row.slope) if row and row.slope else rule_of(name, _BY_NAME, _BY_KIND)
