"""Pictures of histories."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from egd_optax.grokking.files import replacing
from egd_optax.grokking.training.history import History

# Hues that stay apart for the colour-blind (Okabe and Ito).
COLORS = ("#555555", "#0072B2", "#009E73", "#D55E00", "#E69F00", "#56B4E9", "#CC79A7")
# Our own method looks the same in all pictures.
_OWN = "egd", "#D55E00"


def race(
    histories: Mapping[str, History],
    *,
    title: str,
    threshold: float,
    crossings: Mapping[str, float] | None = None,
) -> Figure:
    """Accuracy against the step: test solid, train broken, one colour a method.

    Lines are medians over the seeds, bands the range of the test accuracy.

    Args:
      histories: of each method.
      title: title of the picture.
      threshold: the accuracy that counts.
      crossings: the median step of each at which it is first reached, where the
        histories leave evaluations out; None takes it from them.
    """
    if crossings is None:
        crossings = {
            name: history.first_crossing(threshold).median
            for name, history in histories.items()
        }
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
            label=_label(name, crossings[name], history.steps[-1]),
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
      groups: of each problem, the value of each method.
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
        color, style = colors[method]
        hatch = None if style == "-" else "///"
        axes.bar(
            places, heights, width, label=method, color=color, hatch=hatch, ec="white"
        )
    axes.set_yscale("log")
    axes.set_ylim(bottom=bottom)
    axes.set_xticks(np.arange(len(groups)), groups, rotation=30, ha="right")
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left", fontsize=10)
    _legend(axes)
    return figure


def rankings(
    groups: Mapping[str, Mapping[str, float]],
    *,
    x_label: str,
    beyond: Mapping[str, Mapping[str, float]] | None = None,
    columns: int = 3,
) -> Figure:
    """A panel for each problem: a bar for each method, the shortest on top.

    Args:
      groups: of each problem, the value of each method; infinite ones have no bar, and
        are said not to have got there.
      x_label: what the values are.
      beyond: the same, known from longer runs, for some that have no bar.
      columns: panels side by side.
    """
    sizes = [len(found) for found in groups.values()]
    # Bars are as thick in all panels.
    heights = [
        max(1, *sizes[i : i + columns]) + 4 for i in range(0, len(groups), columns)
    ]
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(
            figsize=(4.2 * columns, 0.2 * sum(heights) + 0.3), layout="constrained"
        )
        panels = figure.subplots(
            len(heights), columns, squeeze=False, height_ratios=heights
        )
    for axes in panels.flat[len(groups) :]:
        axes.set_axis_off()
    for index, (axes, problem) in enumerate(zip(panels.flat, groups, strict=False)):
        found = groups[problem]
        names = sorted(found, key=lambda name: found[name])
        reached = [value for value in found.values() if np.isfinite(value)]
        end = max(reached, default=1.0)
        for place, name in enumerate(names):
            value = found[name]
            color = _OWN[1] if name == _OWN[0] else "#B8B8B8"
            if np.isfinite(value):
                axes.barh(place, value, color=color)
                text, start = f"{value:,.3g}" if value < 100 else f"{value:,.0f}", value
            else:
                text, start = "not within the budget", 0.0
                longer = (beyond or {}).get(problem, {}).get(name, np.inf)
                if np.isfinite(longer):
                    text = f"{longer:,.0f}, beyond the budget"
            axes.text(
                start + 0.015 * end,
                place,
                text,
                va="center",
                fontsize=8,
                color="black" if np.isfinite(value) else "#888888",
            )
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(heights[index // columns] - 4.5, -0.5)
        axes.set_xlim(0, 1.15 * end)
        axes.set_title(problem, loc="left", fontsize=10, weight="bold")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=8)
    figure.supxlabel(x_label, fontsize=10)
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
        # A drawing has few colours: a palette of them takes a third of the bytes.
        with Image.open(temporary) as drawn:
            palette = drawn.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        palette.save(temporary, format="png", optimize=True)


def _label(name: str, crossing: float, last: int) -> str:
    if np.isfinite(crossing):
        return f"{name}: {crossing:,.0f}"
    return f"{name}: not within {last:,}"


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
