"""Seconds to generalize: what a step of each recipe takes, times the steps of the race.

    python benchmarks/evidence/clock.py  # some minutes on two cores, after race.py
    python benchmarks/evidence/clock.py --quick

A race runs for hours, often beside other work, so that its own clock says little. Here
the recipes of a row take turns, one warm epoch of training steps each (forward,
backward, update) in a compiled loop, as in a race, and the median counts. A step that
is called alone from Python takes longer (benchmarks/speed/overhead.py). Rows whose
models and batches have the same shapes share one measurement. "seconds" is the time of
a step times the median of the steps to the threshold in race/ of the same folder, for
one seed, without compilation and evaluations. Table and picture go to results/clock.csv
and clock.png.
"""

import dataclasses
import math
from pathlib import Path

import tyro
from rich.progress import track

from benchmarks import charts
from benchmarks.evidence._cells import Cell, found_cells
from benchmarks.evidence._rows import Row, recipes, rows
from benchmarks.shared import report
from benchmarks.speed._steps import Training, by_epochs, milliseconds, workbench
from egd_optax.grokking import figures
from egd_optax.grokking.recipes import RECIPES


@dataclasses.dataclass(frozen=True)
class Options:
    """Times the steps of every recipe."""

    repeats: int = 15
    """Epochs of each recipe."""
    quick: bool = False
    """Two recipes on one row, two epochs."""
    out: Path = Path(__file__).parent / "results"
    """Folder for clock.csv and clock.png, and of race/."""


def step_times(row: Row, names: list[str], repeats: int) -> dict[str, float]:
    """Milliseconds of a warm step of each recipe."""
    steps = workbench(row.name, row.problem)
    model, count = by_epochs(steps), len(steps.batches)
    epochs = {
        name: Training(model, RECIPES[name].make(row.problem), in_a_loop=True)
        for name in track(names, f"compiling {row.name}", transient=True)
    }
    times = milliseconds(epochs, model.batches, repeats, max_seconds=60)
    return {name: ms / count for name, ms in times.items()}


def main(options: Options) -> None:
    chosen = list(rows("full"))[: 1 if options.quick else None]
    repeats = 2 if options.quick else options.repeats
    cells = found_cells(options.out / "race", [row.name for row in chosen])
    every = {
        row.name: ["egd", "adamw"] if options.quick else recipes("full", row)
        for row in chosen
    }
    alike: dict[str, list[Row]] = {}
    for row in chosen:
        alike.setdefault(_shapes(row), []).append(row)
    measured: dict[str, dict[str, float]] = {}
    table, points = [], {}
    for row in chosen:
        names, shapes = every[row.name], _shapes(row)
        if shapes not in measured:
            asked = dict.fromkeys(n for r in alike[shapes] for n in every[r.name])
            measured[shapes] = step_times(row, list(asked), repeats)
        times = measured[shapes]
        raced = {cell.recipe: cell for cell in cells.get(row.name, ())}
        points[row.name] = {}
        for name in names:
            steps = _steps(raced.get(name))
            ms = times.get(name)
            line = {
                "row": row.name,
                "recipe": name,
                "ms": f"{ms:.3g}" if ms else "skipped",
                "ratio": f"{ms / times['adamw']:.2f}" if ms else "",
                "steps": "",
                "seconds": "",
            }
            if ms and math.isfinite(steps):
                seconds = ms * steps / 1e3
                line |= {"steps": f"{steps:.0f}", "seconds": f"{seconds:.3g}"}
                points[row.name][name] = seconds
            table.append(line)
    note = f"medians of {repeats} epochs; ratio: a step of AdamW is 1"
    report(table, options.out / "clock.csv", quick=options.quick, note=note)
    picture = charts.rankings(points, x_label="seconds to generalize, one seed")
    name = "clock-quick.png" if options.quick else "clock.png"
    figures.save(picture, options.out / name)


def _shapes(row: Row) -> str:
    """Rows that have these alike take the same time for a step."""
    return f"{row.problem.model_name}, {row.problem.task.inputs.shape[1:]}"


def _steps(cell: Cell | None) -> float:
    """To the threshold, median over the seeds; infinite where it was not reached."""
    return math.inf if cell is None else cell.crossing("first").median


if __name__ == "__main__":
    main(tyro.cli(Options))
