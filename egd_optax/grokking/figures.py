"""Pictures of histories."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from egd_optax.grokking.history import History

# Hues that stay apart for the colour-blind (Okabe and Ito).
COLORS = ("#555555", "#0072B2", "#009E73", "#D55E00", "#E69F00", "#56B4E9", "#CC79A7")


def race(histories: Mapping[str, History], *, title: str, threshold: float) -> Figure:
    """Accuracy against the step: test solid, train broken, one colour a method.

    Lines are medians over the seeds, bands the range of the test accuracy.
    """
    with matplotlib.rc_context({"font.size": 11, "axes.spines.top": False}):
        figure = Figure(figsize=(10, 5.2), layout="constrained")
        axes = figure.subplots()
    axes.spines["right"].set_visible(False)
    for index, (name, history) in enumerate(histories.items()):
        color = COLORS[index % len(COLORS)]
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


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG at a resolution that a README can show."""
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})


def _label(name: str, history: History, threshold: float) -> str:
    median = history.first_crossing(threshold).median
    if np.isfinite(median):
        return f"{name}: {median:,.0f}"
    return f"{name}: not within {history.steps[-1]:,}"
