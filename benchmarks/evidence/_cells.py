"""Cells of a table: a problem, a recipe, all seeds; run once, then read from disk."""

import dataclasses
import gzip
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared import commit, machine
from egd_optax.grokking.differences import first_difference
from egd_optax.grokking.files import replacing
from egd_optax.grokking.measures import measures
from egd_optax.grokking.problems.problem import Problem
from egd_optax.grokking.recipes import RECIPES, settings_to_json
from egd_optax.grokking.training.checkpoints import CheckpointError, Checkpoints
from egd_optax.grokking.training.history import Crossing, History
from egd_optax.grokking.training.run import train

RESULTS = Path(__file__).parent / "results"
_KEPT_EVALUATIONS = 120
# In steps of each seed, minutes of a large model; and how many a long run has.
_CHECKPOINT_EVERY = 200
_CHECKPOINTS = 50
SUFFIX = ".json.gz"
# What reading bytes that are no cell can raise, gzip's ways among them.
_DAMAGED = (
    *(AttributeError, KeyError, RecursionError, TypeError, ValueError),
    *(EOFError, gzip.BadGzipFile, zlib.error),
)
PLATEAU = "-plateau"  # what follows a row's name for the baseline run to its end


class CellError(ValueError):
    """A result on disk that is damaged, or none of the race."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is known of one recipe on one problem."""

    row: str
    recipe: str
    record: dict[str, Any]

    def crossing(self, kind: str) -> Crossing:
        """When each seed reached the threshold; kind is first or sustained."""
        steps = np.array([np.inf if x is None else x for x in self.record[kind]])
        return Crossing(steps, self.record["steps_per_epoch"])

    def final(self) -> np.ndarray:
        """Test accuracy of each seed at the last step."""
        return np.array(self.record["final_test_accuracy"])

    def history(self) -> History:
        """The curves, thinned to about a hundred evaluations."""
        record = self.record
        return History(
            seeds=tuple(record["seeds"]),
            steps=np.array(record["curve_steps"]),
            steps_per_epoch=record["steps_per_epoch"],
            metrics={k: np.array(v, float) for k, v in record["curves"].items()},
        )


def run_cell(
    folder: Path,
    row: str,
    recipe: str,
    problem: Problem,
    report: Callable[[History], None],
    measured: Sequence[str] = (),
) -> Cell:
    """The cell from ``folder`` where it was run before, else a run.

    A run that was killed goes on from its last checkpoint. Curves of the measures that
    are named are kept beside those of accuracy.

    Raises:
      CellError: what is there is damaged, or was run with other settings.
      OSError: the disk does not take the result.
    """
    if found := finished_cell(folder, row, recipe, problem):
        return found
    path, question = _path(folder, row, recipe), _question(recipe, problem)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = path.with_name(f"{recipe}.unfinished")
    every = max(_CHECKPOINT_EVERY, problem.settings.max_steps // _CHECKPOINTS)
    identity = {"question": json.dumps(question), "measures": " ".join(measured)}
    try:
        history = train(
            problem.task,
            problem.make_model,
            RECIPES[recipe].make(problem),
            problem.settings,
            report=report,
            checkpoints=Checkpoints(state, every, identity, resume=True),
            measures=measures(measured),
        )
    except CheckpointError as error:
        raise CellError(f"{error}; or delete {state}") from error
    record = {
        "question": question,
        **_measured(history, problem.settings.threshold),
    }
    with replacing(path) as temporary:
        whole = record | {"sha256": _digest(record)}
        text = json.dumps(whole, allow_nan=False) + "\n"
        # No time in it: the same cell is the same file.
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))
    shutil.rmtree(state, ignore_errors=True)
    return Cell(row, recipe, record)


def finished_cell(folder: Path, row: str, recipe: str, problem: Problem) -> Cell | None:
    """The cell on disk, None where there is none.

    Raises:
      CellError: it is damaged, or was run with other settings.
    """
    path = _path(folder, row, recipe)
    if not path.exists():
        return None
    found = _read(path, row)
    asked, there = _question(recipe, problem), found.record["question"]
    if there != asked:
        name, old, new = first_difference(there, asked)
        raise CellError(
            f"{path} was run with other settings, {name} {old} and not {new}: choose "
            "another --out, or delete it to have it run again"
        )
    return found


def _path(folder: Path, row: str, recipe: str) -> Path:
    return folder / row / f"{recipe}{SUFFIX}"


def _question(recipe: str, problem: Problem) -> dict[str, Any]:
    """All that a result depends on, as JSON gives it back: lists for tuples."""
    question = {
        "task": problem.task.name,
        "model": problem.model_name,
        "settings": problem.settings.described(),
        "recipe": settings_to_json(RECIPES[recipe].settings[problem.family]),
        "learning_rate": problem.learning_rate,
        "weight_decay": problem.weight_decay,
    }
    return json.loads(json.dumps(question))


def found_cells(folder: Path, rows: Iterable[str]) -> dict[str, list[Cell]]:
    """The cells on disk, by row, a plateau's after its row.

    Raises:
      CellError: one of them is damaged.
    """
    found = {
        name: [_read(path, name) for path in sorted((folder / name).glob(f"*{SUFFIX}"))]
        for row in rows
        for name in (row, row + PLATEAU)
    }
    return {name: cells for name, cells in found.items() if cells}


def _read(path: Path, row: str) -> Cell:
    try:
        record = json.loads(gzip.decompress(path.read_bytes()))
        intact = record.pop("sha256") == _digest(record)
    except _DAMAGED:
        intact = False
    if not intact:
        raise CellError(
            f"{path} is damaged, or no result of this race: restore it, or delete it "
            "to have it run again"
        )
    return Cell(row, path.name.removesuffix(SUFFIX), record)


def _digest(record: dict[str, Any]) -> str:
    """Of the numbers and words themselves; how they are spaced says nothing."""
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _measured(history: History, threshold: float) -> dict[str, Any]:
    rows = len(history.steps)
    kept = np.unique(np.geomspace(1, rows, _KEPT_EVALUATIONS).round().astype(int)) - 1
    measured = [
        name
        for name in history.metrics
        if not name.startswith(("train_", "validation_", "test_"))
    ]
    if measured:
        # What moves first is seen between neighbours, and beside the losses alone.
        kept, measured = np.arange(rows), ["train_loss", "test_loss", *measured]
    return {
        "machine": machine(),
        "commit": commit(),
        "threshold": threshold,
        "seeds": list(history.seeds),
        "steps_per_epoch": history.steps_per_epoch,
        "steps_run": int(history.steps[-1]),
        "first": _numbers(history.first_crossing(threshold).steps),
        "sustained": _numbers(history.sustained_crossing(threshold).steps),
        "final_test_accuracy": _rounded(history.final()),
        "final_train_accuracy": _rounded(history.final("train_accuracy")),
        "compile_seconds": round(history.compile_seconds, 2),
        "run_seconds": round(history.run_seconds, 2),
        "curve_steps": history.steps[kept].tolist(),
        "curves": {
            name: [_rounded(values) for values in history.metrics[name][kept]]
            for name in ("train_accuracy", "test_accuracy")
        }
        | {
            name: [
                [float(f"{x:.4g}") if np.isfinite(x) else None for x in row]
                for row in history.metrics[name][kept]
            ]
            for name in measured
        },
    }


def _numbers(steps: np.ndarray) -> list[int | None]:
    return [int(step) if np.isfinite(step) else None for step in steps]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
