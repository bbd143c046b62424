"""Whoever is told what to write, writes it, and it works: the advice of every error is pasted where it belongs."""

import ast
import dataclasses
import re

import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import modula_optax as mo
from modula_optax import *  # noqa: F403  (what users have who paste names without a prefix)

PARAMS = {
    "dense": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)},
    "layers.0(w)": jnp.ones((2, 4, 4)),
    "count": jnp.ones(2, jnp.int32),
    "wave": jnp.ones((2, 2), jnp.complex64),
    "empty": jnp.ones((0, 3)),
    "scale": jnp.ones(()),
}
REAL = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
SPECS = {"kernel": mo.NormSpec(mo.Spectral()), "bias": mo.NormSpec(mo.RMS())}


# what goes before that which is to be written
ADVICE = re.compile(r"(?:[Ww]rite|e\.g\.|registry|anew:| or|,)\s(?:\w+ = )?(?=[\w.]+[(=])")


def calls(message):
    """What a message says to write: the calls, and the arguments, that follow words of advice."""
    found, rest = [], message
    while advice := ADVICE.search(rest):
        rest = rest[advice.end() :]
        if argument := re.match(r"\w+=[\w.]+(?<!\.)", rest):
            found.append(f"dict({argument[0]})")
            continue
        # the shortest piece that is a whole call
        pieces = (rest[: end.end()] for end in re.finditer(r"\)", rest))
        call = next((piece for piece in pieces if is_call(piece)), None)
        if call is not None:
            rest = rest[len(call) :]
            found += [call] if "..." not in call else []
    return found


def is_call(text):
    try:
        return isinstance(ast.parse(text, mode="eval").body, ast.Call)
    except SyntaxError:
        return False


def told(function):
    with pytest.raises(ValueError, match=r"\w") as error:
        function()
    return str(error.value)


# Specs that a parameter refuses: by a rule, and in a spec tree

NORMS = (
    mo.Spectral(),
    mo.SpectralNormalized(),
    mo.Frobenius(),
    mo.Embedding(),
    mo.RowL2(),
    mo.Sign(),
    mo.RMS(),
    mo.Diagonal(),
    mo.Unnormed(),
)
CONSTRAINTS = (
    *(None, mo.UnitSphere(), mo.UnitRows(), mo.Orthogonal(), mo.NormBall(2.0), mo.SpectralNormalize(2.0)),
    *(mo.SpectralCap(2.0), mo.SoftCap(2.0), mo.Hammer(2.0), mo.SpectralDecay(0.1), mo.Regularize(0.1)),
    *(mo.Hypersphere(2.0), mo.FixedNorm(), mo.Stiefel()),
)
LEAVES = {
    "bias": jnp.ones(3),
    "block/kernel": jnp.ones((4, 3)),
    "layers.0(w)": jnp.ones((2, 4, 4)),
    "column": jnp.ones((4, 1)),
    "count": jnp.ones((2, 2), jnp.int32),
    "wave": jnp.ones((2, 2), jnp.complex64),
    "empty": jnp.ones((0, 3)),
    "scale": jnp.ones(()),
}
AXES = (None, mo.Axes(-2, -1), mo.Axes(0, 5))


def replaced(spec, value):
    """A spec in which something was written in place of what it was."""
    if isinstance(value, mo.NormSpec):
        return value
    if isinstance(value, dict):
        return dataclasses.replace(spec, **value)
    return dataclasses.replace(spec, **{"norm" if isinstance(value, mo.Norm) else "constraint": value})


@pytest.mark.parametrize("path", LEAVES)
def test_what_a_misfit_says_to_write_fits(path):
    refused = 0
    params = {path: LEAVES[path]}
    for spec in (mo.NormSpec(n, a, constraint=c) for n in NORMS for a in AXES for c in CONSTRAINTS):
        try:
            mo.dualize({path: spec}).init(params)
            continue
        except ValueError as error:
            message = str(error)
        refused += 1
        advice = message.rsplit("write ", 1)[1]
        values = [eval(text, dict(vars(mo))) for text in calls("write " + advice)]
        assert values, message
        for value in values:
            if isinstance(value, mo.Rule):
                mo.NormRegistry(value).resolve(params)
            else:
                mo.dualize({path: replaced(spec, value)}).init(params)
    assert refused


def test_rules_for_what_no_rule_matches_can_be_pasted_one_after_the_other():
    rules = []
    for _ in range(len(jax.tree.leaves(PARAMS))):
        message = told(lambda: mo.NormRegistry(*rules).resolve(PARAMS))
        rules.append(eval(calls(message)[0], dict(vars(mo))))
    mo.NormRegistry(*rules).resolve(PARAMS)


