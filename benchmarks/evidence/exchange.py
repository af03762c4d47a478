"""Direction or setting? The ways to a polar factor, each with the others' settings.

    python benchmarks/evidence/exchange.py  # half an hour on two cores, after search.py
    python benchmarks/evidence/exchange.py --quick

Exact factor, five rough steps, leading directions and optax's Muon had the same trials
with the transformer, and found different settings. Here each runs with what every other
one found (of the rank its own), on the development problems and with the seeds of the
finals, to the end of the budget: a line of the table tells directions apart, all
else equal, a column what the search missed. Nothing is chosen by it. Scores are those
of the finals: the geometric mean of the steps from which held-out accuracy holds, a
seed without any counting as twice the budget. Table: results/exchange.csv; what is done
stands in results/search/transformer/exchange.csv and is not run again.
"""

import dataclasses
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.evidence._cells import RESULTS
from benchmarks.evidence._families import FAMILIES, final_score, finals
from benchmarks.shared import fail, report
from egd_optax.grokking.files import prepare_folder, reserved
from egd_optax.grokking.problems.problem import with_settings
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.search.progress import bar
from egd_optax.grokking.search.trials import Trial
from egd_optax.grokking.training.devices import side_by_side

FAMILY = "transformer"
POLAR = ("egd", "five-steps", "randomized", "muon")


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs each way to a polar factor with the settings of the others."""

    quick: bool = False
    """Two of them, one problem, few steps."""
    out: Path = RESULTS
    """Folder for the table."""


def main(options: Options) -> None:
    search = finals(FAMILY, FAMILIES[FAMILY])
    names: tuple[str, ...] = POLAR
    folder = options.out / "search" / FAMILY
    if options.quick:
        few = [
            with_settings(p, max_steps=18, seeds=(101,)) for p in search.problems[:1]
        ]
        search, names = dataclasses.replace(search, problems=few), POLAR[:2]
        folder = options.out / "search-quick" / FAMILY
    settings = {name: RECIPES[name].settings[FAMILY] for name in names}
    found: dict[str, list[Trial]] = {}
    try:
        prepare_folder(folder)
        with (
            reserved(folder),
            bar(len(names) ** 2, search.budgets, Console()) as show,
        ):
            ledger = search.ledger(folder, "exchange")
            for name, own in settings.items():
                asked = {
                    place: {key: other.get(key, own[key]) for key in own}
                    for place, other in enumerate(settings.values())
                }
                found[name] = search.evaluate(name, asked, ledger, show)
    except ValueError as error:
        fail("exchange", str(error))
    table = [
        {
            "settings of": source,
            **{
                name: f"{final_score(FAMILY, trials[place], search.budgets):.1f}"
                for name, trials in found.items()
            },
        }
        for place, source in enumerate(names)
    ]
    note = f"scores of directions, {', '.join(p.task.name for p in search.problems)}"
    report(table, options.out / "exchange.csv", quick=options.quick, note=note)


if __name__ == "__main__":
    side_by_side()
    main(tyro.cli(Options))
