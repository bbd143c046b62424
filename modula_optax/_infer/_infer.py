"""`infer_specs`: the spec of every parameter, read off the model's own computation."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from modula_optax._align import align, count_atoms
from modula_optax._axes import Axes
from modula_optax._infer._classify import classify
from modula_optax._infer._finding import CERTAIN, MATRICES, Evidence, Finding
from modula_optax._infer._flow import count_consumers, reach
from modula_optax._infer._messages import refuse_all_unused, refuse_unknown, warn, why
from modula_optax._infer._model import Model, trace_model
from modula_optax._infer._program import Program, flatten
from modula_optax._infer._rules import RULES
from modula_optax._infer._sensitivity import sensitivities
from modula_optax._infer._structure import unknown_primitive
from modula_optax._infer._trace import Trace, Use, run
from modula_optax._norms import RMS, Diagonal, Embedding, Norm, Spectral, Unnormed
from modula_optax._paths import flatten_with_paths, is_absent
from modula_optax._registry import NormRegistry
from modula_optax._specs import PLACES, ROLES, NormSpec, check_mass

# What a leaf of each role gets; the places for changing a default.
NORMS: dict[str, Norm] = {
    "linear": Spectral(),
    "conv": Spectral(),
    "depthwise": Spectral(),
    "embedding": Embedding(),
    "tied": Embedding(),
    "positional": Embedding(),
    "bias": RMS(),
    "gain": Diagonal(),
    "unused": Unnormed(),
}
MASSES: dict[str, float] = dict.fromkeys(NORMS, 1.0)


def infer_specs(
    apply_fn: Callable[..., Any],
    params: Any,
    *example_inputs: Any,
    overrides: NormRegistry | None = None,
    masses: Mapping[str, float] | None = None,
    head: Norm | None = None,
    tied: Norm | None = None,
    unknown: Norm | None = None,
    sensitivity: str = "unit",
    strict: bool = False,
    **kwargs: Any,
) -> Any:
    r"""Spec of every parameter, by what the model does with it: no names, no framework, no annotation.

    `apply_fn(params, *example_inputs, **kwargs)` is traced once, and its jaxpr read: a parameter that is contracted
    with data is a linear layer, its contracted axes are fan-in; one that data look up is an embedding; and so on.

    ==========  =========================================================  ===========================
    role        seen as                                                    norm
    ==========  =========================================================  ===========================
    linear      contracted with data                                       `Spectral`
    embedding   looked up by data, or multiplied by one-hot vectors        `Embedding`
    tied        both                                                       `Embedding`, or `tied`
    conv        kernel of a convolution                                    `Spectral` with taps
    depthwise   the same, every channel on its own                         `Spectral` with taps, groups
    positional  a table added for each position                            `Embedding`
    bias, gain  added to, multiplied into activations                      `RMS`, `Diagonal`
    unused      reaches no output                                          `Unnormed`
    unknown     anything else                                              an error, or `unknown`
    ==========  =========================================================  ===========================

    Args:
      apply_fn: function of the parameters and inputs that returns arrays, such as logits or a loss.
      params: the parameters: arrays or `jax.ShapeDtypeStruct`.
      *example_inputs: what a call gets after the parameters: arrays or `jax.ShapeDtypeStruct`, which are traced, and
        anything else, which is passed as it is. Sizes of 1 hide what an axis is for.
      overrides: a registry whose rules win over what is inferred; the axes of a rule without `axes` are inferred.
      masses: mass of each leaf by role or place, such as `{"head": 0.5, "bias": 0.1}`; 1 for all others. Of a matrix
        the place counts first, of anything else the role.
      head: norm of linear layers whose output no other matrix follows, such as `RowL2()`.
      tied: norm of tables that are also such an output layer, such as `Sign()`.
      unknown: norm of parameters whose role is unknown, taken with the axes that it has by default.
      sensitivity: `"unit"`, or `"traced"` for Lipschitz estimates of what follows each parameter.
      strict: whether what is warned of is an error.
      **kwargs: keywords of `apply_fn`.

    Returns:
      A tree of the structure of `params` with a `NormSpec` for each array; its `role`, `place`, `confidence` and
      `why` say what was found.

    Raises:
      ValueError: lists every parameter whose role is unknown, with an override to paste; arguments that do not fit;
        a traced sensitivity that would not be sound.

    Warns:
      UserWarning: once, with all guesses, unused parameters, weights used only in other coordinates (weight norm),
        and example inputs of size 1.

    Example:
      >>> def apply(params, x):
      ...     return jnp.tanh(x @ params["w"] + params["b"])
      >>> params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
      >>> specs = infer_specs(apply, params, jax.ShapeDtypeStruct((8, 3), jnp.float32))
      >>> specs["w"].role, specs["w"].axes
      ('linear', Axes(fan_in=(0,), fan_out=(1,), taps=(), groups=1))
    """
    if sensitivity not in ("unit", "traced"):
        raise ValueError(f"sensitivity must be 'unit' or 'traced'; got {sensitivity!r}.")
    if overrides is not None and not isinstance(overrides, NormRegistry):
        raise ValueError(f"overrides must be a NormRegistry of rules; got {type(overrides).__name__}.")
    _check_masses({} if masses is None else masses)
    _check_norms(head=head, tied=tied, unknown=unknown)
    model = trace_model(apply_fn, params, example_inputs, kwargs)
    findings, program, trace = analyze(model)
    refuse_all_unused(findings)
    rules = [_override(overrides, path) for path in model.paths]
    defaults = NORMS | {"tied": tied or NORMS["tied"], "unknown": unknown}
    chosen = [_spec(finding, rule, defaults, head, masses or {}) for finding, rule in zip(findings, rules, strict=True)]
    refuse_unknown(model, [f if spec is None else None for f, spec in zip(findings, chosen, strict=True)])
    specs = [spec for spec in chosen if spec is not None]
    if sensitivity == "traced":
        traced = sensitivities(model, findings, program, trace)
        specs = [dataclasses.replace(spec, sensitivity=s) for spec, s in zip(specs, traced, strict=True)]
    warn(model, [f if rule is None else None for f, rule in zip(findings, rules, strict=True)], strict)
    flat, treedef = flatten_with_paths(params)
    supply = iter(specs)
    tree = treedef.unflatten([leaf if is_absent(leaf) else next(supply) for _, leaf in flat])
    # refuses rules whose norm or axes do not fit their parameter
    leaves, _ = align(tree, params)
    return treedef.unflatten(
        [leaf.value if is_absent(leaf.value) else count_atoms(leaf.spec, leaf.value.shape) for leaf in leaves]
    )


def analyze(model: Model) -> tuple[list[Finding], Program, Trace]:
    """What every parameter does, and the program and the trace that show it."""
    program = flatten(model.jaxpr, RULES.keys())
    n_params = len(model.leaves)
    parameters, inputs = program.inputs[:n_params], frozenset(program.inputs[n_params:])
    if not inputs:
        # a loss that closes over its batch: what it captured is all the data that there are
        inputs = program.captured
    consumers = count_consumers(program.block, reach(program))
    trace = run(program, RULES, unknown_primitive, consumers, parameters, inputs)
    reached = reach(program, matrices_by_output(trace.uses), trace.statistics)
    findings = classify(
        [leaf.shape for leaf in model.leaves], trace.uses, Evidence(trace.evidence, trace.uses), reached, parameters
    )
    findings = [
        dataclasses.replace(check_dtype(finding, leaf), blocks=blocks_of(i, finding, leaf, trace))
        for i, (finding, leaf) in enumerate(zip(findings, model.leaves, strict=True))
    ]
    return findings, program, trace


def blocks_of(param: int, finding: Finding, leaf: Any, trace: Trace) -> tuple[int, ...]:
    """Sizes of the blocks that the outputs of a matrix are cut into."""
    return trace.pieces.blocks(param, finding.fan_out, leaf.shape) if finding.role in ("linear", "conv") else ()


def matrices_by_output(uses: Sequence[Use]) -> dict[int, frozenset[int]]:
    """The matrices that are used in an operation, by where its first output is."""
    found: dict[int, frozenset[int]] = {}
    for use in uses:
        if use.kind in ("linear", "conv"):
            found[use.op.outs[0]] = found.get(use.op.outs[0], frozenset()) | {use.param}
    return found


def check_dtype(finding: Finding, leaf: Any) -> Finding:
    """Only real numbers have a norm here."""
    if 0 in leaf.shape:
        return Finding("unused", notes=("it has no entries",))
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return finding
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        problem = "it is complex: keep its real and imaginary parts as two parameters, or leave it Unnormed()"
        return Finding("unknown", use=finding.use, problem=problem)
    return Finding("unused", notes=("integers are not trained",))


def _override(overrides: NormRegistry | None, path: str) -> NormSpec | None:
    if overrides is None:
        return None
    return next((rule.spec for rule in overrides.rules if rule.matches(path)), overrides.default)


def _spec(
    finding: Finding,
    rule: NormSpec | None,
    defaults: Mapping[str, Norm | None],
    head: Norm | None,
    masses: Mapping[str, float],
) -> NormSpec | None:
    """The spec of one parameter; `None` if its role is unknown and nothing else says what its norm is."""
    if rule is not None:
        axes = rule.axes or axes_for(finding, rule.norm)
        return dataclasses.replace(
            rule,
            axes=axes,
            role=rule.role or finding.role,
            place=rule.place or finding.place,
            confidence=CERTAIN,
            blocks=finding.blocks,
            why="override",
        )
    norm = defaults[finding.role]
    if norm is None:
        return None
    if head is not None and finding.place == "head" and finding.role == "linear":
        norm = head
    return NormSpec(
        norm,
        axes_for(finding, norm),
        mass=_mass(finding, masses),
        role=finding.role,
        place=finding.place,
        confidence=finding.confidence,
        blocks=finding.blocks,
        why=why(finding),
    )


def _mass(finding: Finding, masses: Mapping[str, float]) -> float:
    names = [finding.place, finding.role] if finding.role in MATRICES else [finding.role, finding.place]
    return next((masses[name] for name in names if name in masses), MASSES.get(finding.role, 1.0))


def _check_masses(masses: Mapping[str, float]) -> None:
    if not isinstance(masses, Mapping):
        raise ValueError(f"masses must be a mapping such as {{'head': 0.5, 'bias': 0.1}}; got {masses!r}.")
    known = (*ROLES, *PLACES)
    wrong = [name for name in masses if name not in known]
    if wrong:
        raise ValueError(f"masses names {wrong[0]!r}, which is no role or place; these are {', '.join(known)}.")
    for name, mass in masses.items():
        check_mass(f"masses[{name!r}]", mass)


def _check_norms(**norms: Norm | None) -> None:
    for name, norm in norms.items():
        if isinstance(norm, type) or not isinstance(norm, Norm | None):
            raise ValueError(f"{name} must be an atomic norm such as RowL2() or Unnormed(), or None; got {norm!r}.")


def axes_for(finding: Finding, norm: Norm) -> Axes | None:
    """The axes of a parameter as a norm means them: rows of a table are the fan-in of `Embedding` only."""
    if finding.role in ("unknown", "unused"):
        return None
    fan_in, fan_out = finding.fan_in, finding.fan_out
    if finding.role == "tied" and not isinstance(norm, Embedding):
        fan_in, fan_out = fan_out, fan_in
    if isinstance(norm, RMS | Diagonal) and finding.role in MATRICES:
        return None
    return Axes(fan_in, fan_out, finding.taps, finding.groups)
