"""Learned vectors that meet matrices before any data do: queries and latents, told apart from low-rank factors.

`A @ B` of two parameters is a matrix in two factors, or a layer `B` of learned vectors `A`: the product alone does not
say which. If `A` are vectors, then the program makes sense with `A` taken for data: all others find their roles, one
axis of `A` goes into matrices, and the other stays, as tokens do, through a softmax over something else.
"""

from collections.abc import Callable, Mapping

from modula_optax._infer._finding import EVIDENCE, GUESS, Evidence, Finding, product
from modula_optax._infer._terms import Axis, Clue, Made, Unclear, UseKind
from modula_optax._infer._trace import Trace
from modula_optax._infer._uses import Use
from modula_optax._infer._values import NONE, Label, Labels

_ENTRYWISE = (UseKind.ADD, UseKind.MUL)

Reading = tuple[list[Finding], Trace]


def with_latents(read: Callable[[Mapping[int, bool]], Reading]) -> Reading:
    """What `read` finds, with those parameters taken for latents that let it find more.

    Args:
      read: the findings and the trace, given the numbers of the parameters that are taken for latents, and whether data
        meet them entry by entry, too.
    """
    latents: dict[int, bool] = {}
    found = read(latents)
    met = {use.param for use in found[1].uses if use.part.made is Made.WHOLE and use.kind in _ENTRYWISE}
    candidates = {i: _partners(i, finding) for i, finding in enumerate(found[0]) if _is_of_product(finding)}

    def attempted(i: int) -> Reading | None:
        """The reading with one more table of latents, if it is proven to be one."""
        attempt = read(latents | {i: i in met})
        # a low-rank head has a softmax over its outputs, too, but then neither of its factors is known
        latent = attempt[0][i]
        proven = latent.role != "unknown" and (latent.confidence != GUESS or _unknown(found) == 1)
        return attempt if proven and _unknown(attempt) < _unknown(found) else None

    for i in sorted(set().union(*candidates.values())):
        groups = [together for j, together in candidates.items() if i in together and _is_of_product(found[0][j])]
        attempt = attempted(i) if groups else None
        # where any factor may be the latents, none is known
        if attempt is not None and not any(map(attempted, set().union(*groups) - {i})):
            latents, found = latents | {i: i in met}, attempt
    return found


def _is_of_product(finding: Finding) -> bool:
    """Whether a role is unclear because data met the parameter in a product with others."""
    made = finding.use.part.made if finding.use else None
    return finding.unclear is Unclear.PRODUCT or (finding.role == "unknown" and made is Made.PRODUCT)


def _partners(param: int, finding: Finding) -> set[int]:
    """The parameters of a product."""
    return {param, *(finding.use.partners if finding.use else ())}


def _unknown(reading: Reading) -> int:
    return sum(finding.role == "unknown" for finding in reading[0])


def find_latents(shape: tuple[int, ...], param: int, met: bool, evidence: Evidence, trace: Trace) -> Finding:
    """A table of learned vectors, by what became of its axes, and by whether data `met` it entry by entry, too."""
    columns = tuple(axis for axis in range(len(shape)) if evidence.has(Label(param, axis), Clue.CONTRACTED))
    others = tuple(axis for axis in range(len(shape)) if axis not in columns and shape[axis] > 1)
    # of a stack, each layer has latents of its own
    soft = tuple(axis for axis in others if evidence.has(Label(param, axis), Clue.ATTENDING, Clue.COMPETING))
    rows = others if len(others) == 1 else soft
    if not columns or len(rows) != 1:
        return product().finding()
    row, taken = Label(param, rows[0]), {Label(param, i) for i in columns}
    are_shared = _are_of_data(taken, trace)
    if evidence.is_member(row) or not (are_shared or evidence.has(row, Clue.ATTENDING, Clue.COMPETING)):
        return product().finding()
    proven = met or are_shared or _attends(row, taken, evidence, trace)
    return Finding("positional", rows, columns, confidence=EVIDENCE if proven else GUESS, place="hidden")


def _are_of_data(columns: set[Label], trace: Trace) -> bool:
    """Whether the matrices that take vectors take data, too, as where relative places share the kernels of tokens."""
    layers = [use for use in trace.uses if use.kind is UseKind.LINEAR and use.part.made is Made.WHOLE]
    inputs = [(use.param, _labels(use, Axis.IN)) for use in layers]
    takers = {param for param, labels in inputs if labels & columns}
    return takers == {param for param, labels in inputs if param in takers and not labels & columns}


def _labels(use: Use, role: Axis) -> Labels:
    return NONE.union(*(piece.labels for piece in use.axes if piece.role is role))


def _attends(row: Label, columns: set[Label], evidence: Evidence, trace: Trace) -> bool:
    """Whether vectors become queries or keys, by one layer at most, as they are without data.

    As queries they meet keys, which a layer made for that alone: scores of what other matrices take, too, may be those
    of a matrix in two factors. As keys they compete, and a mean is taken of values that another layer made of them.
    """
    pieces = [(use.param, x) for use in trace.uses if use.kind in (UseKind.LINEAR, UseKind.CONV) for x in use.axes]
    made = {Label(param, piece.axis) for param, piece in pieces if piece.role is Axis.OUT}
    taken = [(param, piece.labels) for param, piece in pieces if piece.role is Axis.IN]
    makers = {param for param, labels in taken if labels & columns}
    meetings = [
        meeting
        for meeting in trace.meetings
        if row in meeting.kept and any(label in columns or label.param in makers for label in meeting.summed)
    ]

    def are_keys(keys: Labels, queries: Labels) -> bool:
        # heads are a batch of queries and keys, and then inputs of a matrix, which are named by both
        elsewhere = any(labels & keys and not labels & queries for _, labels in taken)
        return bool(keys) and keys <= made and not elsewhere

    are_queries = any(are_keys(meeting.others, meeting.summed) for meeting in meetings)
    have_values = len(makers) > 1 and any(row in meeting.summed & meeting.others for meeting in trace.meetings)
    return (evidence.has(row, Clue.ATTENDING) and are_queries) or (evidence.has(row, Clue.COMPETING) and have_values)
