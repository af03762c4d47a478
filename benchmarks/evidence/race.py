"""Every method on every task: the tables and pictures of docs/results.md.

    python benchmarks/evidence/race.py --suite quick  # 2 tasks, 3 seeds: 3 minutes
    python benchmarks/evidence/race.py --suite full  # a day on two cores
    python benchmarks/evidence/race.py --rows parity-3 mnist-1k

A suite is the races, in the full one the baseline to the end of its plateau too, and
then what is no race: toy.py, spectrum.py, nonstationary.py and clock.py. With --rows,
--recipes or --plateau it is these races alone.
Every recipe gets the same budget of steps on a row. But for MNIST a seed stops early
once it has stayed above the threshold for 20 evaluations. In the full suite, recipes
that were among the five best in the search of their family (search.py), and `egd-auto`,
have ten seeds, the others five.
Finished cells are kept in results/race/ and never run again: an interrupted
run goes on where it was, and a table that is there is not made again. One line and exit
status 2 tell of a damaged cell, of one that was run with other settings, or of another
race in the folder, 1 of a full disk.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from benchmarks.evidence import clock, nonstationary, spectrum, toy
from benchmarks.evidence._cells import (
    PLATEAU,
    CellError,
    finished_cell,
    found_cells,
    run_cell,
)
from benchmarks.evidence._rows import recipes, rows
from benchmarks.evidence._searched import best_searched
from benchmarks.evidence._tables import race_table, write_pictures
from benchmarks.shared import check_names, fail, report
from egd_optax.grokking.files import in_one_line, prepare_folder, reserved
from egd_optax.grokking.problems.problem import Problem, with_settings
from egd_optax.grokking.recipes import RECIPES, baseline
from egd_optax.grokking.training.history import History

# The clock reads what the races left.
NO_RACES = (toy, spectrum, nonstationary, clock)


@dataclasses.dataclass(frozen=True)
class Options:
    """Races every recipe on the rows of a suite."""

    suite: Literal["quick", "full"] = "full"
    """quick: two rows, the recipes that `egd-grok race` shows, three seeds."""
    rows: tuple[str, ...] = ()
    """Names of rows; none: all of the suite."""
    recipes: tuple[str, ...] = ()
    """Names of recipes; none: all that serve the row."""
    seeds: int | None = None
    """Number of seeds; None: 3 in the quick suite, 5 or 10 in the full one."""
    plateau: bool = False
    """Run the baseline alone, to the end of its published plateau."""
    quick: bool = False
    """A test of this script: one row, two recipes, a few steps."""
    out: Path = Path(__file__).parent / "results"
    """Folder for race.csv, the cells and the pictures."""


def main(options: Options) -> None:
    suite = "quick" if options.quick else options.suite
    check_names("race", "row", options.rows, [row.name for row in rows(suite)])
    check_names("race", "recipe", options.recipes, RECIPES)
    races = [options]
    everything = not (
        options.rows or options.recipes or options.plateau or options.quick
    )
    if everything and suite == "full":
        races.append(dataclasses.replace(options, plateau=True))
    name = {"quick": "race-quick", "full": "race"}[suite]
    folder = options.out / ("race-test" if options.quick else name)
    with contextlib.ExitStack() as stack:
        try:
            prepare_folder(folder)
            stack.enter_context(reserved(folder))
            # What is damaged or does not fit shows now, not after hours.
            found_cells(folder, [row.name for row in rows(suite)])
            missing = [
                [
                    cell
                    for cell in cells(each, suite)
                    if not finished_cell(folder, *cell)
                ]
                for each in races
            ]
        except ValueError as error:
            fail("race", str(error), 2)
        except OSError as error:
            fail("race", in_one_line(error), 1)
        try:
            for some in missing:
                race(some, suite, folder, options.out)
            if everything:
                no_races(suite, folder if suite == "quick" else options.out)
        except CellError as error:
            fail("race", str(error), 2)
        except OSError as error:
            fail("race", in_one_line(error), 1)


def cells(options: Options, suite: str) -> Iterator[tuple[str, str, Problem]]:
    """What its row is called, the recipe and the problem of each cell asked for."""
    chosen = [r for r in rows(suite) if not options.rows or r.name in options.rows]
    for row in chosen[:1] if options.quick else chosen:
        label, names, budget = row.name, recipes(suite, row), row.budget
        if options.quick:
            names, budget = ["egd", "sgd"], 18
        if options.plateau:
            if row.plateau is None:
                continue
            label += PLATEAU
            names, budget = [baseline(row.problem)], row.plateau
        best = {*best_searched(row.problem.family), "egd-auto"}
        for name in names:
            if options.recipes and name not in options.recipes:
                continue
            many = 10 if name in best else 5
            usual = 1 if options.quick else 3 if suite == "quick" else many
            problem = with_settings(
                row.problem,
                seeds=tuple(range(options.seeds or usual)),
                max_steps=budget,
                epochs_per_evaluation=10 if options.plateau else 1,
            )
            yield label, name, problem


def race(
    missing: Iterable[tuple[str, str, Problem]], suite: str, folder: Path, out: Path
) -> None:
    """Runs the cells that are missing, and makes table and pictures of all."""
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("steps"),
    )
    with Progress(*columns) as progress:
        for label, name, problem in missing:
            bar = progress.add_task(f"{label} {name}", total=problem.settings.max_steps)

            def show(history: History, bar=bar) -> None:
                progress.update(bar, completed=int(history.steps[-1]))

            run_cell(folder, label, name, problem, show)
            progress.remove_task(bar)
    # The table has what earlier runs left, too.
    every = list(rows(suite))
    found = found_cells(folder, [row.name for row in every])
    table = race_table(found, {row.name: row.published for row in every})
    note = "steps to the threshold: median over the seeds (range)"
    write_pictures(found, folder)
    report(table, out / "race.csv", quick=suite == "quick", note=note)


def no_races(suite: str, out: Path) -> None:
    """Makes the tables of the other benchmarks that are not there yet."""
    quick = suite == "quick"
    for script in NO_RACES:
        name = script.__name__.split(".")[-1] + ("-quick" if quick else "")
        if (out / f"{name}.csv").exists():
            print(f"{name}.csv is there: delete it to have it made again")
        else:
            script.main(script.Options(quick=quick, out=out))


if __name__ == "__main__":
    main(tyro.cli(Options))
