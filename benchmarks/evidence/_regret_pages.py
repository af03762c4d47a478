"""What it costs to set nothing, as docs/tuning.md shows it."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.evidence._cells import RESULTS, Cell
from benchmarks.evidence._means import geometric_mean
from benchmarks.evidence._rows import rows
from benchmarks.evidence._tables import steps_text
from benchmarks.shared import markdown, read_table
from egd_optax.grokking.recipes import TUNED
from egd_optax.grokking.search.trials import counted

UNTUNED = {"egd-auto": "`egd()`", "egd-constant": "`egd(0.05)`"}
Cells = Mapping[str, Sequence[Cell]]


class Line(NamedTuple):
    """A problem: steps with searched settings, and of each recipe without any."""

    problem: str
    searched: str
    is_solved: bool  # by the searched settings
    steps: dict[str, str]
    regrets: dict[str, float]  # ratios of the medians


def lines(cells: Cells) -> list[Line]:
    """The problems of the races, and those that nobody tuned on."""
    return [*_of_races(cells), *untuned_lines()]


def mean(some: Iterable[Line], recipe: str) -> float:
    """Geometric mean of a recipe's regrets, where searched settings got there."""
    return geometric_mean(line.regrets[recipe] for line in some if line.is_solved)


def worst(some: Iterable[Line], recipe: str) -> float:
    """The largest of a recipe's regrets."""
    return max(line.regrets[recipe] for line in some)


def beside_the_soonest(cells: Cells, recipe: str, names: Iterable[str]) -> float:
    """Geometric mean of a recipe's steps over those of each row's soonest tuned one."""
    ratios = []
    for name in names:
        medians = {c.recipe: c.crossing("first").median for c in cells[name]}
        soonest = min(medians[each] for each in medians if each in TUNED)
        ratios.append(medians[recipe] / soonest)
    return geometric_mean(ratios)


def nothing_set(cells: Cells) -> str:
    """The table of regrets, and what the constants bear."""
    every = lines(cells)
    body = [
        [
            line.problem,
            line.searched,
            *(f"{line.steps[n]}, × {line.regrets[n]:.2f}" for n in UNTUNED),
        ]
        for line in every
    ]
    means = [f"× {mean(every, n):.2f}, at most {worst(every, n):.2f}" for n in UNTUNED]
    head = ["problem", "`egd`, searched", *UNTUNED.values()]
    parts = [
        markdown(
            [
                head,
                *body,
                ["geometric mean where the searched `egd` got there", "", *means],
            ]
        )
    ]
    if bears := read_table(RESULTS / "sensitivity.csv"):
        parts += [
            "Each constant halved and doubled, all else as it is: steps on development "
            "problems, `inf` where most of three seeds did not get there "
            "(`python benchmarks/evidence/sensitivity.py`):",
            markdown([list(bears[0]), *(list(line.values()) for line in bears)]),
        ]
    return "\n\n".join(parts)


def _of_races(cells: Cells) -> Iterator[Line]:
    for row in rows("full"):
        found = {cell.recipe: cell for cell in cells.get(row.name, ())}
        if not {"egd", *UNTUNED} <= found.keys():
            continue
        medians = {name: found[name].crossing("first").median for name in found}
        tuned = counted(medians["egd"], row.budget)
        yield Line(
            row.name,
            steps_text(found["egd"], "first"),
            math.isfinite(medians["egd"]),
            {name: steps_text(found[name], "first") for name in UNTUNED},
            {name: counted(medians[name], row.budget) / tuned for name in UNTUNED},
        )


def untuned_lines() -> Iterator[Line]:
    """The problems that nobody tuned on."""
    for line in read_table(RESULTS / "regret.csv"):
        yield Line(
            line["problem"],
            line["searched"],
            not line["searched"].startswith("not within"),
            {name: line[name] for name in UNTUNED},
            {name: float(line[f"regret of {name}"]) for name in UNTUNED},
        )
