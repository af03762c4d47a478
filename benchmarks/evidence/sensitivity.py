"""Each constant of egd() halved and doubled: where they come from, and what they bear.

    python benchmarks/evidence/sensitivity.py  # an hour on two cores
    python benchmarks/evidence/sensitivity.py --quick  # one constant, one problem

Steps until held-out accuracy first reaches the threshold, median over three seeds, on
development problems of the search (_families.py), and their geometric mean; a problem
that is not solved counts twice its budget. The constants are those of
egd_optax/transforms/automatic.py, and the momentum, whose 1 - β is halved and doubled.
Lines that are in results/sensitivity.csv are not run again: remove the file first.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import tyro

import egd_optax
from benchmarks.evidence._families import FAMILIES, FINAL_SEEDS
from benchmarks.shared import read_table, report
from egd_optax.grokking.problems.problem import Problem, with_settings
from egd_optax.grokking.search.trials import score
from egd_optax.grokking.training.devices import side_by_side
from egd_optax.grokking.training.run import train
from egd_optax.transforms import automatic

CONSTANTS = (
    "RADIUS",
    "_STEPS_PER_LAYER",
    "_STEPS_PER_STEP",
    "_STEPS_PER_REVERSAL",
    "_ONE_WAY",
    "_USUAL_REVERSAL",
    "_NEWEST",
    "_WARM_UP",
    "_VECTOR_STEP",
    "_VECTOR_PULL",
    "_ONSET_STEP",
)
MOMENTUM = 0.8


@dataclasses.dataclass(frozen=True)
class Options:
    """Halves and doubles each constant of egd()."""

    quick: bool = False
    """One constant, one problem, few steps."""
    out: Path = Path(__file__).parent / "results"
    """Folder for the table."""


def problems() -> list[Problem]:
    """The first problem of each family, and all parities, as they differ most."""
    chosen = [
        *FAMILIES["modular"].problems[:1],
        *FAMILIES["parity"].problems,
        *FAMILIES["mnist"].problems,
        *FAMILIES["transformer"].problems[:1],
    ]
    return [with_settings(problem, seeds=FINAL_SEEDS) for problem in chosen]


def variants() -> Iterator[tuple[str, Mapping[str, float], float]]:
    """Name, constants, momentum."""
    own = {name: getattr(automatic, name) for name in CONSTANTS}
    yield "as it is", own, MOMENTUM
    for name, value in own.items():
        for factor in (0.5, 2):
            label = name.strip("_").lower().replace("_", " ")
            yield f"{label} {factor * value:g}", own | {name: factor * value}, MOMENTUM
    for factor in (0.5, 2):
        momentum = 1 - factor * (1 - MOMENTUM)
        yield f"momentum {momentum:g}", own, momentum


def main(options: Options) -> None:
    path, chosen = options.out / "sensitivity.csv", problems()
    every = list(variants())
    table: list[dict[str, object]] = []
    if options.quick:
        chosen, every = [with_settings(chosen[0], max_steps=18)], every[:2]
    else:
        table += read_table(path)
    known = {line["egd()"] for line in table}
    for name, constants, momentum in every:
        if name in known:
            continue
        medians = [steps(problem, constants, momentum) for problem in chosen]
        table.append(_line(name, chosen, medians))
        report(table, path, quick=options.quick, note="steps to the threshold, median")


def steps(problem: Problem, constants: Mapping[str, float], momentum: float) -> float:
    """Median over the seeds; infinite, where it was not reached."""
    with mock.patch.multiple(automatic, **constants):
        history = train(
            problem.task,
            problem.make_model,
            egd_optax.egd(
                momentum=momentum,
                weight_dimension_numbers=egd_optax.flax_dimension_numbers,
            ),
            problem.settings,
        )
    held_out = "validation" if problem.settings.validation_fraction else "test"
    crossing = history.first_crossing(
        problem.settings.threshold, f"{held_out}_accuracy"
    )
    return crossing.median


def _line(
    name: str, problems: list[Problem], medians: list[float]
) -> dict[str, object]:
    budgets = [problem.settings.max_steps for problem in problems]
    return {
        "egd()": name,
        "geometric mean": f"{score(medians, budgets):.0f}",
        **{
            problem.task.name: f"{median:.0f}"
            for problem, median in zip(problems, medians, strict=True)
        },
    }


if __name__ == "__main__":
    side_by_side()
    main(tyro.cli(Options))
