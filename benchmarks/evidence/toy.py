"""The plateau of the two-feature problem against ε: gradient descent, theory and EGD.

    python benchmarks/evidence/toy.py  # 2 minutes on one core
    python benchmarks/evidence/toy.py --quick

``sgd`` is gradient descent at 0.1 and ``theory`` what Theorem 1 of the EGD paper says
of it; ``newton`` multiplies the gradient by the inverse second moments, the paper's EGD
on this problem, at 0.1; ``egd`` is scale_by_egd behind Nesterov momentum of 0.9, on a
model with two outputs. Its steps do not shrink near the minimum as those of the others
do, so its learning rate has to: 0.3 · 0.98^t, whose sum is 1.5 times the way from the
start. "First" counts the steps until the error is 1 % for the first time, "for good"
until it stays there. Pictures, of the medians, and table go to
results/toy*.
"""

import dataclasses
from pathlib import Path

import numpy as np
import optax
import tyro
from rich.progress import track

from benchmarks import charts
from benchmarks.evidence._tables import crossing_text
from benchmarks.shared import report
from egd_optax import scale_by_egd
from egd_optax.grokking import figures
from egd_optax.grokking.problems.toy import Toy, plateau, simulate, theory
from egd_optax.grokking.training.history import History

RATE = 0.1
EPSILONS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs the two-feature problem for several ε."""

    quick: bool = False
    """One ε, one seed."""
    seeds: int = 5
    """Number of seeds, of the examples."""
    out: Path = Path(__file__).parent / "results"
    """Folder for toy.csv, toy-error.png and toy-plateau.png."""


def measure(epsilon: float, seeds: range) -> dict[str, History]:
    toy = Toy(epsilon=epsilon)
    longest = int(3 * plateau(toy, RATE) + 100)
    steps = np.unique(np.geomspace(1, longest, 240).astype(int))
    gradient_descent = optax.sgd(RATE)
    egd = optax.chain(
        optax.trace(0.9, nesterov=True),
        scale_by_egd(),
        optax.scale_by_learning_rate(optax.exponential_decay(0.3, 1, 0.98)),
    )

    def simulated(optimizer, **how):
        return [simulate(toy, optimizer, steps, seed=seed, **how) for seed in seeds]

    errors = {
        "sgd": simulated(gradient_descent),
        "sgd, theory": [theory(toy, RATE, steps)],
        "newton": simulated(gradient_descent, newton=True),
        "egd": simulated(egd, outputs=2),
    }
    return {
        name: History(tuple(seeds), steps, 1, {"test_accuracy": 1 - np.transpose(e)})
        for name, e in errors.items()
    }


def main(options: Options) -> None:
    seeds = range(1 if options.quick else options.seeds)
    rows, plateaus = [], {}
    for epsilon in track(EPSILONS[:1] if options.quick else EPSILONS, "simulating"):
        histories = measure(epsilon, seeds)
        row = {"epsilon": f"{epsilon:.0e}"}
        row["plateau, theory"] = round(plateau(Toy(epsilon=epsilon), RATE))
        for name, history in histories.items():
            first = history.first_crossing(0.99)
            row[f"{name}, first"] = crossing_text(first, history.steps[-1])
            plateaus.setdefault(name, []).append(first.median)
        own = histories["egd"]
        for_good = own.sustained_crossing(0.99)
        row["egd, for good"] = crossing_text(for_good, own.steps[-1])
        rows.append(row)
        if epsilon == 1e-2 or options.quick:
            picture = charts.lines(
                {
                    name: (
                        history.steps,
                        100 * np.median(1 - history.metrics["test_accuracy"], axis=1),
                    )
                    for name, history in histories.items()
                },
                x_label="step",
                y_label="test error in %",
                title=f"two features, ε = {epsilon:g}",
                log_x=True,
            )
    options.out.mkdir(parents=True, exist_ok=True)
    figures.save(picture, options.out / "toy-error.png")
    used = EPSILONS[: len(rows)]
    picture = charts.lines(
        {name: (1 / np.array(used), np.array(y)) for name, y in plateaus.items()},
        x_label="1 / ε",
        y_label="steps to 1 % test error",
        title="two features",
        log_x=True,
        log_y=True,
    )
    figures.save(picture, options.out / "toy-plateau.png")
    note = f"learning rate {RATE}; median of {len(seeds)} seeds (range)"
    report(rows, options.out / "toy.csv", quick=options.quick, note=note)


if __name__ == "__main__":
    main(tyro.cli(Options))
