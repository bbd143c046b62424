"""Every message that the package raises, read off its source, with the cause and the cure.

`python docs/messages.py` prints the page that `guides/troubleshooting.md` includes.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "modula_optax"
# a string of so many words is a message
WORDS = 4


class Message(NamedTuple):
    """The text of a message, with an ellipsis for what is filled in, and the file that it stands in."""

    text: str
    file: str


class Explanation(NamedTuple):
    """What the messages that a pattern finds have in common."""

    pattern: str
    title: str
    cause: str
    cure: str


# the first that fits a message explains it; what no pattern fits is explained by where it stands
EXPLANATIONS = (
    Explanation(
        r"of the shape that they are given|for atoms",
        "A norm or a constraint of your own returned another shape",
        "`dualize`, `project`, `retract` and `tangent` map arrays `[..., taps, fan_in, fan_out]` to arrays of this shape.",
        "Look for a transposition or a sum that loses an axis (`keepdims=True`); see `examples/extend.py`.",
    ),
    Explanation(
        r"match(es)? no rule",
        "A parameter matches no rule",
        "A registry is strict: every parameter needs a rule, and patterns match *whole* paths (`re.fullmatch`).",
        "Add a rule for the paths that are listed; `.*/kernel` matches kernels at any depth. "
        "`default=mo.Unnormed()` leaves all others to the `fallback` optimizer.",
    ),
    Explanation(
        r"match(es)? no parameter|Patterns match|no path matches|earlier rules take",
        "A rule matches no parameter",
        "A pattern has a typing error, matches only a part of a path, or stands behind a rule that takes all it matches.",
        "Compare it with the paths that the message lists. Put the more special rule first.",
    ),
    Explanation(
        r"do(es)? not fit (its|their) spec|[Ss]pecs (are|must be) of|The specs are those|in its spec|specs do not know|spec does not know|model has changed|ha(s|ve) no spec|names? no parameter|Infer the specs anew|have changed|other shape",
        "Specs and parameters do not fit",
        "The specs are of another model, of another part of it, or of the model before it changed.",
        "Infer (or resolve) the specs from the parameters that the optimizer gets. Infer them again after every change of "
        "the model.",
    ),
    Explanation(
        r"moving average|is no parameter|are no parameters|in each other's place|no parameter|whole variables|is not (the|its) parameters|is a model, not|not (an array|arrays)|They are the state|Of an nnx|Leave them out|_parameters|instead of parameters",
        "Something else than parameters was passed",
        "Whole variables, a `TrainState`, a module, statistics, functions or specs stand where parameters belong.",
        'Pass what the message says: `variables["params"]`, `state.params`, `nnx.state(model, nnx.Param)`, '
        "`eqx.filter(model, eqx.is_inexact_array)`.",
    ),
    Explanation(
        r"is that of several parameters|are those of several|Rename one",
        "Two parameters have one path",
        'Two keys of the tree are written alike, such as `1` and `"1"`.',
        "Rename one of them.",
    ),
    Explanation(
        r"things? to check|inferred|is a guess|guessed to be|reaches no output|reaches the output without|hides what it is for",
        "A warning lists guesses",
        "Inference found a role by the common case, a parameter that reaches no output, or an input of size 1.",
        "Check the lines that are listed. Give example inputs axes of at least 2, and write a rule where the guess is wrong. "
        "`strict=True` makes it an error, for CI.",
    ),
    Explanation(
        r"sensitivity='traced'|[Ss]ensitivit(y|ies)(/|\\.py)",
        "A traced sensitivity is refused",
        "The network has no finite or no sound Lipschitz estimate at this place.",
        'Use `sensitivity="unit"`, which is the default and the practice for plain residual networks.',
    ),
    Explanation(
        r"No parameter reaches the output",
        "No parameter reaches the output",
        "`apply_fn` uses parameters of its closure, and not its first argument.",
        'Use the argument: `lambda p, *a: model.apply({"params": p}, *a)`.',
    ),
    Explanation(
        r"role that cannot be told|_infer/(?!_choose|_model)",
        "A role cannot be told",
        "The operations that a parameter goes through do not say what it is for, or contradict each other.",
        "Paste the rule that the message prints into `overrides=mo.NormRegistry(...)` and choose its norm, or pass "
        "`unknown=mo.Unnormed()`.",
    ),
    Explanation(
        r"apply_fn|params has no leaves|must return arrays|does not accept what it is called with",
        "`apply_fn` cannot be called",
        "It is no function, does not take `(params, *example_inputs)`, or returns something else than arrays.",
        "Wrap it in a function of parameters and inputs that returns logits or a loss.",
    ),
    Explanation(
        r"lipschitz_bound|input_bound|_lipschitz/|floating point|has no values|have no values",
        "A Lipschitz bound has no proof",
        "An operation between inputs and output has no proven rule, or is Lipschitz only where its inputs are bounded.",
        "Bound or normalise what comes before it, pass `input_bound=`, or write it with operations that have a rule; see "
        "[Lipschitz bounds](lipschitz.md).",
    ),
    Explanation(
        r"needs? the parameters|depend on the weights|pass them|without `?params",
        "The optimizer needs the parameters",
        "Weight decay, constraints, manifolds and the monitor look at the weights, and `update` was called without them.",
        "Call `tx.update(grads, state, params)`. `nj.FromOptax` does not: pass `weight_decay=0.0`, or call `update` in a "
        "module of your own.",
    ),
    Explanation(
        r"pip install|matplotlib",
        "A package is missing",
        "Pictures are drawn with matplotlib, which is not installed with the package.",
        "From a clone: `pip install '.[plot]'`.",
    ),
    Explanation(
        r"monitor|_plot|measurements|read_monitor|Read the state of one",
        "Measurements are missing or ambiguous",
        "No monitor is in the state, two measure the same parameter, or the state is that of an ensemble.",
        "Write `tx = mo.monitor(specs, tx)` around the whole optimizer, and read the state of one model at a time.",
    ),
    Explanation(
        r"mesh",
        "A mesh does not fit",
        "`mesh_axes` names axes that the mesh in force does not have, or no mesh is in force.",
        "Enter the mesh, `with jax.set_mesh(mesh):`, and name its axes.",
    ),
    Explanation(
        r"JSON|NormSpec|paths? differs?|its fields|its parent|written to|no …; its",
        "Saved specs cannot be read",
        "The file is no spec tree, was written by another version, or is of another model.",
        "Infer the specs again and save them with `mo.specs_to_json`.",
    ),
    Explanation(
        r"_rate\.py|learning.rate|rate of|rate below",
        "A learning rate is unusual or unknown",
        "A rate is the size of a step in the modular norm, usually 0.01 to 0.1, and decays inside of constraints depend on it.",
        "Start at 0.05. In a chain of your own, pass `learning_rate=` to `mo.keep_params_projected`.",
    ),
    Explanation(
        r"tare|mass",
        "A mass cannot be used",
        "A mass is negative or not finite, is given to a role or place that does not exist, or nothing is selected.",
        'Masses are finite numbers of at least 0, by role or place: `masses={"head": 4.0, "bias": 0.1}`.',
    ),
    Explanation(
        r"decay|mask",
        "Weight decay does not fit",
        "A mask selects nothing or has another structure than the parameters, or specs do not say what decays.",
        "Pass a tree of booleans like the parameters, a function that makes one, or `weight_decay=0.0`.",
    ),
    Explanation(
        r"axis|axes|taps|groups|fan_in|fan-out",
        "Axes do not fit an array",
        "Axes are named twice, do not exist, or leave nothing for the norm.",
        "Say which axes are inputs and which are outputs: `mo.Axes(fan_in=-2, fan_out=-1)`; see [norms of parameters]"
        "(norms_of_parameters.md).",
    ),
    Explanation(
        r"[Cc]oefficients|polar|ns_coeffs|ns_steps|products|Products|scaling|triples",
        "Polynomials are not what they must be",
        "The name of a table is unknown, or numbers are no triples `(a, b, c)`.",
        "Write a name that the message lists, or a sequence of triples such as `mo.polar_express(8)`.",
    ),
    Explanation(
        r"constraint|radius|singular values|unit ball|cannot be held|is about|under the norm of|manifold|norm that|measure",
        "A constraint does not suit its norm",
        "The constraint needs a norm of another kind, or an argument that it did not get.",
        "The message names the norms that suit it; see [constraints](constraints.md).",
    ),
    Explanation(
        r"must be|is no |are no |needs real|Unknown|write |Rule\(|without values? is Unnormed|without values are|real arrays|concrete arrays|has no entries|write Unnormed|has an? |are no |Unknown|not a valid|got …|cannot",
        "An argument is not what it must be",
        "The message says what was expected and what came.",
        "Write what the message shows.",
    ),
)


# titles by files, for what is a part of a message
PLACES = {
    r"_(registry|rules)\.py": "A rule matches no parameter",
    r"_(align|match|axes|canonical)\.py": "Specs and parameters do not fit",
    r"_(parameters|paths)\.py": "Something else than parameters was passed",
    r"_infer/|_jaxpr/": "A role cannot be told",
    r"_serialize\.py": "Saved specs cannot be read",
    r"_(spread|stacks)\.py": "A mesh does not fit",
    r"_constraints/|_(project|retract)\.py": "A constraint does not suit its norm",
    r"": "An argument is not what it must be",
}


def messages() -> Iterator[Message]:
    """All sentences in the package's source that are no docstrings: they are messages, or parts of one."""
    for path in sorted(SOURCE.rglob("*.py")):
        for text in sentences(ast.parse(path.read_text())):
            yield Message(text.strip(" \n;"), str(path.relative_to(SOURCE)))


