"""How the laboratory runs its cells and grids, once, with a bar."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from benchmarks.evidence._cells import Cell, CellError, finished_cell, run_cell
from benchmarks.shared import fail
from egd_optax.grokking.files import prepare_folder
from egd_optax.grokking.phases import Grid
from egd_optax.grokking.problems.problem import Problem
from egd_optax.grokking.search.trials import Trial
from egd_optax.grokking.training.history import History


def cell_of(
    folder: Path,
    row: str,
    recipe: str,
    problem: Problem,
    *,
    asked: bool,
    measured: Sequence[str] = (),
) -> Cell | None:
    """The cell, run where it is asked for and not there; None: it was never run.

    Ends the script, named as the folder is, with one line where what is there is
    damaged or of other settings.
    """
    try:
        if not asked:
            return finished_cell(folder, row, recipe, problem)
        with Progress(transient=True) as progress:
            steps = problem.settings.max_steps
            bar = progress.add_task(f"{row}, {recipe}", total=steps)

            def show(history: History) -> None:
                progress.update(bar, completed=int(history.steps[-1]))

            return run_cell(folder, row, recipe, problem, show, measured)
    except CellError as error:
        fail(folder.name, str(error))


def run_grid(script: str, grid: Grid, folder: Path) -> list[Trial]:
    """Its cells; those that the folder has are not run again.

    Ends the script with one line where the folder has another grid.
    """
    try:
        prepare_folder(folder)
        ledger = grid.ledger(folder)
    except ValueError as error:
        fail(script, str(error))
    with Progress(transient=True) as progress:
        bar = progress.add_task(grid.optimizer, total=len(grid.cells))

        def show(found: Sequence[Trial]) -> None:
            progress.update(bar, completed=len(found))

        return grid.run(ledger, show)
