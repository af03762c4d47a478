"""Development problems of each family: others than those of the results."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from egd_optax.grokking.problems.problem import (
    Problem,
    mnist_1k,
    modular,
    parity,
    with_settings,
)
from egd_optax.grokking.search.search import Search
from egd_optax.grokking.search.trials import Trial

# Results are reported with the seeds from 0 on.
SEARCH_SEEDS = (100,)
FINAL_SEEDS = (101, 102, 103)
# How many distinct trials are run with these: one seed tells little of a parity.
FINALISTS = {"modular": 5, "parity": 16, "mnist": 5, "transformer": 5}
# On the transformer the quickest settings cross the threshold and fall back. There,
# trials that solved all problems are run again to the end of their budget, the best of
# those that held are the finalists, and the finals count what holds, too, with every
# seed.
TO_THE_END = ("transformer",)


def _problems(budget: int, *problems: Problem) -> list[Problem]:
    return [
        with_settings(problem, seeds=SEARCH_SEEDS, max_steps=budget)
        for problem in problems
    ]


# MNIST has a part of its training images for it, since there are no others.
FAMILIES = {
    "modular": Search(
        _problems(
            600,
            modular("addition", 83),
            modular("subtraction", 101),
            modular("multiplication", 131),
        ),
        trials=64,
        refined=64,
    ),
    "parity": Search(
        _problems(
            3720,
            parity(100, 2, width=50),
            parity(90, 3, width=100),
            parity(48, 4, width=100),
        ),
        trials=64,
        refined=192,
    ),
    "mnist": Search(
        _problems(600, with_settings(mnist_1k(), validation_fraction=0.2)),
        trials=64,
        refined=64,
    ),
    "transformer": Search(
        _problems(
            600,
            modular("multiplication", 83, model="transformer"),
            modular("division", 83, model="transformer"),
        ),
        # As many as nets have would take two cores a night.
        trials=16,
        refined=16,
    ),
}


def prolonged(search: Search) -> Search:
    """The same problems to the end of their budgets."""
    return dataclasses.replace(search, to_the_end=True, refined=0)


def finals(family: str, search: Search) -> Search:
    """The same problems with other seeds."""
    problems = [
        with_settings(problem, seeds=FINAL_SEEDS) for problem in search.problems
    ]
    return dataclasses.replace(
        search, problems=problems, refined=0, to_the_end=family in TO_THE_END
    )


def final_score(family: str, trial: Trial, budgets: Sequence[int]) -> float:
    """What the finals of a family rank by."""
    return trial.mean(budgets) if family in TO_THE_END else trial.score(budgets)


def finalists(
    family: str, found: Sequence[Trial], budgets: Sequence[int]
) -> list[Trial]:
    """The best trials, one of those that took the same steps on every problem."""
    distinct: dict[Any, Trial] = {}
    for trial in sorted(found, key=lambda trial: trial.rank(budgets)):
        distinct.setdefault(trial.steps, trial)
    return list(distinct.values())[: FINALISTS[family]]
