"""How many steps do the symmetric group's tasks take, and whom? A race.

    python benchmarks/laboratory/permutations.py  # hours on two cores
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

from benchmarks.evidence._tables import steps_text
from benchmarks.laboratory._runs import cell_of
from benchmarks.shared import check_names, report
from egd_optax.grokking.problems.groups import WORDS
from egd_optax.grokking.problems.problem import on_group, with_settings
from egd_optax.grokking.recipes import RECIPES

RESULTS = Path(__file__).parent / "results"
METHODS = ("sgd", "adamw", "muon", "columns", "egd", "egd-auto")
BUDGET = 6000
# The plain optimizer's plateau is longer than any other's.
PLATEAU = 60_000


@dataclasses.dataclass(frozen=True)
class Options:
    """Races on the symmetric group of five."""

    words: tuple[str, ...] = tuple(WORDS)
    """xy, xyx, xyx^-1; of others the table has what was run before."""
    methods: tuple[str, ...] = METHODS
    """Names of recipes."""
    quick: bool = False
    """S3, one word, two methods, few steps."""
    out: Path = RESULTS
    """Folder for cells and table."""


def main(options: Options) -> None:
    check_names("permutations", "word", options.words, WORDS)
    check_names("permutations", "method", options.methods, RECIPES)
    group, folder = "S5", options.out / "permutations"
    words, methods = tuple(WORDS), tuple(dict.fromkeys((*METHODS, *options.methods)))
    if options.quick:
        words, methods = words[:1], methods[-2:]
        group, folder = "S3", options.out / "permutations-quick"
    table = []
    for word in words:
        for method in methods:
            problem = with_settings(
                on_group(group, word),
                seeds=tuple(range(5)),
                max_steps=PLATEAU if method == "sgd" else BUDGET,
                epochs_per_evaluation=20 if method == "sgd" else 1,
            )
            if options.quick:
                problem = with_settings(problem, batch_size=None, max_steps=60)
            asked = word in options.words and method in options.methods
            cell = cell_of(folder, word, method, problem, asked=asked)
            if cell is None:
                continue
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
