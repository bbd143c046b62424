"""Pictures of what a monitor measured over training."""

import io
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from modula_optax._specs import compile_pattern

Measurements = Mapping[str, float]

# a heading for every metric, and whether it spans orders of magnitude
_PANELS = {
    "weight_norm": ("norm of the weight", True),
    "gradient_dual_norm": ("dual norm of the gradient", True),
    "update_ratio": ("update / weight", True),
    "alignment": ("alignment of gradient and update", False),
    "weight_stable_rank": ("stable rank of the weight", True),
    "gradient_stable_rank": ("stable rank of the gradient", True),
}


def plot_norms(
    history: Mapping[int, Measurements] | Sequence[Measurements],
    *,
    metrics: Sequence[str] | None = None,
    paths: str = ".*",
) -> Any:
    """Draws what `read_monitor` returned over training, one panel for each metric.

    Parameters whose paths differ in numbers only, as those of the layers of a network do, share a line, their median,
    and a band from the lowest to the highest. A line keeps its colour whatever else is drawn.

    Args:
      history: what `read_monitor` returned, by step; in a sequence the steps count from 1.
      metrics: which to draw, such as `["weight_norm", "alignment"]`; all that were measured by default.
      paths: regular expression of the parameters to draw, matched with the whole path as in `Rule`.

    Returns:
      A `matplotlib.figure.Figure`, to be saved or shown.

    Raises:
      ValueError: `history` is empty or holds no measurements; a metric was not measured, or no path matches.
      ImportError: matplotlib is not installed; `pip install 'modula_optax[plot]'` brings it.

    Example:
      >>> figure = plot_norms([{"w/weight_norm": 1.0}, {"w/weight_norm": 1.5}])
      >>> figure.axes[0].get_title()
      'norm of the weight'
    """
    figure_class = _figure_class()
    by_step = dict(history) if isinstance(history, Mapping) else dict(enumerate(history, 1))
    if wrong := [entry for entry in by_step.values() if not isinstance(entry, Mapping)]:
        raise ValueError(
            f"history must hold what read_monitor returned, by step; got a {type(wrong[0]).__name__}. Write "
            "plot_norms({step: read_monitor(state), ...}), of the states of an optimizer in monitor(specs, tx)."
        )
    curves = _curves(by_step)
    measured = [metric for metric in _PANELS if metric in curves]
    if not measured:
        raise ValueError("history holds no measurements; give what read_monitor returned, {step: measurements}.")
    names = _chosen(metrics, measured)
    every = sorted({group for metric in measured for group in curves[metric]})
    colors = {group: _COLORS[i % len(_COLORS)] for i, group in enumerate(every)}
    styles = {group: _STYLES[i // len(_COLORS) % len(_STYLES)] for i, group in enumerate(every)}
    curves = _curves(by_step, paths)
    groups = sorted({group for metric in names for group in curves[metric]})
    if not groups:
        raise ValueError(f"paths={paths!r} matches none of the parameters that were measured: {', '.join(every)}.")

    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = _shown_in_notebooks(figure_class)(figsize=(4.2 * columns + 2.5, 3.0 * rows), layout="constrained")
    lines = {}
    for i, metric in enumerate(names):
        title, logarithmic = _PANELS[metric]
        axes = figure.add_subplot(rows, columns, i + 1, title=title, xlabel="step")
        for group, points in curves[metric].items():
            steps = sorted(points)
            low, middle, high = ([of(points[step]) for step in steps] for of in (min, statistics.median, max))
            line = axes.plot(steps, middle, color=colors[group], linestyle=styles[group], linewidth=1.6, label=group)
            lines[group] = line[0]
            axes.fill_between(steps, low, high, color=colors[group], alpha=0.15, linewidth=0)
        # zeros, as of biases before their first step, have no logarithm
        if logarithmic and any(0 < value < math.inf for line in axes.lines for value in line.get_ydata()):
            axes.set_yscale("log", nonpositive="mask")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = [lines[group] for group in groups], [*map(str, range(len(groups)))]
    legend = figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    # afterwards, since what begins with an underscore was no label before matplotlib 3.10
    for text, group in zip(legend.get_texts(), groups, strict=True):
        text.set_text(group)
    return figure


# the ten of matplotlib's own cycle, then once more in each of the other styles
_COLORS = tuple(f"C{i}" for i in range(10))
_STYLES = ("-", "--", ":", "-.")


def _shown_in_notebooks(figure_class: Any) -> Any:
    """A figure that is a picture where it is the value of a cell, without the state that pyplot keeps."""

    class Figure(figure_class):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return Figure


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plot_norms draws with matplotlib: pip install 'modula_optax[plot]'.") from None
    return Figure


def _chosen(metrics: Sequence[str] | None, measured: Sequence[str]) -> Sequence[str]:
    """The metrics to draw, in the order that they were asked for."""
    if isinstance(metrics, str) or (metrics is not None and not set(metrics) <= set(measured)):
        raise ValueError(f"metrics must be a list of what was measured, of {list(measured)}; got {metrics!r}.")
    return measured if metrics is None else list(metrics)


def _curves(by_step: Mapping[int, Measurements], paths: str = ".*") -> dict[str, dict[str, dict[int, list[float]]]]:
    """Values of each metric, group of parameters and step, of the parameters whose paths match."""
    pattern = compile_pattern(paths)
    curves: dict[str, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for step, measurements in by_step.items():
        for name, value in measurements.items():
            path, _, metric = name.rpartition("/")
            if pattern.fullmatch(path):
                curves[metric][re.sub(r"\d+", "*", path) or "(root)"][step].append(value)
    return curves
