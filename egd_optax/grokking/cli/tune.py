"""What ``egd-grok tune`` does."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from egd_optax.grokking import figures
from egd_optax.grokking.cli.arguments import Tune
from egd_optax.grokking.cli.preparation import Prepared
from egd_optax.grokking.files import write_text
from egd_optax.grokking.problems.problem import Problem
from egd_optax.grokking.search.ledger import Ledger
from egd_optax.grokking.search.progress import bar
from egd_optax.grokking.search.results import (
    best_json,
    best_trial,
    tune_figure,
    tune_table,
)
from egd_optax.grokking.search.search import Search
from egd_optax.grokking.search.trials import Trial


def search_of(command: Tune, problem: Problem) -> Search:
    """The search that was asked for."""
    return Search([problem], command.trials, command.refined, command.draw)


def tune(
    folder: Path,
    search: Search,
    ledger: Ledger | None,
    prepared: Prepared,
    console: Console,
) -> None:
    """Runs the search and writes what it found; only runs it where nothing is kept.

    Raises:
      LedgerError: the folder has another search.
      OSError: the disk does not take the files.
    """
    names = prepared.names
    total = len(names) * (search.trials + search.refined)
    with bar(total, search.budgets, console) as show:
        for name in names:
            console.print(line(search, name, search.run(name, ledger, show)))
            if ledger is not None:
                # What earlier commands left in the folder is in it, too.
                found = ledger.by_optimizer()
                write_text(folder / "best.json", best_json(search, found))
    if ledger is None:
        return
    picture = tune_figure(search, found, title=prepared.title)
    figures.save(picture, folder / "tune.png")
    console.print()
    console.print(tune_table(search, found, title=prepared.title))


def line(search: Search, name: str, trials: Sequence[Trial]) -> str:
    """What became of a method."""
    best, solved = best_trial(search, trials), sum(t.is_solved for t in trials)
    steps = f"{best.score(search.budgets):6.0f} steps" if best.is_solved else "–"
    return f"{name:<20} {steps:>12}  {solved} of {len(trials)} trials got there"
