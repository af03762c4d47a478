"""The plateau of the two-feature problem against ε: gradient descent, theory and EGD.

    python benchmarks/toy.py          # a minute on two cores
    python benchmarks/toy.py --quick

``sgd`` is gradient descent at 0.1 and ``theory`` what Theorem 1 of the EGD paper says
of it; ``newton`` multiplies the gradient by the inverse second moments, the paper's EGD
on this problem, at 0.1; ``egd`` is scale_by_egd on a model with two outputs, its
learning rate 1 / (1 + t / 100). Its steps do not shrink near the minimum as those of
the others do, so the error comes back now and then: "first" counts the steps until it
is 1 % for the first time, "for good" until it stays there. Pictures and table
go to benchmarks/results/toy*.
"""

import dataclasses
from pathlib import Path

import numpy as np
import optax
import tyro
from _output import report
from rich.progress import track

from egd_optax import inverse_time_decay, scale_by_egd
from egd_optax.grokking import figures
from egd_optax.grokking.toy import Toy, plateau, simulate, theory

RATE = 0.1
EPSILONS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs the two-feature problem for several ε."""

    quick: bool = False
    """One ε."""
    out: Path = Path(__file__).parent / "results"
    """Folder for toy.csv, toy-error.png and toy-plateau.png."""


def first(errors, steps):
    below = np.flatnonzero(errors <= 0.01)
    return int(steps[below[0]]) if len(below) else np.nan


def for_good(errors, steps):
    above = np.flatnonzero(errors > 0.01)
    after = above[-1] + 1 if len(above) else 0
    return int(steps[after]) if after < len(steps) else np.nan


def measure(epsilon):
    toy = Toy(epsilon=epsilon)
    longest = int(3 * plateau(toy, RATE) + 100)
    steps = np.unique(np.geomspace(1, longest, 240).astype(int))
    gradient_descent = optax.sgd(RATE)
    egd = optax.chain(
        scale_by_egd(),
        optax.scale_by_learning_rate(inverse_time_decay(1.0, 100)),
    )
    curves = {
        "sgd": simulate(toy, gradient_descent, steps),
        "sgd, theory": theory(toy, RATE, steps),
        "newton": simulate(toy, gradient_descent, steps, newton=True),
        "egd": simulate(toy, egd, steps, outputs=2),
    }
    return toy, steps, curves


def main(options: Options) -> None:
    rows, plateaus = [], {}
    for epsilon in track(EPSILONS[:1] if options.quick else EPSILONS, "simulating"):
        toy, steps, curves = measure(epsilon)
        found = {name: first(errors, steps) for name, errors in curves.items()}
        rows.append(
            {"epsilon": f"{epsilon:.0e}", "plateau, theory": round(plateau(toy, RATE))}
            | {f"{name}, first": step for name, step in found.items()}
            | {"egd, for good": for_good(curves["egd"], steps)}
        )
        for name, step in found.items():
            plateaus.setdefault(name, []).append(step)
        if epsilon == 1e-2 or options.quick:
            picture = figures.lines(
                {name: (steps, 100 * errors) for name, errors in curves.items()},
                x_label="step",
                y_label="test error in %",
                title=f"two features, ε = {epsilon:g}",
                log_x=True,
            )
    options.out.mkdir(parents=True, exist_ok=True)
    figures.save(picture, options.out / "toy-error.png")
    used = EPSILONS[: len(rows)]
    picture = figures.lines(
        {name: (1 / np.array(used), np.array(y)) for name, y in plateaus.items()},
        x_label="1 / ε",
        y_label="steps to 1 % test error",
        title="two features",
        log_x=True,
        log_y=True,
    )
    figures.save(picture, options.out / "toy-plateau.png")
    report(rows, options.out / "toy.csv", quick=options.quick, note="learning rate 0.1")


if __name__ == "__main__":
    main(tyro.cli(Options))
