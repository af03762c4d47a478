"""Do those that generalize at once hold the circuit of those that grok late? Measured.

    python benchmarks/laboratory/circuits.py  # hours on two cores, minutes on a GPU
    python benchmarks/laboratory/circuits.py --problems net --methods egd sgd
    python benchmarks/laboratory/circuits.py --quick

a + b mod 97 by the two-layer net; a + b mod 113 by Nanda et al.'s one-layer transformer
with 30 % of the pairs, all of them in each step, AdamW with rate 1e-3 and decay 1 as
they have it (``adamw-paper``), and with what the search found; and mod 31 with 75 %, a
small case of the same. Five seeds, all of them to the end of the budget. Cells with the
curves go to results/circuits; what is there is not run again.

results/circuits.csv: of each measure its value before the first step, when the
training part is memorized (95 %), and at the end; and its half way: the step at which
it had gone half of its way from memorization to the end for good, of losses in
logarithms, with 0 where the training part was memorized and 1 where test accuracy had
gone half of its own way. Below 1 it moves before. Medians (ranges) over the seeds that
generalized. A half way is left out where fewer than 5 evaluations lie between 0 and 1,
or where the measure does not move by 5 times what it trembles in the last fifth of the
run.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import optax
import tyro

from benchmarks.evidence._cells import Cell
from benchmarks.laboratory._runs import cell_of
from benchmarks.shared import check_names, report
from egd_optax.grokking.measures import measures
from egd_optax.grokking.problems.problem import Problem, modular, with_settings
from egd_optax.grokking.problems.settings import steps_per_epoch
from egd_optax.grokking.training.history import History
from egd_optax.grokking.training.run import train

RESULTS = Path(__file__).parent / "results"
SEEDS = tuple(range(5))
MEASURES = (
    "fourier-share",
    "fourier-components",
    "fourier-share-of-units",
    "answer-share",
    "logit-components",
    "key-share",
    "restricted-loss",
    "excluded-loss",
    "weight-norm",
    "distance",
)
NET = modular("addition", 97)
SMALL = with_settings(
    modular("addition", 31, model="one-layer-transformer"),
    train_fraction=0.75,
    batch_size=None,
)
TRANSFORMER = with_settings(
    modular("addition", 113, model="one-layer-transformer"),
    train_fraction=0.3,
    batch_size=None,
)
# Budget of a method, and epochs between its evaluations.
PROBLEMS: dict[str, tuple[Problem, dict[str, tuple[int, int]]]] = {
    "net": (
        NET,
        {
            "sgd": (90_000, 50),
            "adamw": (360, 1),
            "muon": (360, 1),
            "egd": (360, 1),
            "egd-auto": (360, 1),
        },
    ),
    "small-transformer": (
        SMALL,
        {
            "adamw-paper": (2500, 10),
            "adamw": (600, 2),
            "egd": (600, 2),
            "egd-auto": (600, 2),
        },
    ),
    "transformer": (
        TRANSFORMER,
        {
            "adamw-paper": (25_000, 50),
            "adamw": (1000, 5),
            "egd": (1000, 5),
            "egd-auto": (1000, 5),
        },
    ),
}
LEAST_EVALUATIONS, LEAST_MOVE = 5, 5
METHODS = sorted({name for _, methods in PROBLEMS.values() for name in methods})


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures the circuits of networks that generalized."""

    problems: tuple[str, ...] = tuple(PROBLEMS)
    """net, small-transformer, transformer; of others the table has what was run."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Names of recipes."""
    quick: bool = False
    """One problem, two methods, one seed, few steps."""
    out: Path = RESULTS
    """Folder for cells and tables."""


def main(options: Options) -> None:
    check_names("circuits", "problem", options.problems, PROBLEMS)
    check_names("circuits", "method", options.methods, METHODS)
    table = []
    folder = options.out / ("circuits-quick" if options.quick else "circuits")
    for name in [*PROBLEMS][: 1 if options.quick else None]:
        problem, methods = PROBLEMS[name]
        seeds = SEEDS[:1] if options.quick else SEEDS
        problem = with_settings(problem, seeds=seeds, patience=None)
        cells = []
        for method in [*methods][-2:] if options.quick else methods:
            budget, every = methods[method]
            settings = {
                "max_steps": 90 if options.quick else budget,
                "epochs_per_evaluation": every,
            }
            cells.append(
                cell_of(
                    folder,
                    name,
                    method,
                    with_settings(problem, **settings),
                    asked=name in options.problems and method in options.methods,
                    measured=MEASURES,
                )
            )
        found = [cell for cell in cells if cell]
        untrained = _untrained(problem) if found else {}
        for cell in found:
            shared = {"problem": problem.task.name, "method": cell.recipe}
            table += [shared | line for line in lines(cell, untrained)]
    note = f"medians (ranges) over {len(SEEDS)} seeds"
    report(table, options.out / "circuits.csv", quick=options.quick, note=note)


