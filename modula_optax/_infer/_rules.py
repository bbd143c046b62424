"""The table of rules: what each primitive does to an abstract value, by the primitive's name."""

from modula_optax._infer._contract import dot_general, ragged_dot
from modula_optax._infer._convolve import convolution
from modula_optax._infer._elementwise import binary, nonlinear, select
from modula_optax._infer._lookup import dynamic_slice, dynamic_update_slice, gather, scatter
from modula_optax._infer._reduce import reduce
from modula_optax._infer._structure import (
    broadcast_in_dim,
    concatenate,
    iota,
    keep,
    keep_all,
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
    unstack,
)
from modula_optax._infer._trace import Rule


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = (
    _table(
        keep,
        """convert_element_type copy copy_p reduce_precision stop_gradient sharding_constraint device_put real imag conj
        with_memory_space_constraint tie neg name layout_constraint mesh_cast reshard pcast
        bitcast_convert_type""",
    )
    | _table(
        keep_all,
        """optimization_barrier pvary pbroadcast psum psum2 psum_invariant pmax pmin ppermute all_gather
        all_gather_invariant all_to_all reduce_scatter psum_scatter""",
    )
    | _table(
        nonlinear,
        """exp exp2 log log1p expm1 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh logistic erf erfc
        erf_inv sqrt rsqrt cbrt square integer_pow abs sign floor ceil round is_finite not lgamma digamma bessel_i0e
        bessel_i1e cumsum cumprod cummax cummin cumlogsumexp""",
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
    | _table(same_axes, "sort top_k approx_top_k fft")
    | _table(resized, "pad rev reduce_window_max reduce_window_min reduce_window_sum resize")
    | _table(
        scatter,
        """scatter scatter-add scatter_add scatter-sub scatter_sub scatter-mul scatter_mul scatter-min scatter-max""",
    )
    | {
        "broadcast_in_dim": broadcast_in_dim,
        "clamp": lambda trace, op, ins: nonlinear(trace, op, ins[1:2]),
        "concatenate": concatenate,
        "conv_general_dilated": convolution,
        "dot_general": dot_general,
        "dynamic_slice": dynamic_slice,
        "dynamic_update_slice": dynamic_update_slice,
        "gather": gather,
        "iota": iota,
        "random_bits": random_bits,
        "ragged_dot": ragged_dot,
        "ragged_dot_general": ragged_dot,
        "reshape": reshaped,
        "scan_slice": scan_slice,
        "scan_stack": scan_stack,
        "select_n": select,
        "slice": static_slice,
        "split": split,
        "stack": stack,
        "tile": tile,
        "unstack": unstack,
        "squeeze": squeeze,
        "transpose": transpose,
    }
)
