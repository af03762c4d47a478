"""Pictures of tables."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from egd_optax.grokking.figures import COLORS, OWN, canvas


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
    figure, axes = canvas(max(10.0, 1.2 * len(groups) + 4), 5.2)
    width = 0.85 / len(methods)
    for index, method in enumerate(methods):
        places = np.arange(len(groups)) + (index - (len(methods) - 1) / 2) * width
        heights = np.array([found.get(method, np.nan) for found in groups.values()])
        # Hatched once the colours have run out.
        color, hatch = COLORS[index % len(COLORS)], "///" * (index // len(COLORS))
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
            color = COLORS[0] if name == OWN else "#B8B8B8"
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
    figure, axes = canvas(10, 5.2)
    for index, (name, (x, y)) in enumerate(curves.items()):
        style = "--" if name.endswith("theory") else "-"
        axes.plot(x, y, style, color=COLORS[index % len(COLORS)], lw=2, label=name)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    _caption(axes, x_label, y_label, title)
    return figure


def panels(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    x_label: str,
    y_label: str,
    columns: int = 4,
) -> Figure:
    """Points ``(count, 2)`` on logarithmic axes: a panel a group, one mark a name."""
    rows = -(-len(groups) // columns)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(3 * columns, 2.3 * rows + 0.8), layout="constrained")
        found = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in found.flat[len(groups) :]:
        axes.set_axis_off()
    every = list(dict.fromkeys(name for points in groups.values() for name in points))
    for axes, (group, points) in zip(found.flat, groups.items(), strict=False):
        for name, places in points.items():
            index = every.index(name)
            mark, color = "os^Dv<>PX"[index % 9], COLORS[index % len(COLORS)]
            axes.plot(*places.T, mark, color=color, ms=6, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        # As wide in decades in all panels, so that a factor is as long in each.
        times = np.concatenate(list(points.values()))[:, 0]
        middle = np.sqrt(times.min() * times.max())
        axes.set_xlim(middle / 15, 15 * middle)
        axes.set_title(group, loc="left", weight="bold", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(x_label, fontsize=10)
    figure.supylabel(y_label, fontsize=10)
    of_all = [axes.get_legend_handles_labels() for axes in found.flat]
    handles = {n: h for pair in of_all for h, n in zip(*pair, strict=True)}
    marks = [handles[name] for name in every]
    figure.legend(marks, every, loc="outside upper left", ncols=5, frameon=False)
    return figure


def _caption(axes: Axes, x_label: str, y_label: str, title: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left")
    _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
