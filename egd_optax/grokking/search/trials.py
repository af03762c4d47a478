"""Quasi-random trials: the same number for every method, from one declared space."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import qmc

from egd_optax.grokking.spaces import Space

Settings = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Trial:
    """Settings, and how many steps they took."""

    optimizer: str
    after: int  # 0: quasi-random; else refined after so many of these
    number: int  # among those of its kind
    settings: Settings
    # Of each problem, for each seed: to the threshold; infinite where it was not
    # reached. A problem after one that was not solved is not run, and has none.
    steps: tuple[tuple[float, ...], ...]
    # In the same places: held-out accuracy when the run ended.
    accuracies: tuple[tuple[float, ...], ...]

    @property
    def key(self) -> tuple[str, int, int]:
        """Which trial it is."""
        return self.optimizer, self.after, self.number

    @property
    def is_solved(self) -> bool:
        """Whether most seeds solved every problem."""
        return all(map(math.isfinite, self.medians))

    @property
    def medians(self) -> tuple[float, ...]:
        """Over the seeds, of each problem."""
        return tuple(
            float(np.median(found)) if found else math.inf for found in self.steps
        )

    def rank(self, budgets: Sequence[int]) -> tuple[float, float]:
        """What to sort by: the score, and among the unsolved how far they came."""
        return self.score(budgets), -sum(map(sum, self.accuracies))

    def score(self, budgets: Sequence[int]) -> float:
        """Geometric mean of the medians; what was not solved counts twice the budget.

        Lower is better.
        """
        return score(self.medians, budgets)

    def mean(self, budgets: Sequence[int]) -> float:
        """Geometric mean over all seeds of all problems, counted as for the score.

        A median of three seeds does not see the one that is late.
        """
        means = [
            score(found, [budget] * len(found)) if found else math.inf
            for found, budget in zip(self.steps, budgets, strict=True)
        ]
        return score(means, budgets)


def score(medians: Sequence[float], budgets: Sequence[int]) -> float:
    """Geometric mean of steps; what was not solved counts twice the budget."""
    logs = [math.log(counted(*pair)) for pair in zip(medians, budgets, strict=True)]
    return math.exp(sum(logs) / len(logs))


def counted(median: float, budget: int) -> float:
    """The steps, or twice the budget where the threshold was not reached."""
    return median if math.isfinite(median) else 2 * budget


def spread_out(dimensions: int, number: int, *, seed: int) -> np.ndarray:
    """Places in [0, 1) of a trial, of one of many that fill the whole space.

    A scrambled Halton sequence: a trial is the same however many are asked for, and
    what several spaces begin with is drawn alike in all.
    """
    sequence = qmc.Halton(dimensions, rng=np.random.default_rng(seed))
    sequence.fast_forward(number)
    return sequence.random(1)[0]


def near(places: np.ndarray, after: int, number: int, *, seed: int) -> np.ndarray:
    """Places near others: about half of them moved, most a little, some far."""
    rng = np.random.default_rng([seed, after, number])
    moves = rng.uniform(-1, 1, len(places)) ** 3 / 2
    moved = places + np.where(rng.random(len(places)) < 0.5, moves, 0)
    # What would leave the range is reflected at its end.
    return np.clip(1 - np.abs(1 - np.abs(moved)), 0, 1 - 2**-32)


def settings_at(space: Space, places: np.ndarray) -> dict[str, float]:
    """The settings at these places of a space."""
    return {
        name: dimension.at(float(place))
        for (name, dimension), place in zip(space.items(), places, strict=True)
    }