def _untrained(problem: Problem) -> dict[str, np.ndarray]:
    """What is measured of networks that nothing has changed, a value a seed."""
    history = train(
        problem.task,
        problem.make_model,
        optax.set_to_zero(),
        with_settings(
            problem, max_steps=steps_per_epoch(problem.task, problem.settings)
        ).settings,
        measures=measures(MEASURES),
    )
    return {name: values[-1] for name, values in history.metrics.items()}


def lines(cell: Cell, untrained: Mapping[str, np.ndarray]) -> Iterator[dict[str, str]]:
    """The table of a cell."""
    history = cell.history()
    known, solved = (
        history.first_crossing(0.95, f"{part}_accuracy").steps
        for part in ("train", "test")
    )
    # A seed that never gets there has no end of a plateau.
    good = np.isfinite(known) & np.isfinite(cell.crossing("sustained").steps)
    yield _line("seeds that generalized", at_the_end=f"{sum(good)} of {len(good)}")
    if not np.any(good):
        return
    yield _line("steps to memorize", at_the_end=_with_range(known[good]))
    yield _line("steps to generalize", at_the_end=_with_range(solved[good]))
    known = known[good]
    at = np.searchsorted(history.steps, known)
    reference = _half_ways(history, "test_accuracy", known, good)
    resolved = np.array(
        [
            np.sum((history.steps > begin) & (history.steps <= end))
            >= LEAST_EVALUATIONS
            for begin, end in zip(known, reference, strict=True)
        ]
    )
    for name in ("test_accuracy", "test_loss", *_curves_of_measures(history)):
        values = history.metrics[name][:, good]
        half = _half_ways(history, name, known, good) - known
        half = np.where(resolved, half / (reference - known), math.nan)
        yield _line(
            name,
            untrained=_with_range(untrained[name][good]),
            at_memorization=_with_range(values[at, range(values.shape[1])]),
            at_the_end=_with_range(values[-1]),
            half_way=_with_range(half) if np.all(np.isfinite(half)) else "",
        )


def _curves_of_measures(history: History) -> list[str]:
    return [name for name in history.metrics if name.removesuffix("/all") in MEASURES]


def _line(name: str, **columns: str) -> dict[str, str]:
    names = ("untrained", "at_memorization", "at_the_end", "half_way")
    found = {column.replace("_", " "): columns.get(column, "") for column in names}
    return {"measure": name.replace("_", " ").removesuffix("/all"), **found}


def _half_ways(
    history: History, name: str, known: np.ndarray, good: np.ndarray
) -> np.ndarray:
    curves = history.metrics[name][:, good].T
    return np.array(
        [
            half_way(history.steps, curve, begin, loss=name.endswith("loss"))
            for curve, begin in zip(curves, known, strict=True)
        ]
    )


def half_way(
    steps: np.ndarray, curve: np.ndarray, begin: float, *, loss: bool
) -> float:
    """The step at which a curve has gone half of its way from ``begin`` on for good.

    NaN where it does not move.
    """
    since = steps >= begin
    steps, curve = steps[since], curve[since]
    if loss:
        curve = np.log(np.maximum(curve, 1e-12))
    late = curve[-max(len(curve) // 5, 2) :]
    if np.abs(curve[-1] - curve[0]) <= LEAST_MOVE * np.std(late):
        return math.nan
    near = np.abs(curve - curve[-1]) <= np.abs(curve - curve[0])
    stays = np.logical_and.accumulate(near[::-1])[::-1]
    return float(steps[np.argmax(stays)])


def _with_range(values: np.ndarray) -> str:
    middle, low, high = (f"{fn(values):.4g}" for fn in (np.median, np.min, np.max))
    return middle if low == high else f"{middle} ({low}–{high})"


if __name__ == "__main__":
    main(tyro.cli(Options))
