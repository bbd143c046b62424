"""Softmax, as readers of a program know it: an exponential over its own sum."""

from collections.abc import Callable
from typing import NamedTuple

from modula_optax._jaxpr._program import Op


class Softmax(NamedTuple):
    """The scores that are exponentiated, and the axes along which the exponential is divided by its sum."""

    scores: int
    axes: tuple[int, ...]


def softmax_of(op: Op, producer: Callable[[int], Op | None], unbroadcast: Callable[[int], Op | None]) -> Softmax | None:
    """The softmax that an operation ends, if it does.

    Args:
      op: the operation.
      producer: what computed a value, through what a reader takes for the same value.
      unbroadcast: what computed a total, through its repetition for everything that it is the total of.
    """
    if op.name != "div":
        return None
    exponential, total = producer(op.ins[0]), unbroadcast(op.ins[1])
    if exponential is None or exponential.name != "exp" or total is None or total.name != "reduce_sum":
        return None
    if producer(total.ins[0]) is not exponential:
        return None
    return Softmax(exponential.ins[0], tuple(total.params["axes"]))
