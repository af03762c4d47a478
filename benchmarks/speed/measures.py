"""What does a measure cost, from one evaluation to the next? All take turns.

    python benchmarks/speed/measures.py  # a quarter of an hour on two cores
    python benchmarks/speed/measures.py --problems net
    python benchmarks/speed/measures.py --quick

Steps of one and of ten epochs and the evaluation after them, under ``egd``: without a
measure, with each alone, and with those that a race on a group may ask for together
("cheap": all but the two that take singular values). Times are medians,
compilation apart. a + b mod 97 by the two-layer net and by the transformer, and mod 113
by the one-layer transformer, 30 % of the pairs in each step. The table goes to
results/measures.csv.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import tyro

from benchmarks.shared import check_names, report
from benchmarks.speed._steps import milliseconds
from egd_optax.grokking.measures import MEASURES
from egd_optax.grokking.problems.problem import Problem, modular, with_settings
from egd_optax.grokking.problems.settings import steps_per_epoch
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.training.program import Examples, Program

PROBLEMS = {
    "net": modular("addition", 97),
    "transformer": modular("addition", 97, model="transformer"),
    "one-layer": with_settings(
        modular("addition", 113, model="one-layer-transformer"),
        train_fraction=0.3,
        batch_size=None,
    ),
}
SPECTRAL = ("effective-rank", "condition-number")
CHEAP = tuple(name for name in MEASURES if name not in SPECTRAL)
CASES: dict[str, tuple[str, ...]] = {
    "none": (),
    **{name: (name,) for name in MEASURES},
    "all cheap ones": CHEAP,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Times evaluations with and without measures."""

    problems: tuple[str, ...] = tuple(PROBLEMS)
    """net, transformer, one-layer."""
    repeats: int = 9
    """Intervals of each."""
    quick: bool = False
    """A tiny net, few intervals."""
    out: Path = Path(__file__).parent / "results"
    """Folder for measures.csv."""


def main(options: Options) -> None:
    check_names("measures", "problem", options.problems, PROBLEMS)
    problems = {name: PROBLEMS[name] for name in options.problems}
    repeats = options.repeats
    if options.quick:
        net = modular("addition", 7, width=16)
        problems, repeats = {"net": with_settings(net, batch_size=8)}, 2
    table = []
    for name, problem in problems.items():
        found = {epochs: _times(problem, epochs, repeats) for epochs in (1, 10)}
        for case in CASES:
            line = {"problem": name, "measure": case}
            for epochs, times in found.items():
                which = f"{epochs} epoch{'s' if epochs > 1 else ''}"
                line[f"{which}, ms"] = f"{times[case]:.1f}"
                line[f"{which}, relative"] = f"{times[case] / times['none']:.2f}"
            table.append(line)
    note = "one seed; steps of so many epochs and the evaluation after them"
    report(table, options.out / "measures.csv", quick=options.quick, note=note)


def _times(problem: Problem, epochs: int, repeats: int) -> dict[str, float]:
    intervals = {name: _interval(problem, epochs, case) for name, case in CASES.items()}
    return milliseconds(intervals, [0], repeats=repeats, max_seconds=600)


def _interval(
    problem: Problem, epochs: int, measures: tuple[str, ...]
) -> Callable[[int], object]:
    problem = with_settings(problem, epochs_per_evaluation=epochs)
    task, settings = problem.task, problem.settings
    program = Program(
        task,
        problem.make_model,
        optax.with_extra_args_support(RECIPES["egd"].make(problem)),
        settings,
        steps_per_epoch(task, settings),
        chunk=1,
        measures={name: MEASURES[name] for name in measures},
    )
    data = Examples(jnp.asarray(task.inputs), jnp.asarray(task.labels))
    member = jax.jit(program.begin)(0, data)
    advance = jax.jit(program.until_evaluation)
    return lambda number: advance(member, number, data)


if __name__ == "__main__":
    main(tyro.cli(Options))
