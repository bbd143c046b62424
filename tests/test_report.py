"""The table of `summarize`."""

import copy
import io
import pickle
import subprocess
import sys
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import rich.console

import modula_optax as mo


def test_every_parameter_has_a_line_with_all_that_decides_its_step():
    params = {
        "conv": jax.ShapeDtypeStruct((3, 3, 4, 8), jnp.float32),
        "gain": jnp.ones(()),
        "out": {"kernel": jnp.ones((8, 10)), "bias": jnp.ones(10)},
        "static": None,
    }
    specs = {
        "conv": mo.NormSpec(mo.Spectral(), mo.Axes(-2, -1, taps=(0, 1), groups=2), mass=0.5, sensitivity=4.0),
        "gain": mo.NormSpec(mo.Diagonal()),
        "out": mo.NormRegistry(mo.Rule("kernel", mo.RowL2()), default=mo.Unnormed()).resolve(params["out"]),
        "static": None,
    }
    lines = mo.summarize(specs, params).splitlines()
    assert lines[0].split() == ["path", "shape", "norm", "axes", "mass", "sensitivity", "target", "norm", "share"]
    assert [line.split() for line in lines[1:]] == [
        ["conv", "3x3x4x8", "Spectral", "taps=(0,1)", "in=(2)", "out=(3)", "groups=2", "0.5", "4", "0.125", "76.0%"],
        ["gain", "scalar", "Diagonal", "1", "1", "1", "0.3%"],
        ["out/bias", "10", "Unnormed", "2.6%"],
        ["out/kernel", "8x10", "RowL2", "in=(0)", "out=(1)", "1", "1", "1", "21.1%"],
    ]
    assert len({line.index("out=") for line in lines if "in=(0)" in line}) == 1


def test_an_empty_tree_has_an_empty_table():
    assert mo.summarize(mo.NormRegistry(), {}).splitlines()[1:] == []


AWKWARD = {"[bold]<b>&": jnp.ones((2, 3)), "plain": jnp.ones(4)}


def awkward():
    specs = {name: mo.NormSpec(mo.RMS(), role="bias", confidence="guess", why="add <at> a.py:3") for name in AWKWARD}
    return mo.summarize(specs, AWKWARD)


def test_a_terminal_shows_every_cell_of_the_table_as_it_is():
    console = rich.console.Console(width=200, file=io.StringIO())
    console.print(awkward())
    shown = [line.split() for line in console.file.getvalue().splitlines() if line.strip() and "─" not in line]
    assert shown == [line.split() for line in awkward().splitlines()]


def test_a_notebook_shows_every_cell_of_the_table_as_it_is():
    root = ElementTree.fromstring(awkward()._repr_html_())
    rows = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
    assert [" ".join(row).split() for row in rows] == [line.split() for line in awkward().splitlines()]
    assert {cell.tag for cell in root.find("thead").iter() if cell.text} == {"th"}


def test_the_summary_is_text_that_can_be_copied_and_pickled():
    text = awkward()
    assert isinstance(text, str)
    for twin in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert twin == text
        assert twin._repr_html_() == text._repr_html_()


def test_rich_is_not_needed_until_it_shows_a_table():
    code = "import sys, modula_optax; assert not {'rich', 'matplotlib'} & sys.modules.keys(), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
