"""One search for every method: settings of each family, on problems of their own.

    python benchmarks/evidence/search.py  # a night on two cores, goes on if stopped
    python benchmarks/evidence/search.py --families modular --optimizers egd muon
    python benchmarks/evidence/search.py --quick  # two methods, two trials, few steps

Every method that has a space (egd_optax/grokking/spaces.py) gets the same trials on the
development problems of a family (_families.py), one seed each: first quasi-random ones
over the whole space, then rounds of 16 near the best so far. Its best (five, of
parities sixteen, no two of which took the same steps) are run with three other seeds,
and the best of them by these goes to egd_optax/grokking/tuned.json.
The score is the geometric mean over the problems of the steps until held-out accuracy
reaches the threshold; a problem that is not solved counts twice the budget, and the
problems after it are not run and count the same. With the transformer, where the
quickest settings cross the threshold and fall back, trials that solved both problems
are run again to the end of their budget, and those and the finals count the steps from
which accuracy holds until then (again.csv); finals count every seed, not their median.

In results/search/FAMILY: trials.csv and finals.csv, every trial with its settings and
steps; what is there is not run again. The table of the chosen settings goes to
results/search-FAMILY.csv, with those of methods that were searched before.
"""

import dataclasses
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from benchmarks.evidence._families import (
    FAMILIES,
    TO_THE_END,
    final_score,
    finalists,
    finals,
    prolonged,
)
from benchmarks.shared import check_names, fail, report
from egd_optax.grokking import figures
from egd_optax.grokking.files import prepare_folder, reserved, write_text
from egd_optax.grokking.problems.problem import with_settings
from egd_optax.grokking.recipes import TUNED, settings_to_json
from egd_optax.grokking.search.progress import bar
from egd_optax.grokking.search.results import tune_figure
from egd_optax.grokking.search.search import Search
from egd_optax.grokking.search.trials import Trial
from egd_optax.grokking.training.devices import side_by_side

TUNED_FILE = Path(str(resources.files("egd_optax.grokking") / "tuned.json"))


@dataclasses.dataclass(frozen=True)
class Options:
    """Searches the settings of every method."""

    families: tuple[str, ...] = tuple(FAMILIES)
    """Families of problems."""
    optimizers: tuple[str, ...] = TUNED
    """Names of tuned recipes."""
    quick: bool = False
    """One family, two methods, two trials, few steps; tuned.json stays."""
    out: Path = Path(__file__).parent / "results"
    """Folder for the tables."""


def main(options: Options) -> None:
    check_names("search", "family", options.families, FAMILIES)
    check_names("search", "optimizer", options.optimizers, TUNED)
    for family in options.families[: 1 if options.quick else None]:
        search, names = FAMILIES[family], options.optimizers
        folder = options.out / "search" / family
        if options.quick:
            few = [with_settings(p, max_steps=18) for p in search.problems[:1]]
            search = dataclasses.replace(search, problems=few, trials=2, refined=1)
            names, folder = names[:2], options.out / "search-quick" / family
        try:
            prepare_folder(folder)
            with reserved(folder):
                rows = chosen(family, search, names, folder)
        except ValueError as error:
            fail("search", str(error))
        if not options.quick:
            write_tuned(family, rows)
        note = f"steps on {', '.join(p.task.name for p in search.problems)}"
        table = [_line(family, search, trial) for trial in rows]
        report(
            table, options.out / f"search-{family}.csv", quick=options.quick, note=note
        )


def chosen(
    family: str, search: Search, names: Sequence[str], folder: Path
) -> list[Trial]:
    """The best trial of each searched method, as the seeds of the finals have it."""
    ledger, second = search.ledger(folder), finals(family, search)
    last = second.ledger(folder, "finals")
    longer = prolonged(search) if family in TO_THE_END else None
    held = longer and longer.ledger(folder, "again")
    console = Console()

    def standing(trial: Trial) -> Any:
        budgets = search.budgets
        return final_score(family, trial, budgets), trial.rank(budgets)

    total = len(names) * (search.trials + search.refined)
    with bar(total, search.budgets, console) as show:
        for name in names:
            found = search.run(name, ledger, show)
            candidates = found
            if longer is not None:
                there = [trial.settings for trial in found if trial.is_solved]
                numbered = dict(enumerate(there))
                candidates = longer.evaluate(name, numbered, held, show) or found
            best = finalists(family, candidates, search.budgets)
            ranked = {rank: trial.settings for rank, trial in enumerate(best)}
            run_again = second.evaluate(name, ranked, last, lambda *_: None)
            solved = sum(trial.is_solved for trial in found)
            console.print(
                f"{name:<20} {min(map(standing, run_again))[0]:7.1f}  "
                f"{solved} of {len(found)} trials solved all"
            )
    # A table of these names alone would tell a race that the others were not searched.
    every = {
        name: found
        for name, found in _by_optimizer(ledger.trials).items()
        if len(found) == search.trials + search.refined
    }
    problems = ", ".join(problem.task.name for problem in search.problems)
    title = f"{len(found)} trials of each method on {problems}"
    figures.save(tune_figure(search, every, title=title), folder / "tune.png")
    rows = [
        min(trials, key=standing)
        for name, trials in _by_optimizer(last.trials).items()
        if name in every
    ]
    return sorted(rows, key=lambda trial: standing(trial)[0])


def _by_optimizer(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.optimizer, []).append(trial)
    return found


def _line(family: str, search: Search, trial: Trial) -> dict[str, object]:
    steps = {
        problem.task.name: f"{np.median(found):.0f}" if found else ""
        for problem, found in zip(search.problems, trial.steps, strict=True)
    }
    settings = ", ".join(f"{k} {v:g}" for k, v in trial.settings.items())
    return {
        "optimizer": trial.optimizer,
        "score": f"{final_score(family, trial, search.budgets):.1f}",
        **steps,
        "settings": settings,
    }


def write_tuned(family: str, rows: Sequence[Trial]) -> None:
    """Puts what was found beside what is there."""
    there = json.loads(TUNED_FILE.read_text())
    there.setdefault(family, {}).update(
        {trial.optimizer: settings_to_json(trial.settings) for trial in rows}
    )
    write_text(TUNED_FILE, json.dumps(there, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    side_by_side()
    main(tyro.cli(Options))
