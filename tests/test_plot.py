"""Pictures of what a monitor measured: every parameter is in them, and what is asked of the user is said."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

import modula_optax as mo

METRICS = ("weight_norm", "gradient_dual_norm", "update_ratio", "alignment", "weight_stable_rank")


def measured(step, layers=2):
    paths = ["embed/table", *(f"layers/{i}/w" for i in range(layers))]
    return {f"{path}/{metric}": step + i + 1.0 for i, path in enumerate(paths) for metric in METRICS}


def test_every_metric_has_a_panel_and_layers_share_a_line():
    figure = mo.plot_norms({step: measured(step) for step in (10, 20, 30)})
    assert len(figure.axes) == len(METRICS)
    for axes in figure.axes:
        lines = {line.get_label(): line for line in axes.lines}
        assert lines.keys() == {"embed/table", "layers/*/w"}
        assert list(lines["embed/table"].get_xdata()) == [10, 20, 30]
        assert list(lines["embed/table"].get_ydata()) == [11.0, 21.0, 31.0]
        # the median of 12 and 13, and a band between them
        assert list(lines["layers/*/w"].get_ydata()) == [12.5, 22.5, 32.5]
        band = axes.collections[1].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == (12.0, 33.0)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["embed/table", "layers/*/w"]


def test_metrics_and_paths_are_chosen_and_a_line_keeps_its_colour():
    history = {step: measured(step) for step in (10, 20)}
    whole, part = mo.plot_norms(history), mo.plot_norms(history, metrics=["alignment"], paths="layers/.*")
    (axes,) = part.axes
    assert axes.get_title() == "alignment of gradient and update"
    (line,) = axes.lines
    assert line.get_label() == "layers/*/w"
    assert line.get_color() == next(o for o in whole.axes[0].lines if o.get_label() == "layers/*/w").get_color()


@pytest.mark.parametrize("metrics", ["alignment", ["alignments"], ["gradient_stable_rank"]])
def test_metrics_that_were_not_measured_are_refused_with_those_that_were(metrics):
    with pytest.raises(ValueError, match=r"metrics must be a list of what was measured, of \['weight_norm'"):
        mo.plot_norms([measured(0)], metrics=metrics)


def test_paths_that_match_nothing_are_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"paths='head/.*' matches none .*: embed/table, layers/\*/w"):
        mo.plot_norms([measured(0)], paths="head/.*")


def test_paths_that_are_no_regular_expression_are_refused():
    with pytest.raises(ValueError, match="regular expression"):
        mo.plot_norms([measured(0)], paths="[")


def test_lines_of_many_parameters_can_be_told_apart():
    names = [f"{letter}/w/weight_norm" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (axes,) = mo.plot_norms([dict.fromkeys(names, 1.0), dict.fromkeys(names, 2.0)]).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == len(names)


def test_zeros_and_a_sequence_of_measurements_are_drawn(tmp_path):
    figure = mo.plot_norms([dict.fromkeys(measured(0), 0.0), measured(1)])
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 2]
    figure.savefig(tmp_path / "norms.png")


NOTHING, NAN = dict.fromkeys(measured(0), 0.0), dict.fromkeys(measured(0), float("nan"))


@pytest.mark.parametrize("history", [[NOTHING], [NAN, NAN], [NAN, NOTHING, measured(1)]])
def test_what_has_no_logarithm_is_drawn_all_the_same(history, tmp_path):
    mo.plot_norms(history).savefig(tmp_path / "norms.png")


def test_private_names_and_a_single_array_are_in_the_legend(tmp_path):
    figure = mo.plot_norms([{"_hidden/weight_norm": 1.0, "weight_norm": 2.0}])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["(root)", "_hidden"]


@pytest.mark.parametrize("history", [[], {}, [{}], [{"w/unknown": 1.0}]])
def test_an_empty_history_is_refused(history):
    with pytest.raises(ValueError, match="read_monitor"):
        mo.plot_norms(history)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"modula_optax\[plot\]"):
        mo.plot_norms([measured(0)])


@pytest.mark.parametrize("history", [[1.5], [np.float32(1.5)], {0: jnp.ones(())}, [None]])
def test_what_is_no_measurement_is_refused_with_what_to_pass(history):
    with pytest.raises(ValueError, match=r"history must hold what read_monitor returned(.|\n)*Write plot_norms"):
        mo.plot_norms(history)


def test_a_notebook_shows_the_figure():
    assert mo.plot_norms([{"w/weight_norm": 1.0}])._repr_png_().startswith(b"\x89PNG")
