"""Settings to start from: the best of a search, and how far one may be from it."""

import math
from collections.abc import Mapping

import numpy as np

from benchmarks.evidence._cells import RESULTS
from benchmarks.evidence._families import FAMILIES, TO_THE_END
from benchmarks.shared import read_table
from egd_optax.grokking.recipes import RECIPES

# Within this many times the best score a setting still serves.
WITHIN = 1.5
SHOWN = {
    "learning_rate": "η₀",
    "halving_steps": "τ",
    "momentum": "momentum",
    "shrinkage": "η₀ λ",
    "vector_learning_rate": "rate of vectors",
}


def starting_points(family: str, optimizers: tuple[str, ...]) -> list[list[str]]:
    """A line a method: each setting of its chosen trial, and the range that serves."""
    # Trials that cross the threshold soon and fall back are nothing to start from.
    name = "again" if family in TO_THE_END else "trials"
    trials = read_table(RESULTS / "search" / family / f"{name}.csv")
    search, lines = FAMILIES[family], []
    for name in optimizers:
        own = [trial for trial in trials if trial["optimizer"] == name]
        if not own:
            continue
        best = min(float(trial["score"]) for trial in own)
        near = [trial for trial in own if float(trial["score"]) <= WITHIN * best]
        picked = RECIPES[name].settings[family]
        lines.append(
            [
                family,
                f"`{name}`",
                *(
                    _with_range(picked[setting], [float(t[setting]) for t in near])
                    for setting in SHOWN
                ),
                f"{len(near)} of {search.trials + search.refined}",
                str(sum(_is_solved(trial) for trial in own)),
            ]
        )
    return lines


HEAD = [
    "family",
    "method",
    *SHOWN.values(),
    "trials within",
    "solved all",
]


def _is_solved(trial: Mapping[str, str]) -> bool:
    steps = [trial[name] for name in trial if name.startswith("steps ")]
    return all(each not in ("", "inf") for each in steps)


def _with_range(value: float, values: list[float]) -> str:
    low, high = min(value, *values), max(value, *values)
    return f"{_short(value)} ({_short(low)}–{_short(high)})"


def _short(value: float) -> str:
    if math.isinf(value):
        return "∞"
    if value >= 10:
        return f"{value:.0f}"
    return np.format_float_positional(value, 2, fractional=False, trim="-")
