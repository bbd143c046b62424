"""The table of primitives: what each does to entries, for whoever reads a program."""

import enum
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar


class Kind(enum.Enum):
    """What a primitive does to the entries of its operands."""

    SAME = enum.auto()  # the value itself, of another dtype or at another place; of `tie`, the last operand
    NEGATION = enum.auto()
    RESHAPE = enum.auto()  # axes change, entries follow each other as before, or are repeated
    SHIFT = enum.auto()  # axes stay: entries along them are taken, moved, put side by side
    LOOKUP = enum.auto()  # entries are taken where indices say
    WRITE = enum.auto()  # entries are written, or added, where indices say
    LOOP = enum.auto()  # what a scan slices and stacks: operations of our own
    SUM = enum.auto()
    PRODUCT = enum.auto()
    EXTREME = enum.auto()  # of several values, entry by entry, one of them
    SELECT = enum.auto()
    ENTRYWISE = enum.auto()  # smooth functions of one value
    PAIRWISE = enum.auto()  # smooth functions of two
    STEP = enum.auto()  # functions that jump
    COMPARISON = enum.auto()
    LOGIC = enum.auto()
    COMPLEX = enum.auto()  # complex numbers and their parts
    BITS = enum.auto()
    RUNNING = enum.auto()  # sums, products, extremes of all entries so far
    REDUCTION = enum.auto()
    WINDOWS = enum.auto()  # reductions over windows
    CONTRACTION = enum.auto()
    CONVOLUTION = enum.auto()
    ALONG = enum.auto()  # transforms along an axis: sorting, Fourier
    COLLECTIVE = enum.auto()  # over the shards of a mesh
    SOURCE = enum.auto()  # constants and random numbers
    OUTSIDE = enum.auto()  # what a function of JAX's own stands for


class Slope(NamedTuple):
    """A function that works entry by entry: its largest slope, its value at zero, its largest absolute value."""

    largest: float
    at_zero: float = 0.0
    bound: float = math.inf


class Primitive(NamedTuple):
    """A row of the table; a `slope` is proven, a `reference` is read in the place of the primitive."""

    kind: Kind
    slope: Slope | None = None
    has_derivative: bool = True
    reference: Callable[..., Any] | None = None


def _rows(kind: Kind, names: str, has_derivative: bool = True) -> dict[str, Primitive]:
    return dict.fromkeys(names.split(), Primitive(kind, has_derivative=has_derivative))


PRIMITIVES: dict[str, Primitive] = (
    _rows(
        Kind.SAME,
        """convert_element_type copy copy_p device_put layout_constraint mesh_cast name optimization_barrier pcast
        reduce_precision reshard sharding_constraint tie with_memory_space_constraint""",
    )
    | _rows(Kind.SAME, "stop_gradient", has_derivative=False)
    | _rows(Kind.NEGATION, "neg")
    | _rows(Kind.RESHAPE, "broadcast_in_dim reshape resize squeeze stack tile transpose unstack")
    | _rows(Kind.SHIFT, "concatenate pad rev slice split")
    | _rows(Kind.LOOKUP, "dynamic_slice gather")
    | _rows(
        Kind.WRITE,
        """dynamic_update_slice scatter scatter-add scatter_add scatter-sub scatter_sub scatter-mul scatter_mul
        scatter-min scatter-max""",
    )
    | _rows(Kind.LOOP, "scan_slice scan_stack")
    | _rows(Kind.SUM, "add add_any sub")
    | _rows(Kind.PRODUCT, "div mul")
    | _rows(Kind.EXTREME, "clamp max min")
    | _rows(Kind.SELECT, "select_n")
    | _rows(
        Kind.ENTRYWISE,
        """abs acos acosh asin atanh bessel_i0e bessel_i1e cbrt cosh digamma erf_inv exp exp2 expm1 integer_pow lgamma
        log log1p rsqrt sinh sqrt square tan""",
    )
    | {
        "asinh": Primitive(Kind.ENTRYWISE, Slope(1.0)),
        "atan": Primitive(Kind.ENTRYWISE, Slope(1.0, bound=math.pi / 2)),
        "cos": Primitive(Kind.ENTRYWISE, Slope(1.0, at_zero=1.0, bound=1.0)),
        "erf": Primitive(Kind.ENTRYWISE, Slope(2 / math.sqrt(math.pi), bound=1.0)),
        "erfc": Primitive(Kind.ENTRYWISE, Slope(2 / math.sqrt(math.pi), at_zero=1.0, bound=2.0)),
        "logistic": Primitive(Kind.ENTRYWISE, Slope(0.25, at_zero=0.5, bound=1.0)),
        "sin": Primitive(Kind.ENTRYWISE, Slope(1.0, bound=1.0)),
        "tanh": Primitive(Kind.ENTRYWISE, Slope(1.0, bound=1.0)),
    }
    | _rows(Kind.ENTRYWISE, "sign", has_derivative=False)
    | _rows(Kind.PAIRWISE, "atan2 pow")
    | _rows(Kind.STEP, "is_finite nextafter rem")
    | _rows(Kind.STEP, "ceil floor round", has_derivative=False)
    | _rows(Kind.COMPARISON, "eq ge gt le lt ne")
    | _rows(Kind.LOGIC, "and not or shift_left shift_right_arithmetic shift_right_logical xor")
    | _rows(Kind.COMPLEX, "complex conj imag real")
    | _rows(Kind.BITS, "bitcast_convert_type")
    | _rows(Kind.RUNNING, "cumlogsumexp cummax cummin cumprod cumsum")
    | _rows(
        Kind.REDUCTION,
        "argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor",
    )
    | _rows(Kind.WINDOWS, "reduce_window_max reduce_window_min reduce_window_sum")
    | _rows(Kind.CONTRACTION, "dot_general ragged_dot ragged_dot_general")
    | _rows(Kind.CONVOLUTION, "conv_general_dilated")
    | _rows(Kind.ALONG, "approx_top_k fft sort top_k")
    | _rows(
        Kind.COLLECTIVE,
        """all_gather all_gather_invariant all_to_all pbroadcast pmax pmin ppermute psum psum2 psum_invariant
        psum_scatter pvary reduce_scatter""",
    )
    | _rows(Kind.SOURCE, "iota random_bits")
)


def named(*kinds: Kind) -> frozenset[str]:
    """The names of the primitives of these kinds."""
    return frozenset(name for name, row in PRIMITIVES.items() if row.kind in kinds)


# what makes statistics of values
REDUCING = named(Kind.REDUCTION, Kind.WINDOWS) - {"argmax", "argmin"}

T = TypeVar("T")


def rule_of(name: str, by_name: Mapping[str, T], by_kind: Mapping[Kind, T]) -> T | None:
    """What a reader does with a primitive: what it says of this one, else of all of its kind; `None` if nothing."""
    row = PRIMITIVES.get(name)
    return by_name.get(name) or (by_kind.get(row.kind) if row else None)
