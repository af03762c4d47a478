"""Writes docs/results.md and the README's overview from what is in results/.

python benchmarks/evidence/_results_page.py
"""

import csv
import dataclasses
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tyro

from benchmarks.evidence._cells import PLATEAU, Cell, CellError, found_cells
from benchmarks.evidence._means import family_means, seconds_of
from benchmarks.evidence._rows import rows
from benchmarks.evidence._searched import searched
from benchmarks.evidence._tables import steps_text
from egd_optax.grokking.summary import seeds_in_words

RESULTS = Path(__file__).parent / "results"

HEAD = """\
# Results

**Not on equal terms yet.** `egd` was tuned more widely than the other methods, and the
transformer's budget ends before what some of their own papers report. On a + b mod 83
optax's Muon, with the schedule and decay of `egd` and `adam_learning_rate=1e-3`, takes
54 steps, `egd` 60: the README says under *Measured* what is known.

**How to read the tables.** *First* is the step at which test accuracy first reaches
the threshold (95 %, MNIST 85 %), *sustained* the step after which it never falls below
again. Both are medians over the seeds, with the range in brackets. All methods of a
row had the same budget of steps. On MNIST and with the transformer all of it was run;
elsewhere a run stopped early once all seeds had stayed above the threshold for 20
evaluations. *Final* is the median test accuracy at the last step. Rows that end in
`-plateau` are the plain optimizer of the paper, run until it generalizes, evaluated
every 10 epochs. The pictures of the rows are what the EGD paper has in its Figures 1 to
3, for all methods; its Figures 4 and 6 are at the end of the page.
Settings that are not a source's own were chosen on other problems
([how](../benchmarks/evidence/development.py):
`python benchmarks/evidence/development.py`; tables `development-*.csv`).
"""

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


