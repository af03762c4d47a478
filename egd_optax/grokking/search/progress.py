"""What a search shows while it runs: trials done, the best so far, time left."""

import contextlib
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from egd_optax.grokking.search.trials import Trial


class Bar:
    """One bar for all trials of all methods; it is a ``Report``."""

    def __init__(self, progress: Progress, total: int, budgets: Sequence[int]):
        self._progress, self._budgets = progress, budgets
        self._task = progress.add_task("compiling …", total=total, best="")
        self._done: dict[str, int] = {}

    def __call__(self, optimizer: str, trials: Sequence[Trial]) -> None:
        """Counts the trials of a method."""
        self._done[optimizer] = len(trials)
        found = [trial.score(self._budgets) for trial in trials if trial.is_solved]
        best = f"best so far {min(found):.0f}" if found else "none got there yet"
        self._progress.update(
            self._task,
            completed=sum(self._done.values()),
            description=optimizer,
            best=best if trials else "compiling …",
        )


@contextlib.contextmanager
def bar(total: int, budgets: Sequence[int], console: Console) -> Iterator[Bar]:
    """A bar on the console while the context is open."""
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("trials, {task.fields[best]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, total, budgets)
