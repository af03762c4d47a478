"""Do those that generalize at once hold the circuit of those that grok late? Measured.

    python benchmarks/laboratory/circuits.py  # hours on two cores, minutes on a GPU
    python benchmarks/laboratory/circuits.py --problems net --methods egd sgd
    python benchmarks/laboratory/circuits.py --quick

a + b mod 97 by the two-layer net; and a + b mod 113 by Nanda et al.'s one-layer
transformer in their setting: 30 % of the pairs, all of them in each step, AdamW with
decay 1 (``adamw-paper``). Five seeds. Cells with the curves of accuracy and measures go
to results/circuits; what is there is not run again.

results/circuits.csv: steps to memorize and to generalize (95 %); of each measure its
value when the training part is memorized and at the end, and when it had gone half of
its way between these, relative to the step at which test accuracy had: below 1 it moves
first. Medians over the seeds with their ranges.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import tyro
from rich.progress import Progress

from benchmarks.evidence._cells import Cell, CellError, run_cell
from benchmarks.shared import check_names, fail, report
from egd_optax.grokking.problems.problem import Problem, modular, with_settings
from egd_optax.grokking.training.history import History

RESULTS = Path(__file__).parent / "results"
SEEDS = tuple(range(5))
MEASURES = (
    "fourier-share",
    "fourier-components",
    "fourier-share-of-units",
    "key-share",
    "restricted-loss",
    "excluded-loss",
    "distance",
)
NET = modular("addition", 97)
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
            "adamw": (1500, 1),
            "muon": (1500, 1),
            "egd": (1500, 1),
            "egd-auto": (1500, 1),
        },
    ),
    "transformer": (
        TRANSFORMER,
        {"adamw-paper": (25_000, 50), "egd": (1500, 5), "egd-auto": (1500, 5)},
    ),
}
METHODS = sorted({name for _, methods in PROBLEMS.values() for name in methods})


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures the circuits of networks that generalized."""

    problems: tuple[str, ...] = tuple(PROBLEMS)
    """net, transformer."""
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
    for name in options.problems[: 1 if options.quick else None]:
        problem, methods = PROBLEMS[name]
        asked = [method for method in methods if method in options.methods]
        for method in asked[-2:] if options.quick else asked:
            budget, every = methods[method]
            settings = {"seeds": SEEDS, "max_steps": budget}
            if options.quick:
                settings = {"seeds": SEEDS[:1], "max_steps": 90}
            problem = with_settings(problem, epochs_per_evaluation=every, **settings)
            history = _run(options, name, method, problem).history()
            shared = {"problem": problem.task.name, "method": method}
            table += [shared | line for line in _lines(history)]
    note = f"medians (ranges) over {len(SEEDS)} seeds"
    report(table, options.out / "circuits.csv", quick=options.quick, note=note)


def _run(options: Options, name: str, method: str, problem: Problem) -> Cell:
    folder = options.out / ("circuits-quick" if options.quick else "circuits")
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"{name}, {method}", total=problem.settings.max_steps)

        def show(history: History) -> None:
            progress.update(bar, completed=int(history.steps[-1]))

        try:
            return run_cell(folder, name, method, problem, show, MEASURES)
        except CellError as error:
            fail("circuits", str(error))


def _lines(history: History) -> list[dict[str, str]]:
    lines = []
    for part, name in ("train", "steps to memorize"), ("test", "steps to generalize"):
        steps = history.first_crossing(0.95, f"{part}_accuracy").steps
        lines.append(_line(name, at_the_end=steps))
    known = np.argmax(np.array(history.metrics["train_accuracy"]) >= 0.95, axis=0)
    reference = _half_way(history, "test_accuracy", known)
    for name in ("test_accuracy", *MEASURES):
        values = np.array(history.metrics[name])
        lines.append(
            _line(
                name,
                at_memorization=values[known, range(values.shape[1])],
                at_the_end=values[-1],
                half_way=_half_way(history, name, known) / reference,
            )
        )
    return lines


def _line(name: str, **columns: np.ndarray) -> dict[str, str]:
    names = ("at_memorization", "at_the_end", "half_way")
    found = {
        column.replace("_", " "): _with_range(columns[column])
        if column in columns
        else ""
        for column in names
    }
    return {"measure": name.replace("_", " "), **found}


def _half_way(history: History, metric: str, known: np.ndarray) -> np.ndarray:
    """The step of each seed from which on a metric is nearer to its final value than to
    that at memorization.
    """
    values = np.array(history.metrics[metric])
    steps = []
    for seed, begin in enumerate(known):
        curve = values[begin:, seed]
        near = np.abs(curve - curve[-1]) <= np.abs(curve - curve[0])
        stays = np.logical_and.accumulate(near[::-1])[::-1]
        steps.append(history.steps[begin + int(np.argmax(stays))])
    return np.array(steps, float)


def _with_range(values: np.ndarray) -> str:
    middle, low, high = (
        f"{fn(values):.4g}" if math.isfinite(fn(values)) else "–"
        for fn in (np.median, np.min, np.max)
    )
    return middle if low == high else f"{middle} ({low}–{high})"


if __name__ == "__main__":
    main(tyro.cli(Options))
