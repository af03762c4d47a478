"""Writes docs/results.md, and parts of other pages, from what is in results/.

python benchmarks/evidence/_results_page.py
"""

import csv
import dataclasses
import sys
from pathlib import Path

import numpy as np
import tyro

from benchmarks.evidence._cells import PLATEAU, RESULTS, Cell, CellError, found_cells
from benchmarks.evidence._regret_pages import nothing_set
from benchmarks.evidence._rows import rows
from benchmarks.evidence._search_pages import searches, start_table
from benchmarks.evidence._summary import Sections, cells_of, front_page, summary
from benchmarks.evidence._tables import steps_text
from benchmarks.shared import markdown, with_part
from egd_optax.grokking.recipes import RECIPES

HEAD = """\
# Results

**How to read the tables.** *First* is the step at which test accuracy first reaches
the threshold (95 %, MNIST 85 %), *sustained* the step after which it never falls below
again. Both are medians over the seeds, with the range in brackets. All methods of a
row had the same budget of steps. On MNIST all of it was run. Elsewhere a run stopped
early: with the transformer each seed once it had stayed above the threshold for 20
evaluations, on one-hots and parities all seeds once all of them had. *Final* is the
median test accuracy at the last step. A + behind a commit says that some file was
changed when the row was run, if only a table that the runs before it had left. Rows
that end in `-plateau` are the plain optimizer of the paper, run until it generalizes,
evaluated every 10 epochs. The pictures of the rows are what the EGD paper has in its
Figures 1 to 3, for all methods; its Figures 4 and 6 are at the end of the page.

Names that end in `-paper`, `sgd` and `adam` have their source's own settings. Those of
`egd-auto` and `egd-constant` are the same everywhere, from constants that were chosen
by hand ([how to tune](tuning.md)). The others were searched on other problems (MNIST:
on other splits of its images), each method with the same trials
(`python benchmarks/evidence/search.py`, [how](search.md)).
"""

STEPS = "![Steps to generalize](../benchmarks/evidence/results/race/steps.png)"
FOOT = """\
---

Made by `python benchmarks/evidence/_results_page.py` from the files in
`benchmarks/evidence/results/`.
"""


@dataclasses.dataclass(frozen=True)
class Extra:
    """A benchmark beside the races: its table and its pictures."""

    title: str
    name: str  # of the script and of the table
    pictures: tuple[str, ...]
    recipe: str | None = None  # the table's lines of that one alone
    lines: int = 14  # at most; a longer table is shown in steps
    legend: str = ""  # of columns that do not say what they are


