"""The table of rules: what each primitive does to a bound, by the primitive's name."""

import math

from modula_optax._lipschitz import _linear as linear
from modula_optax._lipschitz import _structure as structure
from modula_optax._lipschitz._structure import Rule, entrywise


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = (
    _table(
        structure.keep,
        """convert_element_type copy copy_p reduce_precision stop_gradient sharding_constraint device_put neg abs name
        layout_constraint rev""",
    )
    | _table(structure.add, "add add_any sub")
    | _table(structure.entries_of_several, "clamp max min")
    | _table(structure.subset, "slice dynamic_slice")
    | _table(structure.integer_power, "integer_pow square")
    | {
        "broadcast_in_dim": structure.broadcast_in_dim,
        "concatenate": structure.concatenate,
        "conv_general_dilated": linear.convolution,
        "div": structure.divide,
        "dot_general": linear.dot_general,
        "dynamic_update_slice": structure.updated,
        "gather": structure.gather,
        "mul": structure.multiply,
        "optimization_barrier": structure.keep_all,
        "pad": structure.pad,
        "reduce_max": linear.reduced_max,
        "reduce_min": linear.reduced_max,
        "reduce_sum": linear.reduced_sum,
        "reduce_window_max": linear.pooled_max,
        "reduce_window_min": linear.pooled_max,
        "reduce_window_sum": linear.pooled_sum,
        "reshape": structure.reshape,
        "scan_slice": structure.scan_slice,
        "select_n": structure.select,
        "split": structure.split,
        "squeeze": structure.squeeze,
        "transpose": structure.transpose,
        "asinh": entrywise(1.0, 0.0, math.inf),
        "atan": entrywise(1.0, 0.0, math.pi / 2),
        "cos": entrywise(1.0, 1.0, 1.0),
        "erf": entrywise(2 / math.sqrt(math.pi), 0.0, 1.0),
        "erfc": entrywise(2 / math.sqrt(math.pi), 1.0, 2.0),
        "logistic": entrywise(0.25, 0.5, 1.0),
        "sin": entrywise(1.0, 0.0, 1.0),
        "tanh": entrywise(1.0, 0.0, 1.0),
    }
)
