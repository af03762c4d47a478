"""How does generalization's step grow with p and the train fraction? Two exponents.

    python benchmarks/laboratory/laws.py  # hours on two cores, goes on where it stopped
    python benchmarks/laboratory/laws.py --methods egd egd-auto
    python benchmarks/laboratory/laws.py --quick

a + b mod p by the two-layer net, on a grid of p and of the share that is trained on,
five seeds, each method with the settings of its family. Over the cells that most seeds
solved, log steps are fitted by

    log steps = c − α log p − β log(train fraction)

results/laws.csv has α, β and their 90 % intervals from 1000 draws of seeds, the root of
the mean squared residual as a factor, and the cells that were solved;
results/laws/METHOD/cells.csv has every cell.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tyro

from benchmarks.laboratory._grids import run_grid
from benchmarks.shared import check_names, report
from egd_optax.grokking.phases import Axis, Grid
from egd_optax.grokking.problems.problem import Problem, modular, with_settings
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.search.trials import Trial
from egd_optax.grokking.training.devices import side_by_side

RESULTS = Path(__file__).parent / "results"
# Budget of each; the plain optimizer's plateau is longer than any other's.
METHODS = {"sgd": 150_000, "adamw": 6000, "egd": 6000, "egd-auto": 6000}
P = Axis("modulus", 47, 127, 5)
FRACTION = Axis("train_fraction", 0.3, 0.7, 5)


@dataclasses.dataclass(frozen=True)
class Options:
    """Fits how the step of generalization grows."""

    methods: tuple[str, ...] = tuple(METHODS)
    """sgd, adamw, egd, egd-auto."""
    quick: bool = False
    """Two methods, four cells, one seed, few steps."""
    out: Path = RESULTS
    """Folder for cells and table."""


def main(options: Options) -> None:
    check_names("laws", "method", options.methods, METHODS)
    methods = options.methods[-2:] if options.quick else options.methods
    table = []
    for name in methods:
        grid = _grid(name, quick=options.quick)
        folder = options.out / ("laws-quick" if options.quick else "laws") / name
        found = run_grid("laws", grid, folder)
        table.append({"method": name, **_law(found)})
    note = "steps = e^c p^-α fraction^-β; 90 % intervals over seeds"
    report(table, options.out / "laws.csv", quick=options.quick, note=note)


def _grid(name: str, *, quick: bool) -> Grid:
    budget = 60 if quick else METHODS[name]
    seeds = (0,) if quick else tuple(range(5))
    # Every epoch of the plain optimizer would be thousands of evaluations.
    every = 20 if name == "sgd" else 1

    def problem_of(values: Mapping[str, float]) -> Problem:
        return with_settings(
            modular("addition", values["modulus"]),
            seeds=seeds,
            max_steps=budget,
            train_fraction=values["train_fraction"],
            epochs_per_evaluation=1 if quick else every,
        )

    recipe = RECIPES[name]
    base = recipe.settings["modular"] if recipe.space else None
    x, y = (
        dataclasses.replace(axis, low=axis.high, count=1) if quick else axis
        for axis in (P, FRACTION)
    )
    return Grid(problem_of, name, base, x, y, gap=1)


def _law(trials: Sequence[Trial]) -> dict[str, str]:
    solved = [trial for trial in trials if math.isfinite(trial.medians[1])]
    line = {"cells": len(trials), "solved": len(solved)}
    if len(solved) < 4:
        return line | {"α": "–", "β": "–", "c": "–", "factor": "–"}
    logs = [np.log([*trial.settings.values()]) for trial in solved]
    places = np.array([[1, -p, -fraction] for p, fraction in logs])
    steps = np.log([[*t.steps[1]] for t in solved])

    def fit(columns: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(places, np.median(columns, axis=1), rcond=None)[0]

    best = fit(steps)
    rng = np.random.default_rng(0)
    seeds = steps.shape[1]
    # A draw without most seeds of some cell has no law.
    draws = [fit(steps[:, rng.integers(0, seeds, seeds)]) for _ in range(1000)]
    draws = np.array([draw for draw in draws if np.all(np.isfinite(draw))])
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    c, alpha, beta = (
        f"{x:.2f} ({a:.2f}–{b:.2f})" for x, a, b in zip(best, low, high, strict=True)
    )
    left = np.median(steps, axis=1) - places @ best
    factor = f"{math.exp(np.sqrt(np.mean(left**2))):.2f}"
    return line | {"α": alpha, "β": beta, "c": c, "factor": factor}


if __name__ == "__main__":
    side_by_side()
    main(tyro.cli(Options))
