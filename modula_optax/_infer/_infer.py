"""`infer_specs`: the spec of every parameter, read off the model's own computation."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from modula_optax._align import align_new
from modula_optax._infer._absorbed import join_absorbed
from modula_optax._infer._choose import (
    HEAD,
    NORMS,
    check_masses,
    check_norms,
    refuse_idle_masses,
    spec_of,
    usual_masses,
)
from modula_optax._infer._classify import classify
from modula_optax._infer._depth import depth_of
from modula_optax._infer._finding import Evidence, Finding, UnclearError
from modula_optax._infer._flow import count_consumers, reach
from modula_optax._infer._gated import join_gated
from modula_optax._infer._latents import find_latents, with_latents
from modula_optax._infer._messages import refuse_all_unused, refuse_tied, refuse_unknown, warn
from modula_optax._infer._modulated import join_modulated
from modula_optax._infer._run import run
from modula_optax._infer._shifted import join_shifted
from modula_optax._infer._split import as_splits, split_up
from modula_optax._infer._tables import with_fates_of_tables
from modula_optax._infer._terms import Clue, UseKind
from modula_optax._infer._trace import Trace
from modula_optax._infer._uses import Use
from modula_optax._infer._values import params_in
from modula_optax._jaxpr import Model, Op, Program, flatten, trace_model
from modula_optax._norms import Norm
from modula_optax._paths import flatten_with_paths, is_absent
from modula_optax._registry import NormRegistry
from modula_optax._sensitivity import Origins, sensitivities
from modula_optax._specs import NormSpec


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
    split: str | Sequence[str] = (),
    strict: bool = False,
    **kwargs: Any,
) -> Any:
    r"""Spec of every parameter, by what the model does with it: no names, no framework, no annotation.

    `apply_fn(params, *example_inputs, **kwargs)` is traced once, and its jaxpr read: a parameter that is contracted
    with data is a linear layer, its contracted axes are fan-in; one that data look up is an embedding; and so on.

    ==========  =========================================================  ===============================
    role        seen as                                                    norm
    ==========  =========================================================  ===============================
    linear      contracted with data                                       `Spectral`; of a head `RowL2`
    embedding   looked up by data, or multiplied by one-hot vectors        `Embedding`
    tied        both                                                       `Embedding`, or `tied`
    conv        kernel of a convolution                                    `Spectral` with taps
    depthwise   the same, every channel on its own                         `Spectral` with taps, groups
    positional  a table added for each position                            `Embedding`
    bias, gain  added to, multiplied into activations                      `RMS`, `Diagonal`
    unused      reaches no output                                          `Unnormed`
    unknown     anything else                                              an error, or `unknown`
    ==========  =========================================================  ===============================

    Args:
      apply_fn: function of the parameters and inputs that returns arrays, such as logits or a loss.
      params: the parameters: arrays or `jax.ShapeDtypeStruct`.
      *example_inputs: what a call gets after the parameters: arrays or `jax.ShapeDtypeStruct`, which are traced, and
        anything else, which is passed as it is. Sizes of 1 hide what an axis is for.
      overrides: a registry whose rules win over what is inferred; the axes of a rule without `axes` are inferred.
      masses: mass of each leaf by role or place, such as `{"head": 4.0, "bias": 0.2}`; of a matrix the place counts
        first, of anything else the role. Of all others: min(8, sqrt(fan_in)) for heads under `RowL2`, and steps of the
        same size for tied tables; 0.5 for positions, 0.1 for biases and gains, 1 for other tables, of which
        those that positions are added to get 0.3, and those whose rows a hidden matrix reads without a normalisation
        0.125; for other matrices
        sqrt(max(1, fan_in / fan_out)), times the root of the taps of a convolution, which is what a typical input asks
        for where the norm minds the worst, and times (8 / depth)^(1/4) for hidden ones where more than eight follow
        each other. With traced sensitivities, 1.
      head: norm of linear layers whose output no other matrix follows; `None`: `RowL2()`, and with traced sensitivities
        `Spectral()`.
      tied: norm of tables that are also such an output layer, such as `Sign()`.
      unknown: norm of parameters whose role is unknown, taken with the axes that it has by default.
      sensitivity: `"unit"`, or `"traced"` for Lipschitz estimates of what follows each parameter.
      split: what are matrices of their own: `"heads"`, each of queries, keys and values, and its rows of the output
        kernel; `"blocks"`, what the outputs of a fused kernel are cut into; or both, as a tuple. Kernels stay whole
        by default.
      strict: whether what is warned of is an error.
      **kwargs: keywords of `apply_fn`.

    Returns:
      A tree of the structure of `params` with a `NormSpec` for each array; its `role`, `place`, `confidence` and
      `why` say what was found.

    Raises:
      ValueError: lists every parameter whose role is unknown, with an override to paste; arguments that do not fit,
        such as masses of roles and places that no parameter has;
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
      ('linear', Axes(fan_in=(0,), fan_out=(1,)))
    """
    if sensitivity not in ("unit", "traced"):
        raise ValueError(f"sensitivity must be 'unit' or 'traced'; got {sensitivity!r}.")
    if overrides is not None and not isinstance(overrides, NormRegistry):
        got = type(overrides).__name__
        raise ValueError(f"overrides must be a NormRegistry of rules; got {got}. Write NormRegistry(Rule(...), ...).")
    check_masses({} if masses is None else masses)
    check_norms(head=head, tied=tied, unknown=unknown)
    splits = as_splits(split)
    if splits and sensitivity == "traced":
        raise ValueError("Traced sensitivities are those of whole kernels: leave split or sensitivity='traced' out.")
    model = trace_model(apply_fn, params, example_inputs, kwargs)
    flat, treedef = flatten_with_paths(params)
    findings, program, trace = analyze(model)
    refuse_all_unused(findings)
    refuse_idle_masses(masses or {}, findings)
    rules = [_override(overrides, path) for path in model.paths]
    tied = tied or NORMS["tied"]
    defaults = NORMS | {"tied": tied, "unknown": unknown}
    shapes = [leaf.shape for leaf in model.leaves]
    findings = [split_up(i, f, shape, trace, splits) for i, (f, shape) in enumerate(zip(findings, shapes, strict=True))]
    used = matrices_by_output(trace.uses)
    findings = with_fates_of_tables(program, findings, used)
    depth = depth_of(program, findings, shapes, used)
    # what is traced says itself how much each parameter moves the output
    is_traced = sensitivity == "traced"
    head = head or (NORMS["linear"] if is_traced else HEAD)

    def masses_of(findings: Sequence[Finding], shapes: Sequence[tuple[int, ...]]) -> list[float]:
        return [1.0] * len(findings) if is_traced else usual_masses(findings, shapes, depth, head, tied)

    def usual(finding: Finding, shape: tuple[int, ...]) -> NormSpec | None:
        return spec_of(finding, None, defaults, head, masses or {}, masses_of([finding], [shape])[0])

    chosen = [
        spec_of(finding, rule, defaults, head, masses or {}, mass)
        for finding, rule, mass in zip(findings, rules, masses_of(findings, shapes), strict=True)
    ]
    untold = [f if spec is None else None for f, spec in zip(findings, chosen, strict=True)]
    refuse_unknown(model, findings, untold, usual, trace.unfamiliar)
    specs = [spec for spec in chosen if spec is not None]
    if is_traced:
        refuse_tied(model, findings)
        traced = sensitivities(model, program, origins_of(trace))
        specs = [dataclasses.replace(spec, sensitivity=s) for spec, s in zip(specs, traced, strict=True)]
    unsettled = [finding if rule is None else None for finding, rule in zip(findings, rules, strict=True)]
    warn(model, unsettled, specs, trace.unfamiliar, strict)
    supply = iter(specs)
    tree = treedef.unflatten([leaf if is_absent(leaf) else next(supply) for _, leaf in flat])
    # refuses rules whose norm or axes do not fit their parameter
    return align_new(tree, params)


def analyze(model: Model) -> tuple[list[Finding], Program, Trace]:
    """What every parameter does, and the program and the trace that show it."""
    program = flatten(model.jaxpr)
    n_params = len(model.leaves)
    parameters, inputs = program.inputs[:n_params], frozenset(program.inputs[n_params:])
    if not inputs:
        # a loss that closes over its batch: what it captured is all the data that there are
        inputs = program.captured
    consumers = count_consumers(program.block, reach(program))
    shapes = [leaf.shape for leaf in model.leaves]

    def read(latents: Mapping[int, bool]) -> tuple[list[Finding], Trace]:
        trace = run(program, consumers, parameters, inputs, latents)
        # what an index looks up are tables, but for the layers of a stack, which it picks one of
        for stack in trace.undecided:
            attempt = run(program, consumers, parameters, inputs, latents, trace.stacks | {stack})
            if stack in attempt.stacks_of_layers():
                trace = attempt
        join_shifted(program, trace)
        join_gated(program, trace)
        join_modulated(trace)
        join_absorbed(trace)
        trace.note(trace.pieces.unpacked(), Clue.UNPACKED)
        reached = reach(program, matrices_by_output(trace.uses), trace.statistics)
        evidence = Evidence(trace, shapes)
        known = {i: find_latents(shapes[i], i, met, evidence, trace) for i, met in latents.items()}
        return classify(shapes, trace.uses, evidence, reached, parameters, known), trace

    findings, trace = with_latents(read)
    findings = [
        dataclasses.replace(check_dtype(finding, leaf), blocks=blocks_of(i, finding, leaf, trace))
        for i, (finding, leaf) in enumerate(zip(findings, model.leaves, strict=True))
    ]
    return findings, program, trace


def origins_of(trace: Trace) -> Origins:
    """What the interpreter knows of values, as an estimate of sensitivities asks for it."""

    def follows(op: Op) -> list[int]:
        return sorted(param for param in params_in(dim for i in op.ins for dim in trace.values[i].dims) if param >= 0)

    used = frozenset(use.op.outs[0] for use in trace.uses)
    return Origins(trace.values, used, follows, trace.unfamiliar)


def blocks_of(param: int, finding: Finding, leaf: Any, trace: Trace) -> tuple[int, ...]:
    """Sizes of the blocks that the outputs of a matrix are cut into."""
    return trace.pieces.blocks(param, finding.fan_out, leaf.shape) if finding.role in ("linear", "conv") else ()


def matrices_by_output(uses: Sequence[Use]) -> dict[int, frozenset[int]]:
    """The matrices that are used in an operation, by where its first output is."""
    found: dict[int, frozenset[int]] = {}
    for use in uses:
        if use.kind in (UseKind.LINEAR, UseKind.CONV):
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
        return UnclearError(problem).finding(finding.use)
    return Finding("unused", notes=("integers are not trained",))


def _override(overrides: NormRegistry | None, path: str) -> NormSpec | None:
    if overrides is None:
        return None
    return next((rule.spec for rule in overrides.rules if rule.matches(path)), overrides.default)
