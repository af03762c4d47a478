"""Pictures of histories."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from egd_optax.grokking.files import replacing
from egd_optax.grokking.history import History

# Hues that stay apart for the colour-blind (Okabe and Ito).
COLORS = ("#555555", "#0072B2", "#009E73", "#D55E00", "#E69F00", "#56B4E9", "#CC79A7")
# Our own method looks the same in all pictures.
_OWN = "egd", "#D55E00"


def race(histories: Mapping[str, History], *, title: str, threshold: float) -> Figure:
    """Accuracy against the step: test solid, train broken, one colour a method.

    Lines are medians over the seeds, bands the range of the test accuracy.
    """
    figure, axes = _canvas(10, 5.2)
    colors = _colors(list(histories))
    for name, history in histories.items():
        color, style = colors[name]
        test = 100 * history.metrics["test_accuracy"]
        train = 100 * history.metrics["train_accuracy"]
        low, high = np.min(test, axis=1), np.max(test, axis=1)
        axes.fill_between(history.steps, low, high, color=color, alpha=0.18, lw=0)
        axes.plot(
            history.steps,
            np.median(train, axis=1),
            "--",
            color=color,
            lw=1.1,
            alpha=0.7,
        )
        axes.plot(
            history.steps,
            np.median(test, axis=1),
            style,
            color=color,
            lw=2.4,
            label=_label(name, history, threshold),
        )
    axes.axhline(100 * threshold, color="#999999", lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter("{:,.0f}".format))
    axes.set_ylim(-2, 103)
    axes.set_xlabel("step")
    axes.set_ylabel("accuracy in %")
    axes.set_title(title, loc="left")
    legend = axes.legend(
        title=f"test (solid), train (broken)\nsteps to {threshold:.0%} test, median",
        alignment="left",
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
    )
    legend.get_title().set_fontsize(10)
    return figure


def bars(
    groups: Mapping[str, Mapping[str, float]],
    *,
    y_label: str,
    title: str,
    bottom: float = 1,
) -> Figure:
    """A group of bars for each problem, one bar a method, on a logarithmic axis.

    Args:
      groups: of each problem, the value of each method; infinite ones are left out of
        the picture, and said so by a cross.
      y_label: what the values are.
      title: title of the picture.
      bottom: where the axis begins.
    """
    methods = list(dict.fromkeys(name for found in groups.values() for name in found))
    colors = _colors(methods)
    figure, axes = _canvas(max(10.0, 1.2 * len(groups) + 4), 5.2)
    width = 0.85 / len(methods)
    for index, method in enumerate(methods):
        places = np.arange(len(groups)) + (index - (len(methods) - 1) / 2) * width
        heights = np.array([found.get(method, np.nan) for found in groups.values()])
        shown = np.where(np.isinf(heights), np.nan, heights)
        color, style = colors[method]
        hatch = None if style == "-" else "///"
        axes.bar(
            places, shown, width, label=method, color=color, hatch=hatch, ec="white"
        )
        never = np.isinf(heights)
        axes.plot(
            places[never], np.full(never.sum(), 1.2 * bottom), "x", color=color, ms=5
        )
    axes.set_yscale("log")
    axes.set_ylim(bottom=bottom)
    axes.set_xticks(np.arange(len(groups)), groups, rotation=30, ha="right")
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left", fontsize=10)
    _legend(axes)
    return figure


def steps_and_seconds(
    points: Mapping[str, Mapping[str, tuple[float, float]]],
) -> Figure:
    """Steps to generalize against seconds to generalize, one mark a method and problem.

    Args:
      points: of each problem, of each method, steps and seconds.
    """
    methods = list(dict.fromkeys(name for found in points.values() for name in found))
    colors = _colors(methods)
    figure, axes = _canvas(10, 5.2)
    for method in methods:
        found = [row[method] for row in points.values() if method in row]
        reached = np.array([point for point in found if np.isfinite(point[0])])
        color, style = colors[method]
        if len(reached):
            mark = "o" if style == "-" else "^"
            axes.plot(*reached.T, mark, color=color, label=method, ms=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("steps to generalize, median")
    axes.set_ylabel("seconds, one seed, compilation excluded")
    _legend(axes)
    return figure


def lines(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Curves over a common axis; one whose name ends in "theory" is broken."""
    figure, axes = _canvas(10, 5.2)
    for index, (name, (x, y)) in enumerate(curves.items()):
        style = "--" if name.endswith("theory") else "-"
        axes.plot(x, y, style, color=COLORS[index % len(COLORS)], lw=2, label=name)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    _caption(axes, x_label, y_label, title)
    return figure


def marks(
    points: Mapping[str, np.ndarray], *, x_label: str, y_label: str, title: str
) -> Figure:
    """Points ``(count, 2)`` on logarithmic axes, one mark a name."""
    figure, axes = _canvas(10, 5.2)
    for index, (name, found) in enumerate(points.items()):
        mark, color = "os^Dv<>PX"[index % 9], COLORS[index % len(COLORS)]
        axes.plot(*found.T, mark, color=color, ms=7, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _caption(axes, x_label, y_label, title)
    return figure


def _caption(axes: Axes, x_label: str, y_label: str, title: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left")
    _legend(axes)


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG at a resolution that a README can show.

    Raises:
      OSError: the disk does not take it; a picture that was there stays.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})


def _label(name: str, history: History, threshold: float) -> str:
    median = history.first_crossing(threshold).median
    if np.isfinite(median):
        return f"{name}: {median:,.0f}"
    return f"{name}: not within {history.steps[-1]:,}"


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context({"font.size": 11, "axes.spines.top": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
    axes.spines["right"].set_visible(False)
    return figure, axes


def _colors(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and line style of each method; styles change when colours run out."""
    own, color = _OWN
    others = [c for c in COLORS if c != color]
    styles = [(c, style) for style in ("-", "-.", ":") for c in others]
    rest = [name for name in names if name != own]
    return {own: (color, "-"), **dict(zip(rest, styles, strict=False))}


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
