"""The table of rules: what each primitive does to an abstract value, by the primitive's name."""

from modula_optax._infer._contract import convolution, dot_general, ragged_dot
from modula_optax._infer._elementwise import binary, nonlinear, reduce, select
from modula_optax._infer._lookup import dynamic_slice, dynamic_update_slice, gather, scatter
from modula_optax._infer._program import Op
from modula_optax._infer._structure import (
    broadcast_in_dim,
    combine,
    concatenate,
    iota,
    keep,
    keep_all,
    resized,
    reshaped,
    scan_slice,
    scan_stack,
    split,
    squeeze,
    static_slice,
    transpose,
)
from modula_optax._infer._trace import Rule, Trace
from modula_optax._infer._values import Value, plain


def unknown_primitive(trace: Trace, op: Op, ins: tuple[Value, ...]) -> tuple[Value, ...]:
    """Any other primitive: what it makes of a parameter is not the parameter any more."""
    if any(v.data for v in ins):
        trace.refuse(op, ins)
        return trace.forget(op, ins)
    parts = tuple(part._replace(how=f"operand of {op.name}") for v in ins for part in v.parts)
    merged = combine([Value((), parts=parts)], ()).parts
    return tuple(Value(plain(trace.shape(out)), parts=merged) for out in op.outs)


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = (
    _table(
        keep,
        """convert_element_type copy copy_p reduce_precision stop_gradient sharding_constraint device_put real imag conj
        optimization_barrier_single neg name layout_constraint mesh_cast reshard pvary pcast""",
    )
    | _table(
        keep_all,
        """optimization_barrier psum psum2 psum_invariant pmax pmin ppermute all_gather all_gather_invariant all_to_all
        reduce_scatter psum_scatter""",
    )
    | _table(
        nonlinear,
        """exp exp2 log log1p expm1 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh logistic erf erfc erf_inv
        sqrt rsqrt cbrt square integer_pow abs sign floor ceil round is_finite not lgamma digamma cumsum cumprod cummax
        cummin cumlogsumexp""",
    )
    | _table(
        binary,
        """add add_any sub mul div rem pow max min atan2 complex nextafter eq ne lt le gt ge and or xor shift_left
        shift_right_logical shift_right_arithmetic""",
    )
    | _table(
        reduce,
        """reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin""",
    )
    | _table(resized, "pad rev reduce_window_max reduce_window_min reduce_window_sum resize")
    | _table(scatter, "scatter scatter-add scatter_add scatter-mul scatter_mul scatter-min scatter-max")
    | {
        "broadcast_in_dim": broadcast_in_dim,
        "concatenate": concatenate,
        "conv_general_dilated": convolution,
        "dot_general": dot_general,
        "dynamic_slice": dynamic_slice,
        "dynamic_update_slice": dynamic_update_slice,
        "gather": gather,
        "iota": iota,
        "ragged_dot": ragged_dot,
        "ragged_dot_general": ragged_dot,
        "reshape": reshaped,
        "scan_slice": scan_slice,
        "scan_stack": scan_stack,
        "select_n": select,
        "slice": static_slice,
        "split": split,
        "squeeze": squeeze,
        "transpose": transpose,
    }
)
