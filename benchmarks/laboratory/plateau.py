"""Where does the plateau go? One phase diagram each of AdamW and of EGD, on one grid.

    python benchmarks/laboratory/plateau.py  # an hour on two cores
    python benchmarks/laboratory/plateau.py --quick

a + b mod 59 by the two-layer net, over the share of the pairs that is trained on and
the weight decay, three seeds, all else as the search of the family set it (``egd-auto``
has no decay to set, and so no map). Grokking is what generalizes 200 steps or more
after it memorized. results/plateau.csv has the medians of every cell,
results/plateau.png the maps; results/plateau/METHOD/cells.csv has the seeds. What is
there is not run again.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import tyro

from benchmarks.laboratory._runs import run_grid
from benchmarks.shared import report
from egd_optax.grokking import figures
from egd_optax.grokking.phase_figure import phase_figure
from egd_optax.grokking.phases import Axis, Grid, phase
from egd_optax.grokking.problems.problem import Problem, modular, with_settings
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.training.devices import side_by_side

RESULTS = Path(__file__).parent / "results"
METHODS = ("adamw", "egd")
FRACTION = Axis("train_fraction", 0.2, 0.7, 6)
DECAY = Axis("weight_decay", 0.001, 3, 8)
BUDGET, GAP = 5000, 200


@dataclasses.dataclass(frozen=True)
class Options:
    """Maps where AdamW and EGD generalize at once, late or never."""

    quick: bool = False
    """Two cells a method, one seed, few steps."""
    out: Path = RESULTS
    """Folder for cells, table and picture."""


def main(options: Options) -> None:
    name = "plateau-quick" if options.quick else "plateau"
    grids = [_grid(method, quick=options.quick) for method in METHODS]
    found = {
        grid.optimizer: run_grid("plateau", grid, options.out / name / grid.optimizer)
        for grid in grids
    }
    title = f"{grids[0].problem_of({'train_fraction': 0.5}).task.name}, steps to 95 %"
    path = options.out / f"{name}.png"
    figures.save(phase_figure(grids, found, title=title), path)
    table = [
        {
            "method": grid.optimizer,
            "train fraction": trial.settings["train_fraction"],
            "weight decay": trial.settings["weight_decay"],
            "memorized": f"{trial.medians[0]:.0f}",
            "generalized": f"{trial.medians[1]:.0f}",
            "phase": phase(trial, grid.gap),
        }
        for grid in grids
        for trial in found[grid.optimizer]
    ]
    note = f"steps to 95 %, medians over seeds; grokking from {grids[0].gap} steps on"
    report(table, options.out / "plateau.csv", quick=options.quick, note=note)


def _grid(method: str, *, quick: bool) -> Grid:
    def problem_of(values: Mapping[str, float]) -> Problem:
        return with_settings(
            modular("addition", 59),
            seeds=(0,) if quick else (0, 1, 2),
            max_steps=60 if quick else BUDGET,
            **values,
        )

    x, y = FRACTION, DECAY
    if quick:
        x = dataclasses.replace(x, low=x.high, count=1)
        y = dataclasses.replace(y, count=2)
    base = RECIPES[method].settings["modular"]
    return Grid(problem_of, method, base, x, y, gap=GAP)


if __name__ == "__main__":
    side_by_side()
    main(tyro.cli(Options))
