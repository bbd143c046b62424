"""The proofs: what each primitive does to a bound, by its name, or as all of its kind."""

from modula_optax._jaxpr import PRIMITIVES, Kind, rule_of
from modula_optax._lipschitz import _entry_rules as entries
from modula_optax._lipschitz import _linear as linear
from modula_optax._lipschitz._entry_rules import Proof, entrywise

_BY_KIND: dict[Kind, Proof] = {
    Kind.CONVOLUTION: linear.convolution,
    Kind.EXTREME: entries.entries_of_several,
    Kind.NEGATION: entries.keep,
    Kind.SAME: entries.keep,
    Kind.SELECT: entries.select,
    Kind.SUM: entries.add,
}
_BY_NAME: dict[str, Proof] = {
    "abs": entries.keep,
    "broadcast_in_dim": entries.broadcast_in_dim,
    "concatenate": entries.concatenate,
    "div": entries.divide,
    "dot_general": linear.dot_general,
    "dynamic_slice": entries.subset,
    "dynamic_update_slice": entries.updated,
    "gather": entries.gather,
    "integer_pow": entries.integer_power,
    "mul": entries.multiply,
    "pad": entries.pad,
    "reduce_max": linear.reduced_max,
    "reduce_min": linear.reduced_max,
    "reduce_sum": linear.reduced_sum,
    "reduce_window_max": linear.pooled_max,
    "reduce_window_min": linear.pooled_max,
    "reduce_window_sum": linear.pooled_sum,
    "reshape": entries.reshape,
    "rev": entries.keep,
    "scan_slice": entries.scan_slice,
    "slice": entries.subset,
    "split": entries.split,
    "square": entries.integer_power,
    "squeeze": entries.squeeze,
    "transpose": entries.transpose,
}


def proof_for(name: str) -> Proof | None:
    """What a primitive does to the bounds of its operands, if that is proven."""
    row = PRIMITIVES.get(name)
    return entrywise(row.slope) if row and row.slope else rule_of(name, _BY_NAME, _BY_KIND)
