"""The table and the pictures of a race over many problems."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import charts
from benchmarks.evidence._cells import PLATEAU, Cell
from egd_optax.grokking import figures
from egd_optax.grokking.summary import seeds_in_words
from egd_optax.grokking.training.history import Crossing


def race_table(
    cells: Mapping[str, Sequence[Cell]], published: Mapping[str, str]
) -> list[dict[str, object]]:
    """One line a cell."""
    return [
        {
            "row": cell.row,
            "recipe": cell.recipe,
            "seeds": len(cell.record["seeds"]),
            "first": steps_text(cell, "first"),
            "sustained": steps_text(cell, "sustained"),
            "epochs": _epochs(cell),
            "final_accuracy": f"{100 * np.median(cell.final()):.1f}%",
            "published": published.get(cell.row, ""),
        }
        for found in cells.values()
        for cell in found
    ]


def write_pictures(cells: Mapping[str, Sequence[Cell]], folder: Path) -> None:
    """A race's curves for every row, and for all rows how the methods rank."""
    by_row = {
        row: {cell.recipe: cell for cell in found} for row, found in cells.items()
    }
    steps = {
        row: {name: cell.crossing("first").median for name, cell in found.items()}
        for row, found in by_row.items()
    }
    for row, found in by_row.items():
        some = next(iter(found.values())).record
        question = some["question"]
        figure = figures.race(
            {name: cell.history() for name, cell in found.items()},
            title=f"{question['task']}, {question['model']}, "
            f"{seeds_in_words(len(some['seeds']))}",
            threshold=some["threshold"],
            crossings=steps[row],
        )
        figures.save(figure, folder / row / "race.png")
    plateaus = {
        row.removesuffix(PLATEAU): steps.pop(row)
        for row in list(steps)
        if row.endswith(PLATEAU)
    }
    if not steps:  # plateaus alone
        return
    ranked = charts.rankings(
        steps, x_label="steps to generalize, median", beyond=plateaus
    )
    figures.save(ranked, folder / "steps.png")


def steps_text(cell: Cell, kind: str) -> str:
    """Median and range; a bound where a seed did not get there."""
    return crossing_text(cell.crossing(kind), cell.record["steps_run"])


def crossing_text(crossing: Crossing, steps_run: int) -> str:
    """The same of any crossing."""
    if math.isinf(crossing.median):
        return f"not within {steps_run}"
    # Of an even number of seeds it may be a half.
    median = f"{crossing.median:.1f}".removesuffix(".0")
    if len(crossing.steps) == 1:
        return median
    low, high = crossing.range
    top = f"{high:.0f}" if math.isfinite(high) else f">{steps_run}"
    return f"{median} ({low:.0f}–{top})"


def _epochs(cell: Cell) -> str:
    epochs = cell.crossing("first").epochs.median
    return "" if math.isinf(epochs) else f"{epochs:.0f}"
