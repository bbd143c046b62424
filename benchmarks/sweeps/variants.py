"""`modular` with one choice changed at a time, to see what that choice is worth."""

import dataclasses
from typing import Any

import modula_optax as mo
from sweeps.contenders import OPTIMIZERS, Contender, Specs, inferred, modular

MATRICES = ("linear", "embedding")


def variant(specs: Specs) -> Contender:
    """Modular duality under other specs, from weights of norm one."""
    return Contender(modular, specs, start_at_norm_one=True)


def spectral_for_tables(spec: mo.NormSpec) -> mo.NormSpec:
    """Tables are treated like any other matrix."""
    return dataclasses.replace(spec, norm=mo.Spectral()) if spec.role == "embedding" else spec


def on_the_sphere(spec: mo.NormSpec) -> mo.NormSpec:
    """Weights stay where they were initialized: on the unit sphere of their norm."""
    # gains of one with a sign each would be no gains
    return dataclasses.replace(spec, constraint=mo.UnitSphere()) if spec.role in MATRICES else spec


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
        "RowL2 for the head": variant(inferred(head=mo.RowL2())),
        "RowL2 of mass 4, Flax's weights": OPTIMIZERS["modular, RowL2 head"],
        "Sign for the head": variant(inferred(head=mo.Sign())),
    },
    "masses": {
        "embedding 2, gain 0.1, head 0.5": DEFAULT,
        "all 1": variant(inferred(masses={"embedding": 1.0, "gain": 1.0, "head": 1.0})),
        "embedding 1": variant(inferred(masses={"embedding": 1.0})),
        "gain 1": variant(inferred(masses={"gain": 1.0})),
        "head 1": variant(inferred(masses={"head": 1.0})),
        "head 0.25": variant(inferred(masses={"head": 0.25})),
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
    "initialization": {"initialize": DEFAULT, "Flax": Contender(modular, inferred())},
}

# on the GPT whose residual branches are scaled so that traced sensitivities are finite
SENSITIVITIES: dict[str, Contender] = {
    "unit": DEFAULT,
    "traced": variant(inferred(sensitivity="traced")),
}

# on a GPT of 64 hidden matrices, one after the other
HIDDEN_MASSES: dict[str, Contender] = {
    "(8 / depth)^(1/4)": DEFAULT,
    "1": variant(inferred(masses={"hidden": 1.0, "gain": 0.1})),
}

WEIGHT_DECAYS = (0.0, 0.1, 1.0)
