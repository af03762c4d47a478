"""How many steps do the symmetric group's tasks take, and whom? A race.

    python benchmarks/laboratory/permutations.py  # an hour on two cores
    python benchmarks/laboratory/permutations.py --quick

xy, xyx⁻¹ and xyx in S5, Power et al.'s (arXiv 2201.02177), by the two-layer net on
one-hots: half of the 14 400 pairs, batches of 512, five seeds. Each method has the
settings of its family, searched on modular arithmetic. Cells go to
results/permutations; what is there is not run again. The table, medians and ranges of
the steps to 95 % test accuracy, goes to results/permutations.csv.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro
from rich.progress import Progress

from benchmarks.evidence._cells import CellError, run_cell
from benchmarks.evidence._tables import steps_text
from benchmarks.shared import check_names, fail, report
from egd_optax.grokking.problems.groups import WORDS
from egd_optax.grokking.problems.problem import on_group, with_settings
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.training.history import History

RESULTS = Path(__file__).parent / "results"
METHODS = ("sgd", "adamw", "muon", "columns", "egd", "egd-auto")
BUDGET = 6000
# The plain optimizer's plateau is longer than any other's.
PLATEAU = 60_000


@dataclasses.dataclass(frozen=True)
class Options:
    """Races on the symmetric group of five."""

    words: tuple[str, ...] = tuple(WORDS)
    """xy, xyx, xyx^-1."""
    methods: tuple[str, ...] = METHODS
    """Names of recipes."""
    quick: bool = False
    """S3, one word, two methods, few steps."""
    out: Path = RESULTS
    """Folder for cells and table."""


def main(options: Options) -> None:
    check_names("permutations", "word", options.words, WORDS)
    check_names("permutations", "method", options.methods, RECIPES)
    words, methods = options.words, options.methods
    group, folder = "S5", options.out / "permutations"
    if options.quick:
        words, methods = words[:1], methods[-2:]
        group, folder = "S3", options.out / "permutations-quick"
    table = []
    for word in words:
        for method in methods:
            budget = PLATEAU if method == "sgd" else BUDGET
            problem = with_settings(
                on_group(group, word),
                seeds=tuple(range(5)),
                max_steps=budget,
                epochs_per_evaluation=20 if method == "sgd" else 1,
            )
            if options.quick:
                problem = with_settings(problem, batch_size=None, max_steps=60)
            with Progress(transient=True) as progress:
                bar = progress.add_task(f"{word}, {method}", total=budget)

                def show(history: History, bar=bar, progress=progress) -> None:
                    progress.update(bar, completed=int(history.steps[-1]))

                try:
                    cell = run_cell(folder, word, method, problem, show)
                except CellError as error:
                    fail("permutations", str(error))
            table.append(
                {
                    "task": problem.task.name,
                    "method": method,
                    "first": steps_text(cell, "first"),
                    "sustained": steps_text(cell, "sustained"),
                    "final test accuracy": f"{100 * np.median(cell.final()):.1f} %",
                }
            )
    note = "steps to 95 % test accuracy, medians (ranges) over 5 seeds"
    report(table, options.out / "permutations.csv", quick=options.quick, note=note)


if __name__ == "__main__":
    main(tyro.cli(Options))