@pytest.mark.parametrize("pattern", ["kernel", "kernel|w"])
@pytest.mark.parametrize("default", [None, mo.RMS()])
def test_a_rule_for_the_end_of_a_path_is_told_how_whole_paths_are_matched(pattern, default):
    params = {"dense": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}
    others = [] if default else [mo.Rule(".*/bias", mo.RMS())]
    message = told(lambda: mo.NormRegistry(mo.Rule(pattern, mo.Spectral()), *others, default=default).resolve(params))
    rule = eval(calls(message.split("Patterns match whole paths")[1])[0], dict(vars(mo)))
    mo.NormRegistry(rule, *others, default=default).resolve(params)


# Everything else: what was done, and where what is written goes

STATE = mo.modular(0.1, SPECS).init(REAL)
NET = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
MISTAKES = {
    "a norm as specs": (lambda: mo.dualize(mo.Spectral()), lambda specs: mo.dualize(specs)),
    "a class as specs": (lambda: mo.dualize(mo.Spectral), lambda specs: mo.dualize(specs)),
    "a norm in a spec tree": (
        lambda: mo.dualize({"kernel": mo.Sign()}).init({"kernel": REAL["kernel"]}),
        lambda made: mo.dualize({"kernel": getattr(made, "spec", made)}).init({"kernel": REAL["kernel"]}),
    ),
    "monitor, swapped": (lambda: mo.monitor(mo.modular(0.1, SPECS), SPECS), lambda tx: tx.init(REAL)),  # pyright: ignore[reportArgumentType]
    "monitor, of no transformation": (lambda: mo.monitor(SPECS, optax.adam), lambda tx: tx.init(REAL)),  # pyright: ignore[reportArgumentType]
    "modular, swapped": (lambda: mo.modular(SPECS, 0.1), lambda tx: tx.init(REAL)),  # pyright: ignore[reportArgumentType]
    "scion, swapped": (lambda: mo.scion(SPECS, 0.1), lambda tx: tx.init(REAL)),  # pyright: ignore[reportArgumentType]
    "modular of two numbers": (lambda: mo.modular(0.1, 0.1), lambda tx: tx.init(REAL)),
    "muon with specs": (lambda: mo.muon(0.1, SPECS), lambda tx: tx.init(REAL)),  # pyright: ignore[reportArgumentType]
    "muon with a registry": (lambda: mo.muon(0.1, mo.NormRegistry(mo.Rule(".*", mo.RMS()))), lambda tx: tx.init(REAL)),  # pyright: ignore[reportArgumentType]
    "no state": (
        lambda: mo.modular(0.1, SPECS).update(REAL, None, REAL),  # pyright: ignore[reportArgumentType]
        lambda state: mo.modular(0.1, SPECS).update(REAL, state, REAL),
    ),
    "a state in other containers": (
        lambda: mo.modular(0.1, SPECS).update(REAL, flax.serialization.to_state_dict(STATE), REAL),
        lambda state: mo.modular(0.1, SPECS).update(REAL, state, REAL),
    ),
    "no parameters, for a decay": (
        lambda: mo.modular(0.1, SPECS, weight_decay=0.1).update(REAL, STATE),
        lambda made: (
            mo.modular(0.1, SPECS, **made).update(REAL, STATE) if isinstance(made, dict) else made[0]["kernel"]
        ),
    ),
    "a decay of nothing": (
        lambda: mo.modular(0.1, mo.NormSpec(mo.RMS()), weight_decay=0.1).init(REAL),
        lambda made: mo.modular(0.1, mo.NormSpec(mo.RMS()), **{"weight_decay": 0.1} | made).init(REAL),
    ),
    "a model as third argument": (
        lambda: mo.modular(0.1, mo.NormSpec(mo.RMS())).update(eqx.filter(NET, eqx.is_array), STATE, NET.layers),  # pyright: ignore[reportArgumentType]
        lambda result: None,
    ),
    "a text as specs": (lambda: mo.dualize(mo.specs_to_json(SPECS)), lambda specs: mo.dualize(specs).init(REAL)),
    "a registry of no rules": (
        lambda: mo.tare(mo.NormRegistry(mo.Rule(".*", mo.RMS())), ".*", 1.0),
        lambda specs: None,
    ),
}
AROUND = dict(vars(mo)) | {
    "mo": mo, "optax": optax, "jax": jax, "jnp": jnp, "np": np, "eqx": eqx, "flax": flax,
    "specs": SPECS, "params": REAL, "grads": REAL, "text": mo.specs_to_json(SPECS), "tx": mo.modular(0.1, SPECS),
    "state": STATE, "registry": mo.NormRegistry(mo.Rule(".*", mo.RMS())),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_said_to_write_works_where_it_belongs(name):
    mistake, place = MISTAKES[name]
    message = told(mistake)
    assert len(message) < 1500
    around = AROUND | ({"state": flax.serialization.to_state_dict(STATE)} if "containers" in name else {})
    advice = [text for text in calls(message) if "path" not in text]
    assert advice, message
    for text in advice:
        place(eval(text, around))
