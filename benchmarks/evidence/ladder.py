"""What is whitening worth? One optimizer, eight directions, each searched alike.

    python benchmarks/evidence/ladder.py  # a second, after race.py and clock.py
    python benchmarks/evidence/ladder.py --quick

The directions were tuned with equal trials (search.py) and raced (race.py); a family
that not all of them were raced on with what the search found is left out. "solved" is
how many of a family's rows a direction generalized on, in the median over the seeds.
Where it is all of them: the geometric mean over the rows of the median steps, and of
the seconds that these take (clock.py), for one seed without compilation; and both
relative to the exact polar factor, where that solved all of them, too. Table and
picture go to results/ladder.csv and ladder.png.
"""

import dataclasses
import math
from pathlib import Path

import tyro

from benchmarks import charts
from benchmarks.evidence._cells import RESULTS, found_cells
from benchmarks.evidence._means import Mean, family_means, seconds_to_generalize
from benchmarks.evidence._rows import rows
from benchmarks.evidence._summary import FAMILY_ROWS, is_on_equal_terms
from benchmarks.shared import report
from egd_optax.grokking import figures

# From what knows least of the gradient's matrix to what knows most.
LADDER = (
    "momentum",
    "sign",
    "frobenius",
    "columns",
    "rows",
    "five-steps",
    "randomized",
    "egd",
)
EXACT = "egd"


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares the directions."""

    quick: bool = False
    """Table and picture of what is there, to files of their own."""
    out: Path = RESULTS
    """Folder for the table and the picture."""


def main(options: Options) -> None:
    every = list(rows("full"))
    cells = found_cells(RESULTS / "race", [row.name for row in every])
    means = family_means(every, cells, seconds_to_generalize(cells))
    table: list[dict[str, object]] = []
    panels: dict[str, dict[str, float]] = {}
    for family, found in means.items():
        if not is_on_equal_terms(family, cells) or not found.keys() >= set(LADDER):
            continue
        names = FAMILY_ROWS[family]
        for kind in Mean._fields:
            panels[f"{family}: {kind}"] = {n: getattr(found[n], kind) for n in LADDER}
        for name in LADDER:
            solved = sum(
                math.isfinite(cell.crossing("first").median)
                for row in names
                for cell in cells[row]
                if cell.recipe == name
            )
            line: dict[str, object] = {
                "family": family,
                "direction": name,
                "solved": f"{solved} of {len(names)}",
            }
            for kind in Mean._fields:
                mean, exact = (getattr(found[n], kind) for n in (name, EXACT))
                line[kind] = _number(mean)
                line[f"{kind} / exact"] = _number(
                    mean / exact if exact < math.inf else math.inf
                )
            table.append(line)
    note = "geometric means over the rows of a family; seconds of one seed"
    report(table, options.out / "ladder.csv", quick=options.quick, note=note)
    picture = charts.rankings(
        panels, x_label="geometric mean over a family's rows", columns=2
    )
    name = "ladder-quick.png" if options.quick else "ladder.png"
    figures.save(picture, options.out / name)


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


if __name__ == "__main__":
    main(tyro.cli(Options))
