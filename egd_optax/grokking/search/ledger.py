"""The trials of a search on disk, so that it goes on where it stopped."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egd_optax.grokking.differences import first_difference
from egd_optax.grokking.files import write_text
from egd_optax.grokking.search.trials import Settings, Trial
from egd_optax.grokking.training.devices import as_the_first_has

# Commented, as all tables of this package begin.
_HEAD = "# sha256 of the lines below: "
_ABOUT = ("optimizer", "refined after", "trial", "score")


class LedgerError(ValueError):
    """Files of another search, or damaged ones."""


class Ledger:
    """``trials.csv`` of a folder, and in ``search.json`` which search it is of.

    Args:
      folder: exists.
      question: what the results depend on, as JSON.
      problems: names of the problems, in their order.
      budgets: steps of each.
      name: of the table, without its suffix.

    Raises:
      LedgerError: the folder has another search, or a table that is damaged.
    """

    def __init__(
        self,
        folder: Path,
        question: Mapping[str, Any],
        problems: Sequence[str],
        budgets: Sequence[int],
        name: str = "trials",
    ):
        self.path = folder / f"{name}.csv"
        self.budgets = tuple(budgets)
        self._problems = tuple(problems)
        about = folder / f"{'search' if name == 'trials' else name}.json"
        asked = json.loads(json.dumps(dict(question)))
        if about.exists():
            self._check_question(about, asked)
        elif self.path.exists():
            raise LedgerError(f"{self.path} is of another search: choose another --out")
        self.trials = self._read() if self.path.exists() else []
        if not about.exists():
            write_text(about, json.dumps(asked, indent=2) + "\n")

    def find(
        self, optimizer: str, after: int, number: int, settings: Settings
    ) -> Trial | None:
        """The finished trial, if it is there.

        Raises:
          LedgerError: it is there with other settings.
        """
        for trial in self.trials:
            if trial.key == (optimizer, after, number):
                if trial.settings != dict(settings):
                    raise LedgerError(
                        f"{self.path} has other settings for trial {number} of "
                        f"{optimizer}: choose another --out"
                    )
                return trial
        return None

    def by_optimizer(self) -> dict[str, list[Trial]]:
        """All that is done, of each method."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(trial.optimizer, []).append(trial)
        return found

    def add(self, trials: Iterable[Trial]) -> None:
        """Writes the table with these trials, too."""
        self.trials += trials
        table = self.text()
        write_text(self.path, f"{_HEAD}{_digest(table)}\n{table}")

    def text(self) -> str:
        """The table: a line a trial."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.settings)
        steps, accuracies = self._columns()
        text = io.StringIO()
        writer = csv.DictWriter(
            text, [*_ABOUT, *steps, *accuracies, *names], lineterminator="\n"
        )
        writer.writeheader()
        for trial in self.trials:
            results = [*trial.steps, *trial.accuracies]
            found = [" ".join(map(_number, each)) for each in results]
            writer.writerow(
                {
                    "optimizer": trial.optimizer,
                    "refined after": trial.after or "",
                    "trial": trial.number,
                    "score": f"{trial.score(self.budgets):.1f}",
                    **dict(zip([*steps, *accuracies], found, strict=True)),
                    **{name: _number(x) for name, x in trial.settings.items()},
                }
            )
        return text.getvalue()

    def _read(self) -> list[Trial]:
        steps, accuracies = self._columns()
        known = {*_ABOUT, *steps, *accuracies}
        trials = []
        try:
            head, table = self.path.read_text(encoding="utf-8").split("\n", 1)
            if head != _HEAD + _digest(table):
                raise ValueError("other than what was written")
            for row in csv.DictReader(table.splitlines()):
                settings = {
                    name: float(value)
                    for name, value in row.items()
                    if name not in known and value
                }
                found = [
                    tuple(tuple(map(float, row[name].split())) for name in columns)
                    for columns in (steps, accuracies)
                ]
                trials.append(
                    Trial(
                        row["optimizer"],
                        int(row["refined after"] or 0),
                        int(row["trial"]),
                        settings,
                        *found,
                    )
                )
        except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
            raise LedgerError(
                f"{self.path} is damaged: restore it, or choose another --out"
            ) from error
        return trials

    def _columns(self) -> tuple[list[str], list[str]]:
        steps = [f"steps {problem}" for problem in self._problems]
        return steps, [f"accuracy {problem}" for problem in self._problems]

    def _check_question(self, about: Path, asked: dict[str, Any]) -> None:
        try:
            there = json.loads(about.read_text(encoding="utf-8"))
            difference = first_difference(there, asked) if there != asked else None
        except (ValueError, TypeError, AttributeError) as error:
            raise LedgerError(
                f"{about} is damaged: restore it, or choose another --out"
            ) from error
        if difference is not None:
            where, old, new = difference
            raise LedgerError(
                f"{about.parent} has another search: {where} is {old} there and {new} "
                "here; choose another --out"
            )


def places_of_missing(found: Sequence[Trial | None]) -> list[int]:
    """Where the first process has none, which alone has a ledger."""
    none = as_the_first_has(np.array([trial is None for trial in found]))
    return np.flatnonzero(none).tolist()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _number(value: float) -> str:
    whole = math.isfinite(value) and value == int(value)
    return str(int(value)) if whole else repr(float(value))
