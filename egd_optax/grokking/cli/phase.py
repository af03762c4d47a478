"""What ``egd-grok phase`` does."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from egd_optax.grokking import figures
from egd_optax.grokking.cli.arguments import Phase
from egd_optax.grokking.cli.preparation import has_option, problem_of
from egd_optax.grokking.phase_figure import phase_figure, phase_table
from egd_optax.grokking.phases import Axis, Grid
from egd_optax.grokking.problems.problem import Problem
from egd_optax.grokking.problems.tasks import check_range
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.search.ledger import Ledger
from egd_optax.grokking.search.trials import Trial


def grids_of(command: Phase, names: Sequence[str], problem: Problem) -> list[Grid]:
    """A grid for each optimizer.

    Raises:
      ValueError: an axis is none, or its values fit no problem or optimizer.
    """
    gap = max(problem.settings.max_steps // 10, 1)
    if command.gap is not None:
        check_range("gap", command.gap)
        gap = command.gap

    def of_values(values: Mapping[str, float]) -> Problem:
        changes: dict[str, Any] = {**values}
        return problem_of(dataclasses.replace(command, **changes))

    axes = _axis("x", command.x), _axis("y", command.y)
    for axis in axes:
        if not has_option(command.task, axis.name):
            raise ValueError(f"the task {command.task} has no {axis.name} for an axis")
    grids = []
    for name in names:
        recipe = RECIPES[name]
        base = recipe.settings[problem.family] if recipe.space else None
        grids.append(Grid(of_values, name, base, *axes, gap))
    for values in grids[0].problems:
        of_values(values)
    _check_alone(command, axes)
    return grids


def _check_alone(command: Phase, axes: Sequence[Axis]) -> None:
    """Refuses a fixed value of what is an axis."""
    defaults = {field.name: field.default for field in dataclasses.fields(command)}
    for axis in axes:
        value = getattr(command, axis.name, None)
        if value != defaults.get(axis.name):
            raise ValueError(
                f"{axis.name} must not be given beside an axis of it, got {value}"
            )


def _axis(name: str, words: Sequence[str]) -> Axis:
    try:
        axis, *values, count = words
        low, high = map(float, values)
        number = int(count)
    except ValueError as error:
        raise ValueError(
            f"--{name} must be an axis, its least and its greatest value and how many, "
            f"such as train-fraction 0.2 0.8 7, got {' '.join(words) or 'nothing'}"
        ) from error
    try:
        return Axis(axis.replace("-", "_"), low, high, number)
    except ValueError as error:
        raise ValueError(f"--{name}: {error}".replace("_", "-")) from error


def run_phase(
    folder: Path,
    grids: Sequence[Grid],
    ledger: Ledger | None,
    title: str,
    console: Console,
) -> None:
    """Runs all cells, and shows them; only runs them where nothing is kept.

    Raises:
      OSError: the disk does not take the files.
    """
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("cells"),
        TimeRemainingColumn(),
    )
    found: dict[str, list[Trial]] = {}
    with Progress(*columns, console=console, transient=True) as progress:
        for grid in grids:
            task = progress.add_task(grid.optimizer, total=len(grid.cells))

            def report(done: Sequence[Trial], task: TaskID = task) -> None:
                progress.update(task, completed=len(done))

            found[grid.optimizer] = grid.run(ledger, report)
            progress.remove_task(task)
    if ledger is None:
        return
    figures.save(phase_figure(grids, found, title=title), folder / "phase.png")
    for grid in grids:
        console.print()
        console.print(phase_table(grid, found[grid.optimizer], title=title))
