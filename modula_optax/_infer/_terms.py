"""The terms of inference: what is said of axes, of the parts of a value, of uses, and of what follows them."""

import enum


class Axis(enum.Enum):
    """What a use does to one axis of a parameter."""

    # of a matrix
    IN = enum.auto()
    OUT = enum.auto()
    BATCH = enum.auto()
    TAP = enum.auto()
    BLOCKS = enum.auto()  # outputs, and how many matrices there are
    # before it was used
    PICKED = enum.auto()  # an entry was taken, by a constant
    LOOKED = enum.auto()  # an entry was looked up, by an index
    REORDERED = enum.auto()  # entries were looked up by constants, one after the other
    INNER = enum.auto()  # contracted with another parameter
    MIXED = enum.auto()  # contracted with constants
    REDUCED = enum.auto()
    # where entries are added or multiplied
    ALIGNED = enum.auto()
    EXPANDED = enum.auto()  # data have one entry along it
    JOINED = enum.auto()  # concatenated


class Made(enum.Enum):
    """How a value is made of a parameter."""

    WHOLE = enum.auto()  # a view of it
    FACTOR = enum.auto()  # multiplied into a larger one, as the scale of a normalised weight
    COFACTOR = enum.auto()  # multiplied with one of its size
    ADDEND = enum.auto()  # added to a larger one
    PRODUCT = enum.auto()  # contracted with another
    STATISTIC = enum.auto()  # reduced
    SEVERAL = enum.auto()  # in several of these ways at once
    OTHERWISE = enum.auto()  # a reason says how


class Normaliser(enum.Enum):
    """What makes means of sums."""

    SUM = enum.auto()  # of products of data
    RECIPROCAL = enum.auto()


class UseKind(enum.Enum):
    """What a parameter is to the data that it meets; values are words for messages."""

    LINEAR = "linear"
    CONV = "conv"
    LOOKUP = "lookup"
    ADD = "add"
    MUL = "mul"
    STATISTIC = "statistic"
    OTHER = "other"  # a reason says what


class Clue(enum.Enum):
    """What happened to an axis of activations that a parameter made."""

    CONTRACTED = enum.auto()  # with another parameter
    CONTRACTED_WITH_OTHERS = enum.auto()  # by a matrix that contracts another axis, too
    BATCHED = enum.auto()  # against another parameter
    SCALED = enum.auto()  # each entry by one of another parameter
    MATCHED = enum.auto()  # contracted with what another parameter made
    UNPACKED = enum.auto()  # each entry was taken by itself, as queries, keys and values are
    MERGED = enum.auto()  # with another axis of the same parameter
    BIASED = enum.auto()  # a vector was added along it
    LEADING = enum.auto()  # stood before the rows that were looked up
    GATED = enum.auto()  # another layer gives one number for all its entries
    ATTENDING = enum.auto()  # each entry along it has a softmax
    COMPETING = enum.auto()  # its entries share a softmax
    MATRIX_ROW = enum.auto()  # of a weight made from data
    MATRIX_COLUMN = enum.auto()
    FORM_ROW = enum.auto()  # the same, but it met vectors on both sides
    FORM_COLUMN = enum.auto()
    FORM_SUMMED = enum.auto()  # and was summed along positions


class Unclear(enum.Enum):
    """Why a role cannot be told, as far as it matters."""

    PRODUCT = enum.auto()  # which of several parameters data are multiplied with
    CONFLICT = enum.auto()  # it is used in incompatible ways
    OTHER = enum.auto()