EXTRA = (
    Extra(
        "Seconds to generalize",
        "clock",
        ("race/steps.png", "clock.png"),
        recipe="egd",  # all are in the picture
    ),
    Extra(
        "The two-feature problem",
        "toy",
        ("toy-error.png", "toy-plateau.png"),
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
    ),
)
_SHOWN_LINES = 14
ASKED_FOR = ("egd", "muon", "columns", "adamw")
PLATEAUS = {row.name for row in rows("full") if row.plateau is not None}
MARKS = "<!-- overview -->", "<!-- end of overview -->"


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the page of results and the overview in the README."""

    out: Path = Path(__file__).parents[2]
    """Folder that has docs/ and the README."""


def table(lines: Iterable[Iterable[object]]) -> str:
    head, *body = ([str(field) for field in line] for line in lines)
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def race_section(name: str, cells: list[Cell], published: str) -> str:
    record = cells[0].record
    question = record["question"]
    seeds = seeds_in_words(len(record["seeds"]))
    commits, machines = (
        sorted({cell.record[name] for cell in cells}) for name in ("commit", "machine")
    )
    lines = [["method", "first", "sustained", "epochs", "final"]]
    by_steps = sorted(cells, key=lambda cell: cell.crossing("first").median)
    for cell in by_steps:
        first = cell.crossing("first")
        reached = np.isfinite(first.median)
        epochs = f"{first.epochs.median:.0f}" if reached else "–"
        lines.append(
            [
                f"`{cell.recipe}`",
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
        f"## {name}\n\n{question['task']}, {question['model']}, {seeds}, budget "
        f"{question['settings']['max_steps']} steps. Best published: {published}.\n\n"
        f"`python benchmarks/evidence/race.py --rows {row}{plateau}`, commit "
        f"{', '.join(commits)}, on {' and '.join(machines)}\n\n"
        f"{table(lines)}\n\n"
        f"{picture}"
    )


def overview(sections: dict[str, tuple[list[Cell], str]]) -> str:
    """Who was first, and the methods that a reader will ask for; one line a problem."""
    seconds = seconds_of(RESULTS)
    head = ["problem", "published", "first by steps", *(f"`{n}`" for n in ASKED_FOR)]
    lines = [[*head, "first by the clock", "plateau of `sgd`"]]
    for name, (cells, published) in sections.items():
        if name.endswith(PLATEAU):
            continue
        found = {cell.recipe: cell for cell in cells}
        lines.append(
            [
                name,
                published,
                soonest({n: c.crossing("first").median for n, c in found.items()}),
                *(
                    steps_text(found[n], "first") if n in found else "not run"
                    for n in ASKED_FOR
                ),
                soonest(
                    {n: seconds.get((name, n), math.inf) for n in found}, unit=" s"
                ),
                _plateau(name, sections),
            ]
        )
    return table(lines)


def soonest(found: dict[str, float], unit: str = "") -> str:
    """All that share the least value, and it."""
    least = min(found.values(), default=math.inf)
    if math.isinf(least):
        return "–"
    names = [f"`{name}`" for name in sorted(found) if found[name] == least]
    return f"{', '.join(names)}: {_number(least)}{unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def families(sections: dict[str, tuple[list[Cell], str]], kind: str) -> str:
    """The methods of each family in the order of their means, one line a family."""
    cells = {name: found for name, (found, _) in sections.items()}
    means = family_means(rows("full"), cells, seconds_of(RESULTS))
    lines = [["family", "tuned", f"{kind}, geometric mean over its problems"]]
    for family, found in means.items():
        reached = {n: getattr(mean, kind) for n, mean in found.items()}
        ranked = sorted(
            (n for n, value in reached.items() if math.isfinite(value)),
            key=lambda n: reached[n],
        )
        tuned = "alike" if searched(family) else "not yet alike"
        text = ", ".join(f"`{n}` {_number(reached[n])}" for n in ranked) or "–"
        lines.append([family, tuned, text])
    return table(lines)


def _plateau(row: str, sections: dict[str, tuple[list[Cell], str]]) -> str:
    """When the plain optimizer of the paper generalizes."""
    if row not in PLATEAUS:
        return "–"
    if row + PLATEAU not in sections:
        return "not run"
    (cell,), _ = sections[row + PLATEAU]
    return steps_text(cell, "first")


def extra_section(extra: Extra) -> str:
    machine, *lines = (RESULTS / f"{extra.name}.csv").read_text().splitlines()
    head, *body = csv.reader(lines)
    if extra.recipe is not None:
        body = [line for line in body if extra.recipe in line]
    # A long table is shown in steps.
    shown = body[:: -(-len(body) // _SHOWN_LINES)]
    images = "\n\n".join(
        f"![{extra.title}](../benchmarks/evidence/results/{picture})"
        for picture in extra.pictures
    )
    return (
        f"## {extra.title}\n\n`python benchmarks/evidence/{extra.name}.py`, on "
        f"{machine.removeprefix('# ')}; from "
        f"[{extra.name}.csv](../benchmarks/evidence/results/{extra.name}.csv):\n\n"
        f"{table([head, *shown])}\n\n{images}\n"
    )


def summary(found: dict[str, tuple[list[Cell], str]]) -> str:
    """The tables that say who is first."""
    return "\n\n".join(
        [families(found, "steps"), families(found, "seconds"), overview(found)]
    )


def page(found: dict[str, tuple[list[Cell], str]]) -> str:
    """The whole text."""
    sections = [HEAD, f"## Overview\n\n{summary(found)}\n"]
    sections += [race_section(name, *cells) for name, cells in found.items()]
    sections += [
        extra_section(extra)
        for extra in EXTRA
        if (RESULTS / f"{extra.name}.csv").exists()
    ]
    sections.append(FOOT)
    return "\n".join(sections)


def race_results() -> dict[str, tuple[list[Cell], str]]:
    """Cells of each row, and the best published result."""
    published = {row.name: row.published for row in rows("full")}
    return {
        name: (cells, published[name.removesuffix(PLATEAU)])
        for name, cells in found_cells(RESULTS / "race", published).items()
    }


def with_overview(text: str, found: dict[str, tuple[list[Cell], str]]) -> str:
    """The README's text with the overview as it is now."""
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    return "\n\n".join([before + MARKS[0], summary(found), MARKS[1] + after])


def main(options: Options) -> None:
    readme = options.out / "README.md"
    written = options.out / "docs" / "results.md"
    try:
        found = race_results()
    except CellError as error:
        sys.exit(f"results page: {error}")
    written.write_text(page(found))
    readme.write_text(with_overview(readme.read_text(), found))
    print(f"written: {written}, {readme}")


if __name__ == "__main__":
    main(tyro.cli(Options))
