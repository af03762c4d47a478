"""What is whitening worth? One optimizer, eight directions, all else equal.

    python benchmarks/evidence/ladder.py  # a second, after race.py and clock.py
    python benchmarks/evidence/ladder.py --quick

The directions were tuned with equal trials (search.py) and raced (race.py). The table
has the geometric mean over the rows of a family of the median steps, and of the seconds
that these take (clock.py), for one seed without compilation; and both relative to the
exact polar factor. Empty: not run on all rows; a dash: a row was not solved. Table and
picture go to results/ladder.csv and ladder.png.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import tyro

from benchmarks import charts
from benchmarks.evidence._cells import RESULTS, found_cells
from benchmarks.evidence._means import Mean, family_means, seconds_to_generalize
from benchmarks.evidence._rows import rows
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
    table, points = [], {}
    for family, found in means.items():
        exact = found.get(EXACT, Mean(math.inf, math.inf))
        points[family] = {
            name: np.array([[found[name].seconds, found[name].steps]])
            for name in LADDER
            if name in found and all(map(math.isfinite, found[name]))
        }
        for name in LADDER:
            mean = found.get(name)
            line: dict[str, object] = {"family": family, "direction": name}
            for kind in Mean._fields:
                value = math.nan if mean is None else getattr(mean, kind)
                line[kind] = _number(value)
                line[f"{kind} / exact"] = _number(value / getattr(exact, kind))
            table.append(line)
    note = "geometric means over the rows of a family; seconds of one seed"
    report(table, options.out / "ladder.csv", quick=options.quick, note=note)
    shown = {family: found for family, found in points.items() if found}
    if shown:
        picture = charts.panels(
            shown, x_label="seconds to generalize", y_label="steps", columns=2
        )
        name = "ladder-quick.png" if options.quick else "ladder.png"
        figures.save(picture, options.out / name)


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.3g}" if math.isfinite(value) else "–"


if __name__ == "__main__":
    main(tyro.cli(Options))
