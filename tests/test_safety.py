"""Nothing is sent, nothing is run that was not written here: no network, no pickle, no evaluated text."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What is forbidden, by the events that Python itself reports. Code is compiled and run by imports, too: only what this
# package asks for counts, which is what stands next in the stack.
GUARD = f"""
import sys
from pathlib import Path

PACKAGE = {str(ROOT / "modula_optax")!r}
FORBIDDEN = ("pickle.", "marshal.", "socket.", "urllib.", "http.", "ftplib.", "smtplib.", "subprocess.", "os.system")
ANYWHERE = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.", "http.", "ftplib.")

def guard(event, arguments):
    if event.startswith(ANYWHERE):
        raise RuntimeError("network: " + event + str(arguments))
    if event.startswith(FORBIDDEN) or event in ("compile", "exec"):
        frame = sys._getframe(1)
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            raise RuntimeError(event + " in " + frame.f_code.co_filename)

sys.addaudithook(guard)
"""

USE = """
import jax, jax.numpy as jnp, optax
import modula_optax as mo

params = {"dense": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}
specs = mo.infer_specs(lambda p, x: x @ p["dense"]["kernel"] + p["dense"]["bias"], params, jnp.ones((5, 4)))
specs = mo.specs_from_json(mo.specs_to_json(specs), params)
print(mo.summarize(specs, params))
tx = mo.modular(0.1, specs)
updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
print(mo.modular_norm(updates, specs))
"""


def run(code):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_import_and_use_reach_no_network_and_run_no_text():
    process = run(GUARD + USE)
    assert process.returncode == 0, process.stderr
    assert "dense/kernel" in process.stdout


def as_ours(code):
    file = str(ROOT / "modula_optax" / "_norms" / "module.py")
    return f"exec(compile({code!r}, {file!r}, 'exec'))"


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("import socket; socket.socket().connect(('127.0.0.1', 9))", "network: socket.connect"),
        ("import socket; socket.getaddrinfo('localhost', 9)", "network: socket.getaddrinfo"),
        (as_ours("import pickle; pickle.loads(pickle.dumps(len))"), "pickle.find_class in"),
        (as_ours("eval('1')"), "compile in"),
    ],
    ids=["connect", "lookup", "pickle", "eval"],
)  # fmt: skip
def test_the_guard_sees_what_it_is_to_forbid(code, event):
    process = run(GUARD + code)
    assert process.returncode == 1
    assert event in process.stderr


def test_no_source_of_the_package_or_of_the_examples_names_what_runs_data():
    forbidden = {"pickle", "marshal", "shelve", "cloudpickle", "dill", "eval", "exec", "__import__"}
    for path in [*(ROOT / "modula_optax").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        names = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [node.id] if isinstance(node, ast.Name)
                else [alias.name.split(".")[0] for alias in node.names] if isinstance(node, ast.Import)
                else [(node.module or "").split(".")[0]] if isinstance(node, ast.ImportFrom)
                else []
            )
        }  # fmt: skip
        assert not names & forbidden, path
