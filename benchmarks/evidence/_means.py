"""Steps and seconds of every recipe, over all rows of a family."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.evidence._cells import RESULTS, Cell
from benchmarks.evidence._rows import Row, by_family
from benchmarks.shared import read_table


class Mean(NamedTuple):
    """Geometric means over the rows of a family; infinite where one was not solved."""

    steps: float
    seconds: float  # infinite, too, where no step was timed


def seconds_to_generalize(
    cells: Mapping[str, Sequence[Cell]],
) -> dict[tuple[str, str], float]:
    """Seconds to the threshold by row and recipe, from clock.csv.

    A recipe whose steps are others than those that were timed has to be timed again.
    """
    steps = {
        (name, cell.recipe): f"{cell.crossing('first').median:.0f}"
        for name, found in cells.items()
        for cell in found
    }
    return {
        key: float(line["seconds"])
        for line in read_table(RESULTS / "clock.csv")
        if line["seconds"]
        and line["steps"] == steps.get(key := (line["row"], line["recipe"]))
    }


def family_means(
    rows: Iterable[Row],
    cells: Mapping[str, Sequence[Cell]],
    seconds: Mapping[tuple[str, str], float],
) -> dict[str, dict[str, Mean]]:
    """Of each family, the recipes that were run on all of its rows."""
    found: dict[str, dict[str, Mean]] = {}
    for family, names in by_family(rows).items():
        steps = {
            name: {c.recipe: c.crossing("first").median for c in cells.get(name, ())}
            for name in names
        }
        everywhere = set.intersection(*map(set, steps.values()))
        found[family] = {
            recipe: Mean(
                geometric_mean(steps[name][recipe] for name in names),
                geometric_mean(seconds.get((n, recipe), math.inf) for n in names),
            )
            for recipe in sorted(everywhere)
        }
    return found


def geometric_mean(values: Iterable[float]) -> float:
    """Infinite, where one of them is."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))
