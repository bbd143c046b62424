"""Learned vectors that meet matrices before any data do: queries and latents, told apart from low-rank factors.

`A @ B` of two parameters is a matrix in two factors, or a layer `B` of learned vectors `A`: the product alone does not
say which. If `A` are vectors, then the program makes sense with `A` taken for data: all others find their roles, one
axis of `A` goes into matrices, and the other stays, as tokens do, through a softmax over something else.
"""

from collections.abc import Callable

from modula_optax._infer._finding import EVIDENCE, GUESS, Evidence, Finding, product
from modula_optax._infer._terms import Axis, Clue, Unclear, UseKind
from modula_optax._infer._trace import Trace
from modula_optax._infer._values import Label, Labels

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
    proven = evidence.has(row, Clue.ATTENDING) and _meets_keys(row, {Label(param, i) for i in columns}, trace)
    return Finding("positional", rows, columns, confidence=EVIDENCE if proven else GUESS, place="hidden")


def _meets_keys(row: Label, columns: set[Label], trace: Trace) -> bool:
    """Whether vectors become queries, by one layer at most, which meet keys.

    Keys are what a layer made for that alone: scores of what other matrices take, too, may be those of a matrix in two
    factors.
    """
    pieces = [(use.param, x) for use in trace.uses if use.kind in (UseKind.LINEAR, UseKind.CONV) for x in use.axes]
    made = {Label(param, piece.axis) for param, piece in pieces if piece.role is Axis.OUT}
    taken = [(param, piece.labels) for param, piece in pieces if piece.role is Axis.IN]
    makers = {param for param, labels in taken if labels & columns}

    def are_keys(keys: Labels, queries: Labels) -> bool:
        # heads are a batch of queries and keys, and then inputs of a matrix, which are named by both
        elsewhere = any(labels & keys and not labels & queries for _, labels in taken)
        return bool(keys) and keys <= made and not elsewhere

    def are_queries(queries: Labels) -> bool:
        return bool(queries & columns) or any(label.param in makers for label in queries)

    return any(row in x.kept and are_queries(x.summed) and are_keys(x.others, x.summed) for x in trace.meetings)