def sentences(node: ast.AST) -> Iterator[str]:
    """The sentences below a node of the syntax tree."""
    for child in ast.iter_child_nodes(node):
        text = template(child)
        if len(re.findall(r"[A-Za-z]{2,}", text)) >= WORDS:
            yield text
        elif not is_no_message(child):
            yield from sentences(child)


def is_no_message(node: ast.AST) -> bool:
    """Whether the strings of a node are a docstring, the shapes of an annotation, or a list of names to be split."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Subscript():
            return True
        case ast.Call(func=ast.Attribute(value=ast.Constant(), attr="split")):
            return True
        case _:
            return False


def template(node: ast.AST) -> str:
    """The text of an expression, with an ellipsis for every part that is known only when it runs; empty if it has none."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return re.sub("…+", "…", "".join(template(value) or "…" for value in values))
        case ast.BinOp(left=left, op=ast.Add(), right=right) if template(left) and template(right):
            return template(left) + template(right)
        case _:
            return ""


def explanation(message: Message) -> Explanation:
    """The first explanation that fits."""
    by_title = {e.title: e for e in EXPLANATIONS}
    found = (e for e in EXPLANATIONS if re.search(e.pattern, f"{message.text} [{message.file}]"))
    return (
        next(found, None) or by_title[next(title for place, title in PLACES.items() if re.search(place, message.file))]
    )


def page() -> str:
    """Markdown of all explanations, each with the messages it explains."""
    explained: dict[Explanation, list[str]] = {e: [] for e in EXPLANATIONS}
    for message in messages():
        explained[explanation(message)].append(message.text)
    lines = []
    for e, texts in explained.items():
        if texts:
            lines += [f"### {e.title}", "", f"**Cause.** {e.cause}", "", f"**Cure.** {e.cure}", ""]
            lines += ["````{dropdown} Messages", "```text", *sorted(set(texts)), "```", "````", ""]
    return "\n".join(lines)


def write(path: Path) -> None:
    """Writes the page, if it has changed."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != page():
        path.write_text(page())


if __name__ == "__main__":
    print(page())
