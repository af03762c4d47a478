"""Accuracy against the step, and how a picture is saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from egd_optax.grokking.files import replacing
from egd_optax.grokking.training.history import History

# Hues that stay apart for the colour-blind (Okabe and Ito), our own method's first.
OWN = "egd"
COLORS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7")
GREY = "#A0A0A0"
# For more lines than there are hues.
STYLES = ("-", "--", ":", "-.")
# More lines in colour than this are not told apart.
_COLOURED = 5


def race(
    histories: Mapping[str, History],
    *,
    title: str,
    threshold: float,
    crossings: Mapping[str, float] | None = None,
) -> Figure:
    """Accuracy against the step: test solid, train broken, a line a method.

    Lines are medians over the seeds, bands the range of the test accuracy. The five
    that were first are in colour, and our own; a line's name stands at its end, in the
    order in which they got there.

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
    # Of those that did not get there, the one that came furthest is first.
    order = sorted(
        histories,
        key=lambda name: (crossings[name], -np.median(histories[name].final())),
    )
    colors = _colors(order)
    figure, axes = canvas(10, max(5.2, 0.3 * len(order) + 1.2))
    end = max(int(history.steps[-1]) for history in histories.values())
    for name in reversed(order):
        history, color = histories[name], colors[name]
        behind = 1 if color == GREY else 2
        test = 100 * history.metrics["test_accuracy"]
        train = 100 * history.metrics["train_accuracy"]
        low, high = np.min(test, axis=1), np.max(test, axis=1)
        shared: dict[str, Any] = {"color": color, "zorder": behind}
        axes.fill_between(history.steps, low, high, alpha=0.18, lw=0, **shared)
        axes.plot(
            history.steps, np.median(train, axis=1), "--", lw=1.1, alpha=0.7, **shared
        )
        axes.plot(history.steps, np.median(test, axis=1), lw=2.4, **shared)
    axes.axhline(100 * threshold, color="#999999", lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter("{:,.0f}".format))
    axes.set_xlim(right=1.02 * end)
    axes.set_ylim(-2, 103)
    axes.set_xlabel("step")
    axes.set_ylabel("accuracy in %")
    axes.set_title(title, loc="left", parse_math=False)
    _name_the_ends(axes, histories, order, colors, crossings)
    axes.text(
        1.08,
        1.01,
        f"test solid, train broken\nsteps to {threshold:.0%} test, median",
        transform=axes.transAxes,
        fontsize=9,
        color="#555555",
    )
    return figure


def _name_the_ends(
    axes: Axes,
    histories: Mapping[str, History],
    order: list[str],
    colors: Mapping[str, str],
    crossings: Mapping[str, float],
) -> None:
    """Names and steps beside the axes, each with a line from where its own ends."""
    for place, name in enumerate(order):
        history, color = histories[name], colors[name]
        last = int(history.steps[-1])
        reached = np.isfinite(crossings[name])
        steps = f"{crossings[name]:,.0f}" if reached else f"not within {last:,}"
        axes.annotate(
            f"{name}: {steps}",
            xy=(last, 100 * float(np.median(history.final()))),
            xytext=(1.08, 0.97 - place * 0.97 / max(len(order), 10)),
            textcoords="axes fraction",
            va="center",
            color="#666666" if color == GREY else color,
            weight="bold" if name == OWN else "normal",
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": color,
                "lw": 0.6,
                "alpha": 0.5 if color == GREY else 1,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def _colors(order: list[str]) -> dict[str, str]:
    """Of each method, the soonest first."""
    others = iter(COLORS[1:])
    return {
        name: COLORS[0] if name == OWN else next(others) if place < _COLOURED else GREY
        for place, name in enumerate(order)
    }


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """One pair of axes, open above and to the right."""
    with matplotlib.rc_context({"font.size": 11}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
    open_axes(axes)
    return figure, axes


def open_axes(axes: Axes) -> None:
    """Takes away the lines above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)


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
