"""How the laboratory runs a grid."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from benchmarks.shared import fail
from egd_optax.grokking.files import prepare_folder
from egd_optax.grokking.phases import Grid
from egd_optax.grokking.search.trials import Trial


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
