"""Versions of JAX newer than any that is known: what is missing or renamed ends in a message, or does no harm."""

import ast
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Primitive

import modula_optax as mo
from tests.zoo.plain import shapes

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modula_optax"

SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def primitive(name):
    """A primitive from outside, of any name, whose result is like its first operand."""
    made = Primitive(name)
    made.def_abstract_eval(lambda x, *others, **params: x)
    return made.bind


def imported(path):
    """Modules that a file imports, and the attributes of JAX that it reads."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def test_only_public_modules_of_jax_are_used_and_jaxprs_are_opened_in_one_place():
    private = ("jax.experimental", "jax._src", "jax.extend", "jax.interpreters", "optax._src")
    for path in PACKAGE.rglob("*.py"):
        assert [name for name in imported(path) if name.startswith(private)] == [], path


USE = """
import sys
for name in {missing}:
    sys.modules[name] = None
import jax, jax.numpy as jnp
import modula_optax as mo

params = {{"w": jnp.ones((4, 3)), "b": jnp.ones(3)}}
apply = lambda p, x: jax.lax.scan(lambda c, _: (jnp.tanh(c), None), jax.jit(lambda x: x @ p["w"])(x) + p["b"], length=2)
specs = mo.infer_specs(lambda p, x: apply(p, x)[0], params, jnp.ones((5, 4)))
tx = mo.modular(0.1, specs)
updates, _ = tx.update(params, tx.init(params), params)
print({{name: spec.role for name, spec in specs.items()}}, round(float(mo.modular_norm(updates, specs)), 2))
try:
    mo.plot_norms([])
except (ImportError, ValueError) as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    "missing", [["matplotlib", "rich"], ["jax.extend", "jax.extend.core", "jax.experimental.shard_alike"]]
)
def test_modules_that_are_not_there_are_missed_only_by_what_is_made_of_them(missing):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    code = USE.format(missing=missing)
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    specs, plot = process.stdout.splitlines()
    assert specs == "{'b': 'bias', 'w': 'linear'} 0.1"
    if "matplotlib" in missing:
        assert plot == "ImportError plot_norms draws with matplotlib: pip install 'modula_optax[plot]'."


def two_layers(between, p, x):
    return between(jax.nn.relu(x @ p["w0"]), p["w1"]) @ p["w2"]


PARAMS = shapes(w0=(4, 4), w1=(4, 4), w2=(4, 2))


def test_an_unknown_primitive_is_an_error_for_what_it_takes_alone():
    apply = partial(two_layers, primitive("rotate_cleverly"))
    with pytest.raises(ValueError, match=r"1 parameter has a role(?s:.*)w1  float32.*: operand of rotate_cleverly"):
        mo.infer_specs(apply, PARAMS, SQUARE)
    rules = mo.NormRegistry(mo.Rule("w1", mo.Spectral(), axes=mo.Axes(fan_in=0, fan_out=1)))
    specs = mo.infer_specs(apply, PARAMS, SQUARE, overrides=rules)
    assert [specs[name].role for name in ("w0", "w2")] == ["linear", "linear"]


def test_an_unknown_primitive_of_data_alone_changes_no_role():
    rotate = primitive("rotate_cleverly")
    specs = mo.infer_specs(partial(two_layers, lambda x, w: rotate(x) @ w), PARAMS, SQUARE)
    assert {spec.role for spec in specs.values()} == {"linear"}
    assert all(spec.axes == mo.Axes(fan_in=0, fan_out=1) for spec in specs.values())


# known primitives whose parameters are others than in any release so far
RENAMED = {
    "dot_general": {"numbers": (((1,), (0,)), ((), ()))},
    "dot_general of other numbers": {"dimension_numbers": "ij,jk->ik"},
    "conv_general_dilated": {"layout": "NCHW"},
    "scan": {"body": None, "steps": 3},
    "scan of another tree": {"jaxpr": None, "length": 3, "reverse": False, "ft_in": (1, 1, 1)},
    "while": {"step": None},
    "cond": {"cases": ()},
    "gather": {"numbers": None},
    "transpose": {"order": (1, 0)},
    "reduce_sum": {"over": 0},
    "concatenate": {"axis": 0},
}


@pytest.mark.parametrize("name", RENAMED)
def test_a_renamed_parameter_is_told_with_its_primitive_and_the_version_of_jax(name):
    called = name.split()[0]
    apply = partial(two_layers, partial(primitive(called), **RENAMED[name]))
    with pytest.raises(ValueError, match=r"parameters? ha(s|ve) a role") as raised:
        mo.infer_specs(apply, PARAMS, SQUARE)
    message = str(raised.value)
    assert f"{called} has " in message
    assert f"in jax {jax.__version__}, a version whose {called} this modula_optax does not know" in message
    assert "w1  float32[4, 4]: operand of" in message
    assert "open an issue" in message


@pytest.mark.parametrize("name", ["dot_general", "scan", "transpose", "reduce_sum"])
def test_a_renamed_parameter_of_a_primitive_of_data_is_warned_of(name):
    bind = primitive(name)
    params = dict(RENAMED[name])
    apply = partial(two_layers, lambda x, w: bind(x, x, **params) @ w)
    with pytest.warns(UserWarning, match=f"{name} has (?s:.*)does not know"):
        specs = mo.infer_specs(apply, PARAMS, SQUARE)
    assert {spec.role for spec in specs.values()} == {"linear"}
    with pytest.raises(ValueError, match="does not know"):
        mo.infer_specs(apply, PARAMS, SQUARE, strict=True)


@pytest.mark.parametrize("name", RENAMED)
def test_sensitivity_and_lipschitz_bound_refuse_with_the_operation_and_the_version(name):
    called = name.split()[0]
    bind = partial(primitive(called), **RENAMED[name])
    apply = partial(two_layers, lambda x, w: bind(x, x) @ w)
    with pytest.raises(ValueError, match=rf"sensitivity='traced' is refused: {called} "):
        mo.infer_specs(apply, PARAMS, SQUARE, sensitivity="traced")
    params = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), PARAMS)
    with pytest.raises(ValueError, match=rf"lipschitz_bound has no proof: {called} "):
        mo.lipschitz_bound(apply, params, jnp.ones((4, 4)))


def test_calls_are_looked_into_whatever_they_and_their_parameters_are_called():
    inner = jax.make_jaxpr(lambda x, w: jax.nn.relu(x @ w))(SQUARE, SQUARE)
    specs = mo.infer_specs(partial(two_layers, partial(primitive("call_of_2031"), program=inner)), PARAMS, SQUARE)
    assert specs["w1"] == mo.infer_specs(partial(two_layers, lambda x, w: jax.nn.relu(x @ w)), PARAMS, SQUARE)["w1"]


def test_what_ties_two_values_passes_on_the_last():
    tied = primitive("tie")
    specs = mo.infer_specs(partial(two_layers, lambda x, w: x @ tied(x, w)), PARAMS, SQUARE)
    assert {spec.role for spec in specs.values()} == {"linear"}
    bound = mo.lipschitz_bound(lambda p, x: tied(x, 3.0 * x @ p["w"]), {"w": jnp.eye(4)}, SQUARE)
    assert bound == pytest.approx(3.0)
