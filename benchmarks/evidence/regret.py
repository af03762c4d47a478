"""What it costs to set nothing: egd() beside settings searched for one problem alone.

    python benchmarks/evidence/regret.py  # an hour on two cores, goes on if stopped
    python benchmarks/evidence/regret.py --problems add-97-batch-256
    python benchmarks/evidence/regret.py --quick  # one problem, two trials, few steps

Problems that nobody tuned on: other moduli, a group, subsets of bits, widths and
batches of half and twice the size, shares of training data from 0.3 to 0.7. On each, 64
trials of `egd` with one seed (32 on the transformer; half of them quasi-random, half
near the best so far), the best with three others; beside them the same three seeds of
`egd()` and of `egd(0.05)`, all else as it comes. The regret is the ratio of the medians
of the steps until test accuracy first reaches the threshold.

In results/regret/PROBLEM: all trials. The table: results/regret.csv; problems that are
in it are not run again: remove the file first.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from benchmarks.evidence._families import FINAL_SEEDS, SEARCH_SEEDS
from benchmarks.evidence._regret_pages import UNTUNED
from benchmarks.evidence._tables import crossing_text
from benchmarks.shared import check_names, fail, read_table, report
from egd_optax.grokking.files import prepare_folder, reserved
from egd_optax.grokking.problems.problem import (
    Problem,
    mnist_1k,
    modular,
    on_group,
    parity,
    with_settings,
)
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.search.progress import bar
from egd_optax.grokking.search.search import Search
from egd_optax.grokking.search.trials import counted
from egd_optax.grokking.training.devices import side_by_side
from egd_optax.grokking.training.history import Crossing
from egd_optax.grokking.training.run import train


def _modular(operation: str, modulus: int, **changes: Any) -> Problem:
    width = changes.pop("width", None)
    return with_settings(
        modular(operation, modulus, width=width), max_steps=600, **changes
    )


def problems() -> dict[str, Problem]:
    """By name; none of them is a row of the races or a development problem."""
    transformer = modular("multiplication", 89, model="transformer")
    return {
        "add-59": _modular("addition", 59),
        "sub-113": _modular("subtraction", 113),
        "div-71": _modular("division", 71),
        "mul-103": _modular("multiplication", 103),
        "sub-79-train-0.4": _modular("subtraction", 79, train_fraction=0.4),
        "dihedral-48": with_settings(on_group("D48", "xy"), max_steps=600),
        "add-97-width-256": _modular("addition", 97, width=256),
        "add-97-width-1024": _modular("addition", 97, width=1024),
        "add-97-batch-256": _modular("addition", 97, batch_size=256),
        "add-97-batch-1024": _modular("addition", 97, batch_size=1024),
        "add-97-train-0.3": _modular("addition", 97, train_fraction=0.3),
        "add-97-train-0.7": _modular("addition", 97, train_fraction=0.7),
        "parity-2-of-200": with_settings(parity(200, 2), max_steps=3720),
        "parity-3-of-60": with_settings(parity(60, 3), max_steps=3720),
        "parity-3-of-70": with_settings(parity(70, 3), max_steps=3720),
        "parity-4-of-40": with_settings(parity(40, 4), max_steps=3720),
        "mnist-batch-100": with_settings(mnist_1k(), max_steps=600, batch_size=100),
        "transformer-mul-89": with_settings(transformer, max_steps=600),
    }


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures what egd() costs beside searched settings."""

    problems: tuple[str, ...] = tuple(problems())
    """Names of problems."""
    quick: bool = False
    """One problem, two trials, few steps."""
    out: Path = Path(__file__).parent / "results"
    """Folder for the tables."""


def main(options: Options) -> None:
    known = problems()
    check_names("regret", "problem", options.problems, known)
    chosen = options.problems[: 1 if options.quick else None]
    path = options.out / "regret.csv"
    done: dict[str, Mapping[str, object]] = {}
    if not options.quick:
        done |= {line["problem"]: line for line in read_table(path)}
    for name in chosen:
        if name in done:
            continue
        problem, trials = known[name], 32 if name.startswith("transformer") else 64
        folder = options.out / ("regret-quick" if options.quick else "regret") / name
        if options.quick:
            problem, trials = with_settings(problem, max_steps=36), 2
        try:
            prepare_folder(folder)
            with reserved(folder):
                searched = best_of_search(problem, trials, folder)
        except ValueError as error:
            fail("regret", str(error))
        done[name] = _line(name, problem, searched)
        report(
            [done[name] for name in known if name in done],
            path,
            quick=options.quick,
            note="steps to the threshold: median over three seeds (range); "
            "searched: best of 64 trials of egd on this problem, transformer 32",
        )


def best_of_search(problem: Problem, trials: int, folder: Path) -> np.ndarray:
    """Steps of the best trial, with other seeds than those it was chosen by."""
    half = trials // 2
    problems = [with_settings(problem, seeds=SEARCH_SEEDS)]
    search = Search(problems, trials=half, refined=trials - half)
    with bar(trials, search.budgets, Console()) as show:
        found = search.run("egd", search.ledger(folder), show)
    best = min(found, key=lambda trial: trial.rank(search.budgets))
    again = Search([with_settings(problem, seeds=FINAL_SEEDS)])
    ledger = again.ledger(folder, "finals")
    (final,) = again.evaluate("egd", {0: best.settings}, ledger, lambda *_: None)
    return np.array(final.steps[0])


def _line(name: str, problem: Problem, searched: np.ndarray) -> dict[str, object]:
    budget = problem.settings.max_steps
    line: dict[str, object] = {
        "problem": name,
        "searched": crossing_text(Crossing(searched, 1), budget),
    }
    problem = with_settings(problem, seeds=FINAL_SEEDS)
    for recipe in UNTUNED:
        history = train(
            problem.task,
            problem.make_model,
            RECIPES[recipe].make(problem),
            problem.settings,
        )
        threshold = problem.settings.threshold
        first = history.first_crossing(threshold)
        sustained = history.sustained_crossing(threshold)
        line[recipe] = crossing_text(first, budget)
        line[f"{recipe} sustained"] = crossing_text(sustained, budget)
        line[f"regret of {recipe}"] = _regret(first, searched, budget)
    return line


def _regret(first: Crossing, searched: np.ndarray, budget: int) -> str:
    """As in a search, what was not solved counts twice the budget."""
    own, best = first.median, float(np.median(searched))
    return f"{counted(own, budget) / counted(best, budget):.2f}"


if __name__ == "__main__":
    side_by_side()
    main(tyro.cli(Options))
