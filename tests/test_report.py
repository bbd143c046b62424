"""The table of `summarize`."""

import copy
import io
import pickle
import subprocess
import sys
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import pytest
import rich.console

import modula_optax as mo


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal in which every table of these tests has room."""
    monkeypatch.setenv("COLUMNS", "200")


def test_every_parameter_has_a_line_with_all_that_decides_its_step():
    params = {
        "conv": jax.ShapeDtypeStruct((3, 3, 4, 8), jnp.float32),
        "gain": jnp.ones(()),
        "out": {"kernel": jnp.ones((8, 10)), "bias": jnp.ones(10)},
        "static": None,
    }
    specs = {
        "conv": mo.NormSpec(mo.Spectral(), mo.Axes(-2, -1, (0, 1), groups=2, in_groups=4), mass=0.5, sensitivity=4.0),
        "gain": mo.NormSpec(mo.Diagonal()),
        "out": mo.NormRegistry(mo.Rule("kernel", mo.RowL2()), default=mo.Unnormed()).resolve(params["out"]),
        "static": None,
    }
    lines = mo.summarize(specs, params).splitlines()
    assert lines[0].split() == ["path", "shape", "norm", "axes", "mass", "sensitivity", "target", "norm", "share"]
    assert [line.split() for line in lines[1:]] == [
        [
            *("conv", "3x3x4x8", "Spectral", "taps=(0,1)", "in=(2)", "out=(3)", "in_groups=4", "groups=2"),
            *("0.5", "4", "0.125", "76.0%"),
        ],
        ["gain", "scalar", "Diagonal", "1", "1", "1", "0.3%"],
        ["out/bias", "10", "Unnormed", "2.6%"],
        ["out/kernel", "8x10", "RowL2", "in=(0)", "out=(1)", "1", "1", "1", "21.1%"],
    ]
    assert len({line.index("out=") for line in lines if "in=(0)" in line}) == 1


def test_an_empty_tree_has_an_empty_table():
    assert mo.summarize(mo.NormRegistry(), {}).splitlines()[1:] == []


AWKWARD = {"[bold]<b>&": jnp.ones((2, 3)), "plain": jnp.ones(4)}


def awkward():
    specs = {
        name: mo.NormSpec(norm, mass=i + 1, role="bias", confidence="guess", why=f"add <at> a.py:{i}")
        for i, (name, norm) in enumerate(zip(AWKWARD, (mo.RMS(), mo.Diagonal()), strict=True))
    }
    return mo.summarize(specs, AWKWARD)


def in_terminal(text, width):
    shown = io.StringIO()
    rich.console.Console(width=width, file=shown).print(text)
    return shown.getvalue()


def test_a_terminal_shows_every_cell_of_the_table_as_it_is():
    lines = in_terminal(awkward(), 200).splitlines()
    shown = [line.split() for line in lines if line.strip() and "─" not in line]
    assert shown == [line.split() for line in awkward().splitlines() if line]


def test_a_notebook_shows_every_cell_of_the_table_as_it_is():
    root = ElementTree.fromstring(awkward()._repr_html_())
    rows = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
    *table, _, note = awkward().splitlines()
    assert [" ".join(row).split() for row in rows] == [line.split() for line in table]
    assert [caption.text for caption in root.iter("caption")] == [note]
    assert {cell.tag for cell in root.iterfind("thead//") if cell.text} == {"th"}


def test_a_guess_has_a_question_mark_and_what_is_certain_has_none():
    specs = {name: mo.NormSpec(mo.RMS(), role="bias", place="head", confidence=name) for name in ("guess", "certain")}
    table = mo.summarize(specs, dict.fromkeys(specs, jnp.ones(3)))
    assert dict(zip(column(table), column(table, "role"), strict=True)) == {
        "certain": "bias (head)",
        "guess": "bias (head)?",
    }


def test_the_summary_is_text_that_can_be_copied_and_pickled():
    text = awkward()
    assert isinstance(text, str)
    for twin in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert twin == text
        assert twin._repr_html_() == text._repr_html_()


def layers(count, odd=None):
    """A network with so many layers, one of which may be of another mass, and its specs."""
    layer = {"attn": {"kernel": jnp.ones((4, 4))}, "w1": jnp.ones((4, 4)), "w2": jnp.ones((4, 4))}
    params = {"head": jnp.ones((4, 10)), "layers": [layer] * count}
    specs = jax.tree.map(lambda _: mo.NormSpec(mo.Spectral()), params) | {"head": mo.NormSpec(mo.RowL2())}
    if odd is not None:
        specs["layers"][odd]["attn"]["kernel"] = mo.NormSpec(mo.Spectral(), mass=0.5)
    return specs, params


def column(table, name="path"):
    at = table.rows[0].index(name)
    return [row[at] for row in table.rows[1:]]


def test_numbered_layers_that_agree_have_one_row_and_one_share():
    table = mo.summarize(*layers(12))
    assert column(table) == ["head", "layers/*/attn/kernel x12", "layers/*/w1 x12", "layers/*/w2 x12"]
    assert column(table, "share") == [f"{40 / 616:.1%}", *[f"{192 / 616:.1%}"] * 3]


@pytest.mark.parametrize(
    ("count", "odd", "others"),
    [(5, 0, "1-4"), (5, 2, "0,1,3,4"), (3, 2, "0,1")],
    ids=["the others follow each other", "they do not", "they are two"],
)
def test_a_layer_that_differs_has_a_row_of_its_own(count, odd, others):
    rows = [path for path in column(mo.summarize(*layers(count, odd))) if "attn" in path]
    assert sorted(rows) == sorted([f"layers/{odd}/attn/kernel", f"layers/{others}/attn/kernel x{count - 1}"])


def test_what_is_the_same_everywhere_is_said_once():
    table = mo.summarize(*layers(2))
    assert table.rows[0] == ("path", "shape", "norm", "share")
    note = "Everywhere: axes in=(0) out=(1), mass 1, sensitivity 1, target norm 1."
    assert table.splitlines()[-2:] == ["", note]
    assert mo.summarize(*layers(2, odd=1)).endswith(
        "Everywhere: axes in=(0) out=(1), sensitivity 1, target norm = mass."
    )


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_table_fits_the_width_of_its_terminal_and_loses_nothing(width, monkeypatch):
    params = {name: jnp.ones((64, 64)) for name in ("a/rather/long/path/of/a/kernel" * 2, "b", "c")}
    whys = (f"dot_general at a_file_of_mine.py:{i} (my_function.of_a_module)" for i in range(3))
    specs = {
        name: mo.NormSpec(mo.Spectral(), mass=i + 1, sensitivity=i + 2, role="linear", place=place, why=why)
        for i, (name, place, why) in enumerate(zip(params, ("input", "hidden", "head"), whys, strict=True))
    }
    cells = {cell for row in mo.summarize(specs, params).rows for cell in row}
    monkeypatch.setenv("COLUMNS", str(width))
    text = mo.summarize(specs, params)
    for shown in (text, in_terminal(text, width)):
        assert max(map(len, shown.splitlines())) <= width
    assert {cell for cell in cells if len(cell) <= width // 2 - 2 and cell not in text} == set()


def test_rich_is_not_needed_until_it_shows_a_table():
    code = "import sys, modula_optax; assert not {'rich', 'matplotlib'} & sys.modules.keys(), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
