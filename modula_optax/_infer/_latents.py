"""Learned vectors that meet matrices before any data do: queries and latents, told apart from low-rank factors.

`A @ B` of two parameters is a matrix in two factors, or a layer `B` of learned vectors `A`: the product alone does not
say which. If `A` are vectors, then the program makes sense with `A` taken for data: all others find their roles, one
axis of `A` goes into matrices, and the other stays, as tokens do, through a softmax over something else.
"""

from collections.abc import Callable

from modula_optax._infer._finding import EVIDENCE, GUESS, Evidence, Finding, product
from modula_optax._infer._terms import Axis, Clue, Unclear, UseKind
from modula_optax._infer._trace import Trace
from modula_optax._infer._values import Label

Reading = tuple[list[Finding], Trace]


def with_latents(read: Callable[[frozenset[int]], Reading]) -> Reading:
    """What `read` finds, with those parameters taken for latents that let it find more.

    Args:
      read: the findings and the trace, given the numbers of the parameters that are taken for latents.
    """
    latents: frozenset[int] = frozenset()
    found = read(latents)
    candidates = {i: _partners(i, finding) for i, finding in enumerate(found[0]) if finding.unclear is Unclear.PRODUCT}
    for i in sorted(set().union(*candidates.values())):
        if not any(i in together and found[0][j].unclear is Unclear.PRODUCT for j, together in candidates.items()):
            continue
        attempt = read(latents | {i})
        # a low-rank head has a softmax over its outputs, too, but then neither of its factors is known
        latent = attempt[0][i]
        proven = latent.role != "unknown" and (latent.confidence != GUESS or _unknown(found) == 1)
        if proven and _unknown(attempt) < _unknown(found):
            latents, found = latents | {i}, attempt
    return found


def _partners(param: int, finding: Finding) -> set[int]:
    """The parameters of a product."""
    return {param, *(finding.use.partners if finding.use else ())}


def _unknown(reading: Reading) -> int:
    return sum(finding.role == "unknown" for finding in reading[0])


def find_latents(shape: tuple[int, ...], param: int, evidence: Evidence, trace: Trace) -> Finding:
    """A table of learned vectors, by what became of its axes."""
    columns = tuple(axis for axis in range(len(shape)) if evidence.has(Label(param, axis), Clue.CONTRACTED))
    rows = tuple(axis for axis in range(len(shape)) if axis not in columns and shape[axis] > 1)
    if not columns or len(rows) != 1 or not evidence.has(Label(param, rows[0]), Clue.ATTENDING, Clue.COMPETING):
        return product().finding()
    row = Label(param, rows[0])
    proven = evidence.has(row, Clue.ATTENDING) and _meets_keys(row, {Label(param, i) for i in columns}, evidence, trace)
    return Finding("positional", rows, columns, confidence=EVIDENCE if proven else GUESS, place="hidden")


def _meets_keys(row: Label, columns: set[Label], evidence: Evidence, trace: Trace) -> bool:
    """Whether vectors become queries, by one layer, which meet keys.

    Keys are what a layer made for that alone: scores of what other matrices take, too, may be those of a matrix in two
    factors.
    """
    uses = [use for use in trace.uses if use.kind is UseKind.LINEAR]
    made = {Label(use.param, piece.axis) for use in uses for piece in use.axes if piece.role is Axis.OUT}
    queries = {use.param for use in uses for piece in use.axes if piece.role is Axis.IN and piece.labels & columns}
    return any(
        row in kept
        and keys
        and all(key in made and not evidence.has(key, Clue.CONTRACTED) for key in keys)
        and any(label in columns or label.param in queries for label in summed)
        for kept, summed, keys in trace.meetings
    )
