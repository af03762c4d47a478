"""The search: every method gets the same number of trials on the same problems."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from egd_optax.grokking.problems.problem import Problem
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.search.ledger import Ledger
from egd_optax.grokking.search.runs import Runner
from egd_optax.grokking.search.trials import (
    Settings,
    Trial,
    near,
    settings_at,
    spread_out,
)

# Called with the trials so far of a method, whenever some are done.
Report = Callable[[str, Sequence[Trial]], None]
# Trials after which the best so far is asked for anew.
ROUND = 16
# A run is given up at so many times the steps of that best one: what other problems
# save cannot make up for it.
BEATEN = 4


@dataclasses.dataclass(frozen=True)
class Search:
    """What every method is given.

    Each run has its budget, and ends when its problem is solved, or at four times the
    steps of the best trial before its round of 16; but for the first problem in
    quasi-random trials, which says what tuning costs. A trial that does not solve a
    problem with most of its seeds is not tried on the problems after it.

    Args:
      problems: one setting is to serve them all; first the one that tells the most.
      trials: quasi-random trials of each method.
      refined: further trials, each near the best one before its round of 16.
      draw: seed of the trials.
    """

    problems: Sequence[Problem]
    trials: int = 64
    refined: int = 0
    draw: int = 0

    @property
    def budgets(self) -> list[int]:
        return [problem.settings.max_steps for problem in self.problems]

    def question(self) -> dict[str, Any]:
        """All that a trial's result depends on, but for the method's space."""
        return {
            "problems": [
                {
                    "task": problem.task.name,
                    "model": problem.model_name,
                    **dataclasses.asdict(problem.settings),
                }
                for problem in self.problems
            ],
            "draw": self.draw,
            "refined after": self.trials if self.refined else None,
        }

    def ledger(self, folder: Any, name: str = "trials") -> Ledger:
        names = [problem.task.name for problem in self.problems]
        return Ledger(folder, self.question(), names, self.budgets, name)

    def run(self, optimizer: str, ledger: Ledger | None, report: Report) -> list[Trial]:
        """All trials of a method; those in the ledger are not run again."""
        space = RECIPES[optimizer].space
        places = [spread_out(len(space), n, seed=self.draw) for n in range(self.trials)]
        found: list[Trial] = []
        while len(found) < self.trials + self.refined:
            begun, limits = len(found), [math.inf] * len(self.problems)
            is_refined = begun >= self.trials
            end = self.trials + self.refined if is_refined else self.trials
            numbers = range(begun, min(begun + ROUND, end))
            if found:
                best = min(found, key=lambda trial: trial.rank(self.budgets))
                limits = [BEATEN * median for median in best.medians]
                if is_refined:
                    centre = places[best.number]
                    places += [near(centre, n, seed=self.draw) for n in numbers]
                else:
                    limits[0] = math.inf  # what tuning costs is read off there
            new = {n: settings_at(space, places[n]) for n in numbers}

            def so_far(name: str, trials: Sequence[Trial]) -> None:
                report(name, [*found, *trials])  # noqa: B023

            found += self.evaluate(optimizer, new, ledger, so_far, limits)
        return found

    def evaluate(
        self,
        optimizer: str,
        settings: Mapping[int, Settings],
        ledger: Ledger | None,
        report: Report,
        limits: Sequence[float] | None = None,
    ) -> list[Trial]:
        """The trials with these settings, by their numbers.

        Args:
          optimizer: name of a recipe.
          settings: of each trial.
          ledger: which has those that are done; None keeps none.
          report: told of all that are done, whenever some are.
          limits: steps of each problem after which a run is given up.
        """
        recipe = RECIPES[optimizer]
        runners = [
            Runner(problem, functools.partial(recipe.build, problem), recipe.space)
            for problem in self.problems
        ]
        done = _known(optimizer, settings, ledger, self.problems)
        report(optimizer, list(done.values()))
        missing = [n for n in settings if n not in done]
        seeds = self.problems[0].settings.seeds
        together = max(1, runners[0].chunk // len(seeds))
        for start in range(0, len(missing), together):
            some = missing[start : start + together]
            table = np.full((len(some), len(runners), 2, len(seeds)), np.nan)
            left = list(range(len(some)))
            for place, runner in enumerate(runners):
                if not left:
                    break
                table[left, place] = _results(
                    runner,
                    [settings[some[i]] for i in left],
                    seeds,
                    math.inf if limits is None else limits[place],
                )
                left = [i for i in left if np.isfinite(np.median(table[i, place, 0]))]
            trials = [
                _trial(optimizer, n, settings[n], found)
                for n, found in zip(some, table, strict=True)
            ]
            if ledger is not None and not jax.process_index():
                ledger.add(trials)
            done |= {trial.number: trial for trial in trials}
            report(optimizer, list(done.values()))
        return [done[n] for n in settings]


def _results(
    runner: Runner,
    settings: Sequence[Settings],
    seeds: Sequence[int],
    at_most: float,
) -> np.ndarray:
    """Steps and accuracies (trials, 2, seeds), in as many calls as its chunk asks."""
    runs = [(each, seed) for each in settings for seed in seeds]
    found = []
    for start in range(0, len(runs), runner.chunk):
        some = runs[start : start + runner.chunk]
        asked, with_seeds = [each for each, _ in some], [seed for _, seed in some]
        done = runner(asked, with_seeds, at_most)
        found.append(np.stack([done.solved, done.held_out_accuracy], axis=1))
    whole = np.concatenate(found).reshape(len(settings), len(seeds), 2)
    return np.swapaxes(whole, 1, 2)


def _trial(optimizer: str, number: int, settings: Settings, found: np.ndarray) -> Trial:
    """From a table (problems, 2, seeds) that is NaN where nothing was run."""
    steps, accuracies = (
        tuple(() if np.isnan(x).all() else tuple(map(float, x)) for x in found[:, i])
        for i in (0, 1)
    )
    rounded = tuple(tuple(round(x, 4) for x in each) for each in accuracies)
    return Trial(optimizer, number, settings, steps, rounded)


def _known(
    optimizer: str,
    settings: Mapping[int, Settings],
    ledger: Ledger | None,
    problems: Sequence[Problem],
) -> dict[int, Trial]:
    """The trials that are done; all processes learn it from the first."""
    seeds = len(problems[0].settings.seeds)
    table = np.full((len(settings), len(problems), 2, seeds), np.nan)
    there = np.zeros(len(settings), bool)
    for place, (n, values) in enumerate(settings.items()):
        trial = ledger.find(optimizer, n, values) if ledger is not None else None
        if trial is None:
            continue
        there[place] = True
        for kind, found in enumerate((trial.steps, trial.accuracies)):
            for problem, of_seeds in enumerate(found):
                if of_seeds:
                    table[place, problem, kind] = of_seeds
    if jax.process_count() > 1:
        there, table = multihost_utils.broadcast_one_to_all((there, table))
    return {
        n: _trial(optimizer, n, settings[n], found)
        for n, found, is_there in zip(settings, table, there, strict=True)
        if is_there
    }
