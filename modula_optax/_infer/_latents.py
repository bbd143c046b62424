"""Learned vectors that meet matrices before any data do: queries and latents, told apart from low-rank factors.

`A @ B` of two parameters is a matrix in two factors, or a layer `B` of learned vectors `A`: the product alone does not
say which. If `A` are vectors, then the program makes sense with `A` taken for data: all others find their roles, one
axis of `A` goes into matrices, and the other stays, as tokens do, through a softmax over something else.
"""

from collections.abc import Callable

from modula_optax._infer._finding import EVIDENCE, GUESS, Evidence, Finding, product
from modula_optax._infer._terms import Clue, Unclear
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
    candidates = [i for i, finding in enumerate(found[0]) if finding.unclear is Unclear.PRODUCT]
    for i in candidates:
        if found[0][i].unclear is not Unclear.PRODUCT:
            continue
        attempt = read(latents | {i})
        # a low-rank head has a softmax over its outputs, too, but then neither of its factors is known
        latent = attempt[0][i]
        proven = latent.role != "unknown" and (latent.confidence != GUESS or _unknown(found) == 1)
        if proven and _unknown(attempt) < _unknown(found):
            latents, found = latents | {i}, attempt
    return found


def _unknown(reading: Reading) -> int:
    return sum(finding.role == "unknown" for finding in reading[0])


def find_latents(shape: tuple[int, ...], param: int, evidence: Evidence) -> Finding:
    """A table of learned vectors, by what became of its axes."""
    columns = tuple(axis for axis in range(len(shape)) if evidence.has(Label(param, axis), Clue.CONTRACTED))
    rows = tuple(axis for axis in range(len(shape)) if axis not in columns and shape[axis] > 1)
    if not columns or len(rows) != 1 or not evidence.has(Label(param, rows[0]), Clue.ATTENDING, Clue.COMPETING):
        return product().finding()
    # scores of data that other matrices take, too, may come from a matrix in two factors
    proven = evidence.has(Label(param, rows[0]), Clue.ATTENDING) and evidence.meets_keys(Label(param, rows[0]))
    confidence = EVIDENCE if proven else GUESS
    return Finding("positional", rows, columns, confidence=confidence, place="hidden")
