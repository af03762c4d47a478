"""Phase diagrams as a coloured map and as a table."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rich.table import Table

from egd_optax.grokking.figures import open_axes
from egd_optax.grokking.phases import PHASES, Axis, Grid, phase
from egd_optax.grokking.search.trials import Trial
from egd_optax.grokking.tables import terminal_table

# Light enough for black figures on them, and apart for the colour-blind.
_COLORS = dict(zip(PHASES, ("#7FCDA9", "#F2B66D", "#9CC7E8", "#D9D9D9"), strict=True))
# More cells than this are too small for a number in each.
_NUMBERED = 12


def phase_figure(
    grids: Sequence[Grid], found: Mapping[str, Sequence[Trial]], *, title: str
) -> Figure:
    """A map for each optimizer, its cells with the steps that they took."""
    x, y = grids[0].x, grids[0].y
    wide, high = len(x.values), len(y.values)
    panel = min(max(0.62 * wide, 3.2), 8.0)
    figure = Figure(
        figsize=(len(grids) * panel + 1.2, min(max(0.42 * high, 2.6), 8.0) + 1.6),
        layout="constrained",
    )
    panels = figure.subplots(1, len(grids), squeeze=False, sharey=True)[0]
    for axes, grid in zip(panels, grids, strict=True):
        _map(axes, grid, found[grid.optimizer], numbered=wide <= _NUMBERED)
        axes.set_title(grid.optimizer, loc="left")
        axes.set_xlabel(_label(x))
    panels[0].set_ylabel(_label(y))
    figure.suptitle(title, x=0.01, ha="left", parse_math=False)
    figure.legend(
        handles=[Patch(color=_COLORS[kind], label=kind) for kind in PHASES],
        loc="outside lower center",
        ncols=len(PHASES),
        frameon=False,
    )
    return figure


def _map(axes: Axes, grid: Grid, trials: Sequence[Trial], *, numbered: bool) -> None:
    shape = len(grid.y.values), len(grid.x.values)
    kinds = [phase(trial, grid.gap) for trial in trials]
    colors = np.array([to_rgb(_COLORS[kind]) for kind in kinds]).reshape(*shape, 3)
    axes.imshow(colors, origin="lower", aspect="auto")
    for place, trial in enumerate(trials if numbered else ()):
        row, column = divmod(place, shape[1])
        axes.text(column, row, _steps(trial), ha="center", va="center", fontsize=8)
    for axis, ticks in (axes.xaxis, grid.x), (axes.yaxis, grid.y):
        every = range(0, len(ticks.values), math.ceil(len(ticks.values) / _NUMBERED))
        axis.set_ticks(list(every), [f"{ticks.values[i]:g}" for i in every])
    axes.tick_params(axis="x", labelrotation=45 if shape[1] > 6 else 0)
    axes.set_xticks(np.arange(shape[1]) - 0.5, minor=True)
    axes.set_yticks(np.arange(shape[0]) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="both", length=0)
    open_axes(axes)


def phase_table(grid: Grid, trials: Sequence[Trial], *, title: str) -> Table:
    """The same for a terminal: rows are the second axis, the greatest value first."""
    caption = (
        f"Rows: {_label(grid.y)}. Median steps to the threshold on test examples; "
        f"C comprehension, G grokking: at least {grid.gap} steps after memorization, M "
        "memorization alone, – confusion."
    )
    table = terminal_table(
        [f"{x:g}" for x in grid.x.values],
        title=f"{grid.optimizer}: {title}",
        caption=caption,
        first=_label(grid.x),
    )
    wide = len(grid.x.values)
    letters = dict(zip(PHASES, "CGM–", strict=True))
    for row, y in reversed([*enumerate(grid.y.values)]):
        cells = trials[row * wide : (row + 1) * wide]
        words = [f"{letters[phase(t, grid.gap)]} {_steps(t)}".strip() for t in cells]
        table.add_row(f"{y:g}", *words)
    return table


def _steps(trial: Trial) -> str:
    _, generalized = trial.medians
    return f"{generalized:.0f}" if math.isfinite(generalized) else ""


def _label(axis: Axis) -> str:
    return axis.name.replace("_", " ")
