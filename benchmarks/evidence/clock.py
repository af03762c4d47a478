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
and clock.png. All steps are timed in one run and stand in results/clock/times.csv:
where it has all recipes, nothing is timed again, and only what the races say is taken
anew; delete it to have all timed again.
"""

import dataclasses
import math
from pathlib import Path

import tyro
from rich.progress import track

from benchmarks import charts
from benchmarks.evidence._cells import Cell, found_cells
from benchmarks.evidence._rows import Row, recipes, rows
from benchmarks.shared import measured_on, read_table, report
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


def time_all(
    chosen: list[Row], every: dict[str, list[str]], repeats: int
) -> list[dict[str, object]]:
    """A line for each recipe of each row, measured in one run."""
    alike: dict[str, list[Row]] = {}
    for row in chosen:
        alike.setdefault(_shapes(row), []).append(row)
    table: list[dict[str, object]] = []
    for same in alike.values():
        asked = dict.fromkeys(name for row in same for name in every[row.name])
        times = step_times(same[0], list(asked), repeats)
        for row in same:
            for name in every[row.name]:
                ms = times.get(name)
                line = {
                    "row": row.name,
                    "recipe": name,
                    "ms": f"{ms:.4g}" if ms else "skipped",
                    "ratio": f"{ms / times['adamw']:.2f}" if ms else "",
                }
                table.append(line)
    return table


def times_of(options: Options, chosen: list[Row], every: dict[str, list[str]]) -> Path:
    """The table of all times, measured where it lacks one."""
    path = options.out / "clock" / ("times-quick.csv" if options.quick else "times.csv")
    there = {(line["row"], line["recipe"]) for line in read_table(path)}
    asked = {(row, name) for row, names in every.items() for name in names}
    if options.quick or not asked <= there:
        repeats = 2 if options.quick else options.repeats
        times = time_all(chosen, every, repeats)
        note = f"medians of {repeats} epochs; ratio: a step of AdamW is 1"
        report(times, path, quick=False, note=note)
    return path


def main(options: Options) -> None:
    chosen = list(rows("full"))[: 1 if options.quick else None]
    every = {
        row.name: ["egd", "adamw"] if options.quick else recipes("full", row)
        for row in chosen
    }
    path = times_of(options, chosen, every)
    races = found_cells(options.out / "race", every)
    raced = {(row, cell.recipe): cell for row in races for cell in races[row]}
    points: dict[str, dict[str, float]] = {row: {} for row in every}
    table: list[dict[str, object]] = []
    for time in read_table(path):
        row, name = time["row"], time["recipe"]
        if name not in every[row]:
            continue
        steps, seconds = _steps(raced.get((row, name))), ""
        if time["ratio"] and math.isfinite(steps):
            points[row][name] = float(time["ms"]) * steps / 1e3
            seconds = f"{points[row][name]:.3g}"
        table.append(
            {**time, "steps": f"{steps:.0f}" if seconds else "", "seconds": seconds}
        )
    report(
        table,
        options.out / "clock.csv",
        quick=options.quick,
        note="ratio: a step of AdamW is 1; seconds of one seed",
        measured=measured_on(path),
    )
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
