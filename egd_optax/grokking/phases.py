"""Phase diagrams: what becomes of a run, over two axes."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egd_optax.grokking.problems.problem import Problem
from egd_optax.grokking.problems.settings import WRONG_LABELS
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.search.interruption import deferred_interruption
from egd_optax.grokking.search.ledger import Ledger, places_of_missing
from egd_optax.grokking.search.runs import Runner
from egd_optax.grokking.search.trials import Settings, Trial

# What can be an axis: whether its values are spaced by their logarithms, and which it
# may have.
_OF_THE_OPTIMIZER = {"learning_rate": True, "weight_decay": True}
_WHOLE = {"width": True, "modulus": True}
_SHARES = {"train_fraction": False} | dict.fromkeys(WRONG_LABELS, False)
AXES = _SHARES | _OF_THE_OPTIMIZER | _WHOLE

PHASES = ("comprehension", "grokking", "memorization", "confusion")


@dataclasses.dataclass(frozen=True)
class Axis:
    """Some values of one thing, from the least to the greatest.

    Raises:
      ValueError: there is no such axis, or it has no such values.
    """

    name: str
    low: float
    high: float
    count: int

    def __post_init__(self) -> None:
        if self.name not in AXES:
            raise ValueError(
                f"unknown axis {self.name!r}: choose among {', '.join(AXES)}"
            )
        if not 1 <= self.count <= 1000:
            raise ValueError(
                f"an axis must have 1 to 1000 values, got {self.count} of {self.name}"
            )
        least = self.low > 0 if AXES[self.name] else self.low >= 0
        most = self.high <= (1 if self.name in _SHARES else math.inf)
        rises = self.low < self.high or (self.count == 1 and self.low == self.high)
        if not (least and most and rises and math.isfinite(self.high)):
            kind = "from 0 to 1" if self.name in _SHARES else "positive"
            raise ValueError(
                f"an axis must rise, its values {kind}, got {self.name} from "
                f"{self.low:g} to {self.high:g}"
            )

    @property
    def is_logarithmic(self) -> bool:
        """Whether neighbours have a ratio in common, not a difference."""
        return AXES[self.name]

    @functools.cached_property
    def values(self) -> tuple[float, ...]:
        """To four digits, or whole where they must be; none twice."""
        space = np.geomspace if self.is_logarithmic else np.linspace
        digits = ".0f" if self.name in _WHOLE else ".4g"
        spaced = space(self.low, self.high, self.count)
        return tuple(dict.fromkeys(float(format(x, digits)) for x in spaced))


@dataclasses.dataclass(frozen=True)
class Grid:
    """One method on problems and with settings that two axes change.

    Args:
      problem_of: the problem for some axes' values, by name; those that are settings of
        the optimizer, or shares of wrong labels, are not among them.
      optimizer: name of a recipe.
      base: its settings where no axis says otherwise; None: it has none to set.
      x: the first axis.
      y: the second one.
      gap: steps from memorization to generalization from which on it is grokking.

    Raises:
      ValueError: both axes are the same; an axis is a setting that the optimizer does
        not have.
    """

    problem_of: Callable[[Mapping[str, float]], Problem]
    optimizer: str
    base: Settings | None
    x: Axis
    y: Axis
    gap: int

    def __post_init__(self) -> None:
        if self.x.name == self.y.name:
            raise ValueError(f"two axes must differ, got {self.x.name} twice")
        for axis in (self.x, self.y):
            if axis.name in _OF_THE_OPTIMIZER and self.base is None:
                raise ValueError(
                    f"the optimizer {self.optimizer!r} has no {axis.name} to set"
                )

    @functools.cached_property
    def cells(self) -> list[dict[str, float]]:
        """Values of the axes, row by row."""
        return [
            {self.x.name: x, self.y.name: y}
            for y in self.y.values
            for x in self.x.values
        ]

    def ledger(self, folder: Path) -> Ledger:
        """What is known of the cells: steps to the threshold in training and test part.

        Raises:
          ValueError: the folder has another grid.
        """
        problem = self.problem_of(self._of_the_problem(self.cells[0]))
        settings = problem.settings.described()
        about = {
            "task": problem.task.name,
            "model": problem.model_name,
            # Of the first cell: an axis' values are each cell's own.
            **{
                k: v for k, v in settings.items() if k not in (self.x.name, self.y.name)
            },
            "axes": [self.x.name, self.y.name],
        }
        budget = problem.settings.max_steps
        return Ledger(folder, about, ["train", "test"], [budget, budget], "cells")

    @property
    def problems(self) -> list[dict[str, float]]:
        """Values of the axes that make one problem another."""
        every = (tuple(self._of_the_problem(cell).items()) for cell in self.cells)
        return [dict(values) for values in dict.fromkeys(every)]

    def known(self, ledger: Ledger | None) -> list[Trial | None]:
        """What the ledger has of each cell.

        Raises:
          LedgerError: it has other cells.
        """
        if ledger is None:
            return [None] * len(self.cells)
        every = enumerate(self.cells)
        return [ledger.find(self.optimizer, 0, n, cell) for n, cell in every]

    def run(
        self, ledger: Ledger | None, report: Callable[[Sequence[Trial]], None]
    ) -> list[Trial]:
        """All cells, row by row; those that the ledger has are not run again.

        Of several processes the first alone has a ledger, and the others run what that
        lacks.

        Cells that differ in what the optimizer is set to, or in how many labels are
        wrong, share a compiled program.
        """
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, cell in enumerate(self.cells):
            key = tuple(self._of_the_problem(cell).items())
            groups.setdefault(key, []).append(number)
        found: list[Trial] = []
        of_all = self.known(ledger)
        for key, numbers in groups.items():
            known = [of_all[n] for n in numbers]
            found += [trial for trial in known if trial]
            report(found)
            missing = [numbers[place] for place in places_of_missing(known)]
            if not missing:
                continue
            problem = self.problem_of(dict(key))
            runner = self._runner(problem)
            seeds = problem.settings.seeds
            together = max(1, runner.chunk // len(seeds))
            for start in range(0, len(missing), together):
                with deferred_interruption():
                    trials = self._trials(
                        runner, missing[start : start + together], seeds
                    )
                    if ledger is not None:
                        ledger.add(trials)
                found += trials
                report(found)
        return sorted(found, key=lambda trial: trial.number)

    def _runner(self, problem: Problem) -> Runner:
        names = [x for x in (self.x.name, self.y.name) if x in WRONG_LABELS]
        recipe = RECIPES[self.optimizer]
        if self.base is None:
            return Runner(problem, lambda: recipe.make(problem), names)
        build = functools.partial(recipe.build, problem)
        return Runner(problem, build, [*self.base, *names])

    def _trials(
        self, runner: Runner, numbers: Sequence[int], seeds: Sequence[int]
    ) -> list[Trial]:
        runs = [
            (self._settings(self.cells[n]), seed) for n in numbers for seed in seeds
        ]
        kinds = []
        for start in range(0, len(runs), runner.chunk):
            settings, with_seeds = zip(*runs[start : start + runner.chunk], strict=True)
            done = runner(settings, with_seeds)
            # What answers the test part knows the training part, sampled or not.
            memorized = np.minimum(done.memorized, done.solved)
            accuracies = done.train_accuracy, done.held_out_accuracy
            kinds.append(np.array([memorized, done.solved, *accuracies]))
        table = np.concatenate(kinds, axis=1).reshape(4, len(numbers), len(seeds))
        train, test, *shares = table.astype(float)
        return [
            Trial(
                self.optimizer,
                0,
                n,
                self.cells[n],
                (tuple(train[i].tolist()), tuple(test[i].tolist())),
                tuple(tuple(x[i].round(4).tolist()) for x in shares),
            )
            for i, n in enumerate(numbers)
        ]

    def _settings(self, cell: Mapping[str, float]) -> Settings:
        """Of the optimizer and of wrong labels, for a cell."""
        settings = dict(self.base or {})
        if "learning_rate" in settings:
            # Decay λ goes with its rate: a step takes η λ off.
            decay = settings["shrinkage"] / settings["learning_rate"]
            rate = cell.get("learning_rate", settings["learning_rate"])
            settings["learning_rate"] = rate
            settings["shrinkage"] = rate * cell.get("weight_decay", decay)
        wrong = {name: cell[name] for name in WRONG_LABELS if name in cell}
        return settings | wrong

    @staticmethod
    def _of_the_problem(cell: Mapping[str, float]) -> dict[str, float]:
        other = (*_OF_THE_OPTIMIZER, *WRONG_LABELS)
        return {
            name: int(value) if name in _WHOLE else value
            for name, value in cell.items()
            if name not in other
        }


def phase(trial: Trial, gap: int) -> str:
    """What became of a cell, by the medians over its seeds.

    Comprehension: the test part is answered less than ``gap`` steps after the training
    part is memorized; grokking: later; memorization: the training part alone;
    confusion: not even that.

    Source: Liu et al., *Towards Understanding Grokking*, arXiv 2205.10343.
    """
    memorized, generalized = trial.medians
    if math.isfinite(generalized):
        return PHASES[0] if generalized - memorized < gap else PHASES[1]
    return PHASES[2] if math.isfinite(memorized) else PHASES[3]
