"""The search: every method gets the same number of trials on the same problems."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from egd_optax.grokking.problems.problem import Problem
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.search.interruption import deferred_interruption
from egd_optax.grokking.search.ledger import Ledger
from egd_optax.grokking.search.runs import Runner
from egd_optax.grokking.search.trials import (
    Settings,
    Trial,
    near,
    settings_at,
    spread_out,
)
from egd_optax.grokking.spaces import Space, space_of
from egd_optax.grokking.training.devices import as_the_first_has, is_first

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
      to_the_end: whether runs go on to their budget, and a problem is solved by what
        holds until then.
    """

    problems: Sequence[Problem]
    trials: int = 64
    refined: int = 0
    draw: int = 0
    to_the_end: bool = False

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
                    # Names do not tell all, such as which bits of a parity count.
                    "examples": _digest(problem),
                    **problem.settings.described(),
                }
                for problem in self.problems
            ],
            "draw": self.draw,
            # As those have it that were asked before this could be.
            **({"to_the_end": True} if self.to_the_end else {}),
            "version": version("egd-optax"),
        }

    def ledger(self, folder: Any, name: str = "trials") -> Ledger:
        names = [problem.task.name for problem in self.problems]
        return Ledger(folder, self.question(), names, self.budgets, name)

    def run(self, optimizer: str, ledger: Ledger | None, report: Report) -> list[Trial]:
        """All trials of a method; those in the ledger are not run again."""
        space, trials = self._space(optimizer), self.trials
        runners = self.runners(optimizer)
        places = [spread_out(len(space), n, seed=self.draw) for n in range(trials)]
        found: list[Trial] = []

        def so_far(name: str, done: Sequence[Trial]) -> None:
            report(name, [*found, *done])

        while len(found) < trials + self.refined:
            limits = [math.inf] * len(self.problems)
            begun, after = len(found), trials if len(found) >= trials else 0
            end = trials + self.refined if after else trials
            numbers = range(begun, min(begun + ROUND, end))
            if found:
                ranks = [trial.rank(self.budgets) for trial in found]
                best = ranks.index(min(ranks))
                limits = [BEATEN * median for median in found[best].medians]
                if not after:
                    limits[0] = math.inf  # what tuning costs is read off there
                centre = places[best]
            if after:
                places += [
                    near(centre, after, n - after, seed=self.draw) for n in numbers
                ]
            new = {n - after: settings_at(space, places[n]) for n in numbers}
            found += self.evaluate(
                *(optimizer, new, ledger, so_far),
                after=after,
                limits=limits,
                runners=runners,
            )
        return found

    def runners(self, optimizer: str) -> list[Runner]:
        """A compiled program for each problem."""
        return [
            Runner(
                problem,
                functools.partial(RECIPES[optimizer].build, problem),
                self._space(optimizer),
                to_the_end=self.to_the_end,
            )
            for problem in self.problems
        ]

    def _space(self, optimizer: str) -> Space:
        return space_of(optimizer, self.problems[0].family)

    def evaluate(
        self,
        optimizer: str,
        settings: Mapping[int, Settings],
        ledger: Ledger | None,
        report: Report,
        *,
        after: int = 0,
        limits: Sequence[float] | None = None,
        runners: Sequence[Runner] | None = None,
    ) -> list[Trial]:
        """The trials with these settings, by their numbers.

        Args:
          optimizer: name of a recipe.
          settings: of each trial.
          ledger: which has those that are done; None keeps none.
          report: told of all that are done, whenever some are.
          after: which kind of trials they are.
          limits: steps of each problem after which a run is given up.
          runners: compiled programs, for several calls.
        """
        runners = self.runners(optimizer) if runners is None else runners
        limits = [math.inf] * len(runners) if limits is None else limits
        done = self._known(optimizer, after, settings, ledger)
        report(optimizer, list(done.values()))
        missing = [n for n in settings if n not in done]
        seeds = self.problems[0].settings.seeds
        together = max(1, runners[0].chunk // len(seeds))
        for start in range(0, len(missing), together):
            some = missing[start : start + together]
            # An interruption waits for what is under way, and loses nothing of it.
            with deferred_interruption():
                table = np.full((len(some), len(runners), 2, len(seeds)), np.nan)
                left = list(range(len(some)))
                for place, runner in enumerate(runners):
                    if not left:
                        break
                    asked = [settings[some[i]] for i in left]
                    results = _results(runner, asked, seeds, limits[place])
                    table[left, place] = results
                    medians = np.median(table[:, place, 0], axis=-1)
                    left = [i for i in left if np.isfinite(medians[i])]
                trials = [
                    _trial(optimizer, after, n, settings[n], found)
                    for n, found in zip(some, table, strict=True)
                ]
                if ledger is not None and is_first():
                    ledger.add(trials)
            done |= {trial.number: trial for trial in trials}
            report(optimizer, list(done.values()))
        return [done[n] for n in settings]

    def _known(
        self,
        optimizer: str,
        after: int,
        settings: Mapping[int, Settings],
        ledger: Ledger | None,
    ) -> dict[int, Trial]:
        """The trials that are done; all processes learn it from the first."""
        seeds = len(self.problems[0].settings.seeds)
        table = np.full((len(settings), len(self.problems), 2, seeds), np.nan)
        there = np.zeros(len(settings), bool)
        for place, (n, values) in enumerate(settings.items()):
            trial = ledger and ledger.find(optimizer, after, n, values)
            if not trial:
                continue
            there[place] = True
            for kind, found in enumerate((trial.steps, trial.accuracies)):
                for problem, of_seeds in enumerate(found):
                    if of_seeds:
                        table[place, problem, kind] = of_seeds
        there, table = as_the_first_has((there, table))
        return {
            n: _trial(optimizer, after, n, settings[n], found)
            for n, found, is_there in zip(settings, table, there, strict=True)
            if is_there
        }


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


def _trial(
    optimizer: str, after: int, number: int, settings: Settings, found: np.ndarray
) -> Trial:
    """From a table (problems, 2, seeds) that is NaN where nothing was run."""
    steps, accuracies = (
        tuple(() if np.isnan(x).all() else tuple(map(float, x)) for x in found[:, i])
        for i in (0, 1)
    )
    rounded = tuple(tuple(round(x, 4) for x in each) for each in accuracies)
    return Trial(optimizer, after, number, settings, steps, rounded)


def _digest(problem: Problem) -> str:
    task = problem.task
    content = (np.ascontiguousarray(x) for x in (task.inputs, task.labels))
    return hashlib.sha256(b"".join(x.tobytes() for x in content)).hexdigest()[:16]
