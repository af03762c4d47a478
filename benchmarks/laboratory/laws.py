"""How does generalization's step grow with p and the train fraction? Two exponents.

    python benchmarks/laboratory/laws.py  # hours on two cores, goes on where it stopped
    python benchmarks/laboratory/laws.py --methods egd egd-auto
    python benchmarks/laboratory/laws.py --quick

a + b mod p by the two-layer net, on a grid of primes and of the share that is trained
on, batches of 512, five seeds, each method with the settings of its family. Over the
cells that at least four seeds solved under every method asked for, so that all laws are
of the same problems, the steps until test accuracy first reaches 95 % are fitted by

    log steps = c − α log p − β log(train fraction)

Accuracy is known after each epoch, so a step is counted in the middle of what passed
since the evaluation before. results/laws.csv has α, β and their 90 % intervals from
1000 draws of seeds and of the places within these intervals, how many of the draws had
a median in every cell, the root of the mean squared residual as a factor, and the cells
that the method solved; results/laws/METHOD/cells.csv has every cell. On these few
values they are slopes of this range, no laws beyond it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tyro

from benchmarks.laboratory._runs import run_grid
from benchmarks.shared import check_names, report
from egd_optax.grokking.phases import Axis, Grid
from egd_optax.grokking.problems.problem import Problem, modular, with_settings
from egd_optax.grokking.problems.settings import steps_per_epoch
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.search.trials import Trial
from egd_optax.grokking.training.devices import side_by_side

RESULTS = Path(__file__).parent / "results"
# Budget of each; the plain optimizer's plateau is longer than any other's.
METHODS = {"sgd": 150_000, "adamw": 6000, "egd": 6000, "egd-auto": 6000}
FRACTION = Axis("train_fraction", 0.3, 0.7, 5)
PRIMES = (47, 59, 79, 97, 127)
# A cell has a median in most draws of seeds.
LEAST_SOLVED = 0.8


class _Primes(Axis):
    values = PRIMES


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
    folder = options.out / ("laws-quick" if options.quick else "laws")
    grids = {name: _grid(name, quick=options.quick) for name in methods}
    found = {
        name: run_grid("laws", grid, folder / name) for name, grid in grids.items()
    }
    shared = set.intersection(
        *({t.number for t in found[n] if _most(t)} for n in found)
    )
    table = []
    for name, grid in grids.items():
        trials = [trial for trial in found[name] if trial.number in shared]
        waits = np.array([_steps_of_an_evaluation(grid, trial) for trial in trials])
        table.append(
            {
                "method": name,
                "cells": len(grid.cells),
                "solved": sum(map(_most, found[name])),
                "fitted": len(trials),
                **law(trials, waits),
            }
        )
    note = "steps = e^c p^-α fraction^-β; 90 % intervals over seeds"
    report(table, options.out / "laws.csv", quick=options.quick, note=note)


def _most(trial: Trial) -> bool:
    return float(np.mean(np.isfinite(trial.steps[1]))) >= LEAST_SOLVED


def _steps_of_an_evaluation(grid: Grid, trial: Trial) -> int:
    whole = {"modulus": int(trial.settings["modulus"])}
    problem = grid.problem_of(trial.settings | whole)
    settings = problem.settings
    return steps_per_epoch(problem.task, settings) * settings.epochs_per_evaluation


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
    x = _Primes("modulus", PRIMES[0], PRIMES[-1], len(PRIMES))
    y = FRACTION
    if quick:
        x, y = Axis("modulus", 59, 79, 2), dataclasses.replace(y, low=0.6, count=2)
    return Grid(problem_of, name, base, x, y, gap=1)


def law(trials: Sequence[Trial], waits: np.ndarray) -> dict[str, str]:
    """The exponents, of cells that were evaluated after every so many steps."""
    if len(trials) < 4:
        return dict.fromkeys(("α", "β", "c", "draws", "factor"), "–")
    logs = [np.log([*trial.settings.values()]) for trial in trials]
    places = np.array([[1, -p, -fraction] for p, fraction in logs])
    steps = np.array([[*trial.steps[1]] for trial in trials])

    def fit(columns: np.ndarray) -> np.ndarray:
        heights = np.log(np.median(columns, axis=1))
        return np.linalg.lstsq(places, heights, rcond=None)[0]

    best = fit(steps - waits[:, None] / 2)
    rng = np.random.default_rng(0)
    seeds = steps.shape[1]
    draws = []
    for _ in range(1000):
        drawn = steps[:, rng.integers(0, seeds, seeds)]
        # A draw with most seeds of some cell unsolved has no law.
        if np.all(np.isfinite(np.median(drawn, axis=1))):
            draws.append(fit(drawn - waits[:, None] * rng.random((len(waits), 1))))
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    c, alpha, beta = (
        f"{x:.2f} ({a:.2f}–{b:.2f})" for x, a, b in zip(best, low, high, strict=True)
    )
    left = np.log(np.median(steps, axis=1) - waits / 2) - places @ best
    factor = f"{math.exp(np.sqrt(np.mean(left**2))):.2f}"
    return {"α": alpha, "β": beta, "c": c, "draws": len(draws), "factor": factor}


if __name__ == "__main__":
    side_by_side()
    main(tyro.cli(Options))
