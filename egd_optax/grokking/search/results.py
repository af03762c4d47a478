"""What a search leaves: the best settings, a table, a picture."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from egd_optax.grokking.figures import COLORS, GREY, OWN, STYLES, open_axes
from egd_optax.grokking.recipes import settings_to_json
from egd_optax.grokking.search.search import Search
from egd_optax.grokking.search.trials import Trial
from egd_optax.grokking.search.tunability import tunability
from egd_optax.grokking.tables import terminal_table

Trials = Mapping[str, Sequence[Trial]]


def best_trial(search: Search, trials: Sequence[Trial]) -> Trial:
    """The one with the least score."""
    return min(trials, key=lambda trial: trial.rank(search.budgets))


def _ranked(search: Search, trials: Trials) -> list[str]:
    """Names of the methods, the best first."""
    return sorted(
        trials, key=lambda name: best_trial(search, trials[name]).rank(search.budgets)
    )


def best_json(search: Search, trials: Trials) -> str:
    """The best settings of each method, for ``egd-grok race --settings``."""
    found: dict[str, Any] = {}
    for name, some in trials.items():
        best = best_trial(search, some)
        found[name] = {
            "score": round(best.score(search.budgets), 1),
            "solved": best.is_solved,
            "refined after": best.after,
            "trial": best.number,
            "settings": settings_to_json(best.settings),
        }
    return json.dumps(search.question() | {"optimizers": found}, indent=2) + "\n"


def tune_table(search: Search, trials: Trials, *, title: str) -> Table:
    """The methods by their best, for a terminal."""
    # As many as every method has.
    random = min(len(first_problem(search, some)) for some in trials.values())
    after = [k for k in (4, 16) if k < random]
    several = "geometric mean over the problems of the " * (len(search.problems) > 1)
    caption = (
        f"Best: least {several}median steps to the threshold on held-out examples; r: "
        "a refined trial. Solved: quasi-random trials that got there"
        f"{' on the first problem' if len(search.problems) > 1 else ''}."
    )
    if after:
        caption += (
            " After k: expected best of k such trials; one that did not get there "
            "counts as twice the budget."
        )
    headers = ["best", "trial", "solved", *(f"after {k}" for k in after)]
    table = terminal_table(headers, title=title, caption=caption)
    for name in _ranked(search, trials):
        best = best_trial(search, trials[name])
        steps = first_problem(search, trials[name])
        solved = steps <= search.budgets[0]
        expected = tunability(steps).expected
        table.add_row(
            name,
            f"{best.score(search.budgets):.0f}" if best.is_solved else "–",
            f"{'r' if best.after else ''}{best.number}",
            f"{np.sum(solved)}/{len(solved)}",
            *(f"{expected[k - 1]:.0f}" for k in after),
        )
    return table


# Of the best methods alone: more bands than these hide each other.
_BANDS = 5


def tune_figure(search: Search, trials: Trials, *, title: str) -> Figure:
    """Tunability, and each trial's score at its learning rate."""
    with matplotlib.rc_context({"font.size": 11}):
        figure = Figure(figsize=(13, 5.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
    ranked = _ranked(search, trials)
    styles = _styles(ranked)
    for name in reversed(ranked):
        found = first_problem(search, trials[name])
        curve = tunability(found)
        color, style = styles[name]
        k = np.arange(1, len(found) + 1)
        if name in ranked[:_BANDS]:
            left.fill_between(k, curve.low, curve.high, color=color, alpha=0.12, lw=0)
        left.plot(k, curve.expected, style, color=color, lw=2, label=name)
        for is_solved, mark in ((True, "o"), (False, "x")):
            some = [trial for trial in trials[name] if trial.is_solved == is_solved]
            rates = [trial.settings["learning_rate"] for trial in some]
            every = [trial.score(search.budgets) for trial in some]
            right.plot(rates, every, mark, color=color, ms=4, alpha=0.7)
    _label(left, right, search.problems[0].task.name)
    scores = [t.score(search.budgets) for some in trials.values() for t in some]
    left.set_ylim(0.8 * min(scores), 1.15 * max(scores))
    longest = max(len(first_problem(search, some)) for some in trials.values())
    left.set_xlim(0.95, 1.05 * max(longest, 2))
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], loc="outside right center", frameon=False
    )
    figure.suptitle(title, x=0.01, ha="left", parse_math=False)
    return figure


def _label(left: Axes, right: Axes, problem: str) -> None:
    for axes in (left, right):
        open_axes(axes)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(
            matplotlib.ticker.FuncFormatter("{:,.0f}".format)
        )
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.set_xscale("log")
    left.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    left.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter("{:,.0f}".format))
    left.set_xlabel("trials")
    left.set_ylabel("steps (twice the budget: did not get there)")
    left.set_title(
        f"expected best after so many trials on {problem}",
        loc="left",
        fontsize=11,
        parse_math=False,
    )
    right.set_xlabel("learning rate")
    right.set_title("every trial; ×: did not get there", loc="left", fontsize=11)


def _styles(ranked: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Of each method, ours in its colour; the same colours again in other strokes."""
    others = [(color, style) for style in STYLES for color in COLORS[1:]]
    names = [name for name in ranked if name != OWN]
    styles = dict(zip(names, others, strict=False))
    return {name: (GREY, "-") for name in names} | styles | {OWN: (COLORS[0], "-")}


def first_problem(search: Search, trials: Sequence[Trial]) -> np.ndarray:
    """Steps on it of the quasi-random trials alone; twice the budget: not solved.

    Trials near the best are no random ones, and on other problems runs are given up
    once they are beaten.
    """
    first = [trial.medians[0] for trial in trials if not trial.after]
    return np.where(np.isfinite(first), first, 2 * search.budgets[0])
