"""Settings to start from: the best of a search, and how far one may be from it."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from egd_optax.grokking.recipes import RECIPES

RESULTS = Path(__file__).parent / "results"
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
    trials = list(_trials(RESULTS / "search" / family / "trials.csv"))
    lines = []
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
                    _with_range(picked[setting], [t[setting] for t in near])
                    for setting in SHOWN
                ),
                f"{len(near)} of {len(own)}",
            ]
        )
    return lines


HEAD = [
    "family",
    "method",
    *(f"{text} (range within {WITHIN} × the best)" for text in SHOWN.values()),
    "trials within",
]


def _with_range(value: float, values: list[str]) -> str:
    found = sorted(map(float, values))
    low, high = found[0], found[-1]
    return f"{_short(value)} ({_short(low)}–{_short(high)})"


def _short(value: float) -> str:
    if math.isinf(value):
        return "∞"
    if value >= 10:
        return f"{value:.0f}"
    return np.format_float_positional(value, 2, fractional=False, trim="-")


def _trials(path: Path) -> Iterator[dict[str, str]]:
    yield from _rows(path) if path.exists() else ()


def _rows(path: Path) -> list[dict[str, str]]:
    _, *lines = path.read_text().splitlines()
    return list(csv.DictReader(lines))