EXTRA = (
    Extra("One optimizer, eight directions", "ladder", ("ladder.png",), lines=99),
    Extra("Polar factors, each with the others' settings", "exchange", ()),
    Extra(
        "Seconds to generalize",
        "clock",
        ("clock.png",),
        recipe="egd",  # all are in the picture
    ),
    Extra(
        "The two-feature problem",
        "toy",
        ("toy-error.png", "toy-plateau.png"),
        legend="*First* is the step at which the error is 1 % for the first time, *for "
        "good* the one after which it stays below.",
    ),
    Extra(
        "Singular values of the hidden layer's gradient",
        "spectrum",
        ("spectrum.png",),
    ),
    Extra(
        "Labels that change under way",
        "nonstationary",
        ("nonstationary.png",),
        legend="*Area* is the mean train accuracy over the run, *over the base* how "
        "many times that of the same optimizer without whitening.",
    ),
)
# Where generated parts stand in pages that are otherwise written by hand.
OVERVIEW, START, NOTHING = "overview", "starting points", "nothing set"


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the page of results, and parts of the README and of docs/tuning.md."""

    out: Path = Path(__file__).parents[2]
    """Folder that has docs/ and the README."""


def legend() -> str:
    """What the names of the methods stand for."""
    lines = [[f"`{name}`", recipe.source] for name, recipe in RECIPES.items()]
    return markdown([["method", "what it is"], *lines])


def race_section(name: str, cells: list[Cell], published: str) -> str:
    record = cells[0].record
    question = record["question"]
    commits, machines = (
        sorted({cell.record[name] for cell in cells}) for name in ("commit", "machine")
    )
    lines = [["method", "seeds", "first", "sustained", "epochs", "final"]]
    by_steps = sorted(cells, key=lambda cell: cell.crossing("first").median)
    for cell in by_steps:
        first = cell.crossing("first")
        reached = np.isfinite(first.median)
        epochs = f"{first.epochs.median:.0f}" if reached else "–"
        lines.append(
            [
                f"`{cell.recipe}`",
                str(len(cell.record["seeds"])),
                steps_text(cell, "first"),
                steps_text(cell, "sustained"),
                epochs,
                f"{100 * np.median(cell.final()):.1f} %",
            ]
        )
    plateau = " --plateau" if name.endswith(PLATEAU) else ""
    row = name.removesuffix(PLATEAU)
    picture = ""
    if (RESULTS / "race" / name / "race.png").exists():
        path = f"../benchmarks/evidence/results/race/{name}/race.png"
        picture = f"![Accuracy against the step]({path})\n"
    return (
        f"## {name}\n\n{question['task']}, {question['model']}, budget "
        f"{question['settings']['max_steps']} steps. Best published: {published}.\n\n"
        f"`python benchmarks/evidence/race.py --rows {row}{plateau}`, commit "
        f"{', '.join(commits)}, on {' and '.join(machines)}\n\n"
        f"{markdown(lines)}\n\n"
        f"{picture}"
    )


def extra_section(extra: Extra) -> str:
    machine, *lines = (RESULTS / f"{extra.name}.csv").read_text().splitlines()
    head, *body = csv.reader(lines)
    if extra.recipe is not None:
        body = [line for line in body if extra.recipe in line]
    shown = body[:: -(-len(body) // extra.lines)]
    images = [
        f"![{extra.title}](../benchmarks/evidence/results/{picture})"
        for picture in extra.pictures
    ]
    parts = [extra.legend, markdown([head, *shown]), *images]
    shows = "\n\n".join(filter(None, parts))
    return (
        f"## {extra.title}\n\n`python benchmarks/evidence/{extra.name}.py`, on "
        f"{machine.removeprefix('# ')}; from "
        f"[{extra.name}.csv](../benchmarks/evidence/results/{extra.name}.csv):\n\n"
        f"{shows}\n"
    )


def page(found: Sections) -> str:
    """The whole text."""
    sections = [HEAD, f"## Methods\n\n{legend()}\n"]
    sections.append(f"## Overview\n\n{summary(found)}\n\n{STEPS}\n")
    if found_by_search := searches():
        sections.append(f"## Search\n\n{found_by_search}")
    sections += [race_section(name, *cells) for name, cells in found.items()]
    sections += [
        extra_section(extra)
        for extra in EXTRA
        if (RESULTS / f"{extra.name}.csv").exists()
    ]
    sections.append(FOOT)
    return "\n".join(sections)


def race_results() -> Sections:
    """Cells of each row, and the best published result."""
    published = {row.name: row.published for row in rows("full")}
    return {
        name: (cells, published[name.removesuffix(PLATEAU)])
        for name, cells in found_cells(RESULTS / "race", published).items()
    }


def written_pages(root: Path) -> dict[Path, str]:
    """The text of each page, as the results have it."""
    found = race_results()
    readme, tuning = root / "README.md", root / "docs" / "tuning.md"
    regrets = nothing_set(cells_of(found))
    with_regrets = with_part(tuning.read_text(), NOTHING, regrets)
    return {
        root / "docs" / "results.md": page(found),
        readme: with_part(readme.read_text(), OVERVIEW, front_page(found)),
        tuning: with_part(with_regrets, START, start_table()),
    }


def main(options: Options) -> None:
    try:
        pages = written_pages(options.out)
    except CellError as error:
        sys.exit(f"results page: {error}")
    for path, text in pages.items():
        path.write_text(text)
        print(f"written: {path}")


if __name__ == "__main__":
    main(tyro.cli(Options))
