"""`modular` with one choice changed at a time, to see what that choice is worth."""

import dataclasses
from typing import Any

import modula_optax as mo
from sweeps.contenders import OPTIMIZERS, Contender, Specs, inferred, modular

MATRICES = ("linear", "embedding")


def variant(specs: Specs) -> Contender:
    """Modular duality under other specs."""
    return Contender(modular, specs)


def spectral_for_tables(spec: mo.NormSpec) -> mo.NormSpec:
    """Tables are treated like any other matrix."""
    return dataclasses.replace(spec, norm=mo.Spectral()) if spec.role == "embedding" else spec


def on_the_sphere(spec: mo.NormSpec) -> mo.NormSpec:
    """Weights stay where they were initialized: on the unit sphere of their norm."""
    # gains of one with a sign each would be no gains
    return dataclasses.replace(spec, constraint=mo.UnitSphere()) if spec.role in MATRICES else spec


def without_depth(spec: mo.NormSpec) -> mo.NormSpec:
    """Hidden matrices of 64 that follow each other as if there were no more than eight."""
    is_hidden = spec.place == "hidden" and spec.role == "linear"
    return dataclasses.replace(spec, mass=spec.mass * (64 / 8) ** 0.25) if is_hidden else spec


def polynomial(coefficients: Any) -> Specs:
    """Another way to orthogonalize."""

    def change(spec: mo.NormSpec) -> mo.NormSpec:
        return dataclasses.replace(spec, norm=mo.Spectral(coefficients)) if spec.norm == mo.Spectral() else spec

    return inferred(change)


DEFAULT = OPTIMIZERS["modular"]

# by what is changed; the first of each is what `modular` does unless told otherwise
GROUPS: dict[str, dict[str, Contender]] = {
    "norms": {
        "by role": DEFAULT,
        "Spectral for the table too": variant(inferred(spectral_for_tables)),
        "Spectral for the head": variant(inferred(head=mo.Spectral())),
        "Sign for the head": variant(inferred(head=mo.Sign())),
    },
    "masses": {
        "embedding 1, gain 0.1, head 8": DEFAULT,
        "all 1": variant(inferred(masses={"hidden": 1.0, "gain": 1.0, "head": 1.0})),
        "embedding 2": variant(inferred(masses={"embedding": 2.0})),
        "gain 1": variant(inferred(masses={"gain": 1.0})),
        "head 4": variant(inferred(masses={"head": 4.0})),
        "head 16": variant(inferred(masses={"head": 16.0})),
        "hidden 1": variant(inferred(masses={"hidden": 1.0})),
    },
    "polynomial": {
        "four-step": DEFAULT,
        "five-step": variant(polynomial("five-step")),
        "six-step": variant(polynomial("six-step")),
        "Muon's five": variant(polynomial("muon")),
        # to rounding, for singular values above 1e-5 of the largest
        "exact": variant(polynomial(mo.polar_express(11, 1e-5))),
    },
    "projection": {"none": DEFAULT, "unit spheres": variant(inferred(on_the_sphere))},
    "initialization": {"Flax": DEFAULT, "initialize": Contender(modular, inferred(), start_at_norm_one=True)},
}

# on the GPT whose residual branches are scaled so that traced sensitivities are finite
SENSITIVITIES: dict[str, Contender] = {
    "unit": DEFAULT,
    "traced": variant(inferred(sensitivity="traced")),
}

# on a GPT of 64 hidden matrices, one after the other
HIDDEN_MASSES: dict[str, Contender] = {
    "(8 / depth)^(1/4)": DEFAULT,
    "1": variant(inferred(without_depth)),
}

WEIGHT_DECAYS = (0.0, 0.03, 0.1, 0.3)
