"""The rules: what each primitive does to an abstract value, by its name, or as all of its kind."""

from collections.abc import Mapping

from modula_optax._infer import _cut as cut
from modula_optax._infer import _move as move
from modula_optax._infer._contract import dot_general, ragged_dot
from modula_optax._infer._convolve import convolution
from modula_optax._infer._elementwise import binary, entrywise, select
from modula_optax._infer._lookup import dynamic_slice, dynamic_update_slice, gather, scatter
from modula_optax._infer._reduce import reduce
from modula_optax._infer._trace import Rule
from modula_optax._jaxpr import Kind, rule_of

_BY_KIND: Mapping[Kind, Rule] = (
    dict.fromkeys([Kind.SAME, Kind.NEGATION, Kind.COMPLEX, Kind.BITS, Kind.COLLECTIVE], move.keep)
    | dict.fromkeys([Kind.SUM, Kind.PRODUCT, Kind.EXTREME, Kind.PAIRWISE, Kind.COMPARISON], binary)
    | dict.fromkeys([Kind.ENTRYWISE, Kind.STEP, Kind.LOGIC, Kind.RUNNING], entrywise)
    | {
        Kind.ALONG: move.same_axes,
        Kind.CONVOLUTION: convolution,
        Kind.REDUCTION: reduce,
        Kind.SELECT: select,
        Kind.WINDOWS: move.resized,
        Kind.WRITE: scatter,
    }
)
_BY_NAME: dict[str, Rule] = {
    "broadcast_in_dim": move.broadcast_in_dim,
    "clamp": lambda trace, op, ins: entrywise(trace, op, ins[1:2]),
    "complex": binary,
    "concatenate": move.concatenate,
    "dot_general": dot_general,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    "iota": move.iota,
    "pad": move.resized,
    "ragged_dot": ragged_dot,
    "ragged_dot_general": ragged_dot,
    "random_bits": move.random_bits,
    "reshape": move.reshaped,
    "resize": move.resized,
    "rev": move.resized,
    "scan_slice": move.scan_slice,
    "scan_stack": move.scan_stack,
    "slice": cut.static_slice,
    "split": cut.split,
    "squeeze": move.squeeze,
    "stack": move.stack,
    "tile": move.tile,
    "transpose": move.transpose,
    "unstack": cut.unstack,
}


def rule_for(name: str) -> Rule:
    """What a primitive does to the abstract values of its operands."""
    return rule_of(name, _BY_NAME, _BY_KIND) or move.unknown_primitive
