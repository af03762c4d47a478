"""The rows of the tables: problems, budgets, and the best published result of each."""

import dataclasses
from collections.abc import Iterable, Iterator

from egd_optax.grokking.problems.problem import (
    Problem,
    mnist_1k,
    modular,
    parity,
    with_settings,
)
from egd_optax.grokking.recipes import PUBLISHED, SHOWN, recipes_for


@dataclasses.dataclass(frozen=True)
class Row:
    """A problem that every recipe gets the same budget of steps for."""

    name: str
    problem: Problem
    budget: int
    published: str  # sooner than anybody else's
    plateau: int | None = None  # budget of the baseline alone, run to its end
    # Published recipes whose source ran this very problem; None: all that serve it.
    published_recipes: tuple[str, ...] | None = None


def rows(suite: str) -> Iterator[Row]:
    """The rows of a suite, ``quick`` or ``full``."""
    if suite == "quick":
        yield Row("add-97", modular("addition", 97), 900, "107 epochs")
        yield Row("parity-3", parity(100, 3), 3100, "76 epochs")
        return
    # Longer than the published plateaus: seeds differ.
    epochs = {79: (221, 15_000), 97: (107, 9000), 127: (62, 5000)}
    for operation in ("addition", "multiplication"):
        for modulus, (best, plateau) in epochs.items():
            problem = modular(operation, modulus)
            per_epoch = modulus**2 // 2 // problem.settings.batch_size
            yield Row(
                f"{operation[:3]}-{modulus}",
                problem,
                1500,
                f"{best} epochs",
                plateau * per_epoch,
            )
    for bits, subset, best, plateau in (
        (400, 2, 42, 20_000),
        (100, 3, 76, 20_000),
        (50, 4, 176, 20_000),
    ):
        yield Row(
            f"parity-{subset}",
            parity(bits, subset),
            6200,
            f"{best} epochs",
            plateau * 62,
        )
    # To the end of the budget where a figure at the end was published, too.
    images = with_settings(mnist_1k(), patience=None)
    yield Row("mnist-1k", images, 2000, "500 steps, 91.9 % at the end")
    on_all_four = ("delayed-frobenius-paper",)
    for operation, best, published in (
        ("addition", 720, on_all_four),
        ("subtraction", 1040, on_all_four),
        ("multiplication", 550, None),
        ("division", 980, on_all_four),
    ):
        yield Row(
            f"transformer-{operation[:3]}-97",
            modular(operation, 97, model="transformer"),
            2000,
            f"{best} steps",
            published_recipes=published,
        )


def by_family(every: Iterable[Row]) -> dict[str, list[str]]:
    """Names of the rows of each family."""
    found: dict[str, list[str]] = {}
    for row in every:
        found.setdefault(row.problem.family, []).append(row.name)
    return found


def recipes(suite: str, row: Row) -> list[str]:
    """Names of the recipes that a suite runs on a row."""
    own = row.published_recipes
    return [
        name
        for name in recipes_for(row.problem)
        if (suite == "full" or name in SHOWN)
        and (own is None or name in own or name not in PUBLISHED)
    ]
