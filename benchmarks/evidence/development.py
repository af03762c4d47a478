"""How the recipes' settings were chosen: on problems that no result is reported on.

    python benchmarks/evidence/development.py  # an hour or so on two cores
    python benchmarks/evidence/development.py --families parity
    python benchmarks/evidence/development.py --quick  # one setting a method, few steps

The score of a setting is the step at which accuracy on held-out examples first reaches
the threshold, the median of five seeds on parities and MNIST, of two of the
transformer, of one elsewhere. The moduli and parities are others than those of the
results; MNIST is judged by a fifth of its training part. A setting that is written in
`recipes.py` and not listed here is its source's own. One table a family goes to
results/development-FAMILY.csv.
"""

import csv
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.progress import track

from benchmarks.evidence._tables import crossing_text
from benchmarks.shared import report
from egd_optax.grokking.problems.problem import (
    Problem,
    mnist_1k,
    modular,
    parity,
    with_settings,
)
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.training.run import train

PROBLEMS = {
    "modular": (
        (modular("addition", 83), 600),
        (modular("subtraction", 101), 600),
        (modular("multiplication", 131), 600),
    ),
    "parity": (
        (parity(90, 3, width=100), 3720),
        (parity(100, 2, width=50), 3720),
        (parity(48, 4, width=100), 3720),
    ),
    "transformer": (
        (modular("multiplication", 83, model="transformer"), 360),
        (modular("division", 83, model="transformer"), 200),
    ),
    "mnist": ((with_settings(mnist_1k(), validation_fraction=0.2), 1200),),
}

# Results are reported with others.
SEEDS = {
    "modular": (7,),
    "parity": tuple(range(100, 105)),
    "transformer": (8, 9),
    "mnist": tuple(range(100, 105)),
}

Grid = Mapping[str, Sequence[Any]]

_EGD = {
    "learning_rate": (0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    "adam_learning_rate": (0.001, 0.02, 0.05),
}
_EGD_PARITY = {
    "learning_rate": (0.1, 0.15),
    "adam_learning_rate": (0.1,),
    "halving_steps": (300,),
    "momentum": (0.93, 0.95),
    "first_shrinkage": (0.035, 0.045),
    "late_bias_decay": (0.35, 0.7),
}
_DELAYED = {"learning_rate": (0.01, 0.05), "strength": (1e-4, 3e-4, 1e-3)}
_COUPLED = {"learning_rate": (0.01, 0.03, 0.05), "weight_decay": (1e-3, 2e-3)}
_DECOUPLED = {
    "learning_rate": (0.01, 0.03, 0.1),
    "weight_decay": (0.1, 0.3, 1.0, 2.0),
}

GRIDS: dict[str, dict[str, Grid]] = {
    family: {
        "egd": egd,
        "grokfast-ema": _COUPLED,
        "grokfast-ma": {**_COUPLED, "window_size": (10, 100)},
        "delayed-frobenius": _DELAYED,
        "nuclear-norm": _DELAYED,
        "log-det": _DELAYED,
        "orthogonal-gradient": {"learning_rate": (0.003, 0.01, 0.03)},
        "clipped-rows": {"learning_rate": (0.003, 0.01, 0.03), "max_norm": (1.0, 2.0)},
        "muon": _DECOUPLED,
        "adamw": _DECOUPLED,
    }
    for family, egd in {"modular": _EGD, "parity": _EGD_PARITY}.items()
} | {
    "transformer": {
        "egd": {
            "learning_rate": (0.05, 0.1),
            "adam_learning_rate": (0.001, 0.03),
            "halving_steps": (150, 300),
            "momentum": (0.9,),
            "first_shrinkage": (0.025,),
        },
        "muon": {"learning_rate": (0.02, 0.05), "weight_decay": (0.1, 0.5, 1.0)},
        "adamw": {
            "learning_rate": (0.001, 0.003, 0.01),
            "weight_decay": (1.0, 2.0, 3.0),
        },
    },
    "mnist": {
        "egd": {
            "learning_rate": (0.05, 0.1, 0.2),
            "adam_learning_rate": (0.01,),
            "halving_steps": (50, 100),
            "first_shrinkage": (0.07, 0.12),
        },
        "muon": {"learning_rate": (0.02, 0.1), "weight_decay": (0.1, 0.5, 1.0)},
        "adamw": {
            "learning_rate": (0.003, 0.01, 0.03),
            "weight_decay": (0.3, 1.0, 3.0),
        },
    },
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Sweeps the settings of the recipes on development problems."""

    families: tuple[str, ...] = tuple(GRIDS)
    """Families of problems."""
    recipes: tuple[str, ...] = ()
    """Names of recipes; none: all. The table keeps what it has of the others."""
    quick: bool = False
    """One family, two recipes, the first setting of each, for a few steps."""
    out: Path = Path(__file__).parent / "results"
    """Folder for the tables."""


def settings_of(grid: Grid) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def score(problem: Problem, recipe: str, settings: dict[str, Any], budget: int):
    problem = with_settings(
        problem,
        seeds=SEEDS[problem.family],
        max_steps=budget,
        # What is learned of a parity may be lost again.
        patience=None if problem.family == "parity" else 5,
    )
    optimizer = RECIPES[recipe].build(problem, **settings)
    history = train(problem.task, problem.make_model, optimizer, problem.settings)
    held_out = problem.settings.validation_fraction > 0
    metric = "validation_accuracy" if held_out else "test_accuracy"
    crossing = history.first_crossing(problem.settings.threshold, metric)
    accuracies = history.final(metric), history.final("train_accuracy")
    return crossing, *map(np.median, accuracies)


def main(options: Options) -> None:
    for family in options.families[: 1 if options.quick else None]:
        names = [
            n for n in GRIDS[family] if not options.recipes or n in options.recipes
        ]
        runs = [
            (recipe, settings)
            for recipe in (names[:2] if options.quick else names)
            for settings in itertools.islice(
                settings_of(GRIDS[family][recipe]), 1 if options.quick else None
            )
        ]
        rows: list[dict[str, object]] = []
        for recipe, settings in track(runs, family):
            row: dict[str, object] = {"recipe": recipe, "settings": _text(settings)}
            # One setting is to serve all problems, of ours and of the baseline.
            problems = PROBLEMS[family][: None if recipe in ("egd", "adamw") else 1]
            for problem, budget in problems:
                budget = 20 if options.quick else budget
                found, accuracy, trained = score(problem, recipe, settings, budget)
                row[problem.task.name] = crossing_text(found, budget)
                row[_at_the_end(problem)] = f"{accuracy:.3f}, {trained:.3f}"
            rows.append(row)
        path = options.out / f"development-{family}.csv"
        if not options.quick:
            rows += others(path, names)
            rows.sort(key=lambda row: list(GRIDS[family]).index(row["recipe"]))
        rows = [{name: row.get(name, "") for name in columns(family)} for row in rows]
        report(rows, path, quick=options.quick, note="steps to the threshold")


def columns(family: str) -> Iterator[str]:
    yield from ("recipe", "settings")
    for problem, _ in PROBLEMS[family]:
        yield from (problem.task.name, _at_the_end(problem))


def others(path: Path, recipes: Sequence[str]) -> list[dict[str, object]]:
    """Lines of an earlier table on the recipes that are not run now."""
    if not path.exists():
        return []
    _, *lines = path.read_text().splitlines()
    return [row for row in csv.DictReader(lines) if row["recipe"] not in recipes]


def _at_the_end(problem: Problem) -> str:
    return f"held out, trained ({problem.task.name})"


def _text(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


if __name__ == "__main__":
    main(tyro.cli(Options))
