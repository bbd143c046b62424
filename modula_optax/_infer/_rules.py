"""The rules: what each primitive does to an abstract value, by its name, or as all of its kind."""

from collections.abc import Mapping

from modula_optax._infer._contract import dot_general, ragged_dot
from modula_optax._infer._convolve import convolution
from modula_optax._infer._elementwise import binary, entrywise, select
from modula_optax._infer._lookup import dynamic_slice, dynamic_update_slice, gather, scatter
from modula_optax._infer._reduce import reduce
from modula_optax._infer._structure import (
    broadcast_in_dim,
    concatenate,
    iota,
    keep,
    random_bits,
    reshaped,
    resized,
    same_axes,
    scan_slice,
    scan_stack,
    split,
    squeeze,
    stack,
    static_slice,
    tile,
    transpose,
    unknown_primitive,
    unstack,
)
from modula_optax._infer._trace import Rule
from modula_optax._jaxpr import Kind, rule_of

_BY_KIND: Mapping[Kind, Rule] = (
    dict.fromkeys([Kind.SAME, Kind.NEGATION, Kind.COMPLEX, Kind.BITS, Kind.COLLECTIVE], keep)
    | dict.fromkeys([Kind.SUM, Kind.PRODUCT, Kind.EXTREME, Kind.PAIRWISE, Kind.COMPARISON], binary)
    | dict.fromkeys([Kind.ENTRYWISE, Kind.STEP, Kind.LOGIC, Kind.RUNNING], entrywise)
    | {
        Kind.ALONG: same_axes,
        Kind.CONVOLUTION: convolution,
        Kind.REDUCTION: reduce,
        Kind.SELECT: select,
        Kind.WINDOWS: resized,
        Kind.WRITE: scatter,
    }
)
_BY_NAME: dict[str, Rule] = {
    "broadcast_in_dim": broadcast_in_dim,
    "clamp": lambda trace, op, ins: entrywise(trace, op, ins[1:2]),
    "complex": binary,
    "concatenate": concatenate,
    "dot_general": dot_general,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    "iota": iota,
    "pad": resized,
    "ragged_dot": ragged_dot,
    "ragged_dot_general": ragged_dot,
    "random_bits": random_bits,
    "reshape": reshaped,
    "resize": resized,
    "rev": resized,
    "scan_slice": scan_slice,
    "scan_stack": scan_stack,
    "slice": static_slice,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "transpose": transpose,
    "unstack": unstack,
}


def rule_for(name: str) -> Rule:
    """What a primitive does to the abstract values of its operands."""
    return rule_of(name, _BY_NAME, _BY_KIND) or unknown_primitive
