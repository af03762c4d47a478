"""Labels that change under way: EGD in front of other optimizers.

    python benchmarks/nonstationary.py          # some minutes on two cores
    python benchmarks/nonstationary.py --quick

A small convolutional net learns the 1797 digits of scikit-learn; every 20 epochs the
labels of the training part are shuffled anew. What counts is how much of the time the
net knows the labels of the day: the mean train accuracy over the run, the area under
the curve. Each base optimizer runs at the best of four learning rates, with EGD in
front and without, chosen by that area on a seed of its own. The paper (Figure 7 ff. of
arXiv 2510.04930) did this on CIFAR-10. The table goes to
benchmarks/results/nonstationary.csv.
"""

import dataclasses
from pathlib import Path

import numpy as np
import optax
import tyro
from _output import report
from rich.progress import track
from sklearn.datasets import load_digits

from egd_optax import flax_dimension_numbers, scale_by_egd
from egd_optax.grokking import figures
from egd_optax.grokking.models import ConvNet
from egd_optax.grokking.settings import Settings
from egd_optax.grokking.tasks import Task
from egd_optax.grokking.training import train

BASES = {"adam": optax.adam, "rmsprop": optax.rmsprop, "radam": optax.radam}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
RELABEL = 20
PERIODS = 5


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains under changing labels."""

    quick: bool = False
    """One optimizer, one learning rate, two short periods."""
    seeds: int = 5
    """Seeds of the reported runs; the learning rate is chosen with another one."""
    out: Path = Path(__file__).parent / "results"
    """Folder for nonstationary.csv and nonstationary.png."""


def digits() -> Task:
    images, labels = load_digits(return_X_y=True)
    inputs = (images / 16).astype(np.float32)
    return Task("digits", inputs, labels.astype(np.int32), classes=10)


def optimizer(base: str, rate: float, egd: bool):
    if not egd:
        return BASES[base](rate)
    whiten = scale_by_egd(weight_dimension_numbers=flax_dimension_numbers)
    return optax.chain(whiten, BASES[base](rate))


def run(base, rate, egd, seeds, epochs):
    task = digits()
    settings = Settings(
        seeds=tuple(seeds),
        max_steps=epochs * (len(task.labels) // 2 // 64),
        batch_size=64,
        patience=None,
        relabel_every=min(RELABEL, epochs // 2),
    )
    return train(
        task,
        lambda rngs: ConvNet(8, 10, rngs=rngs),
        optimizer(base, rate, egd),
        settings,
    )


def area(history):
    return np.mean(history.metrics["train_accuracy"], axis=0)


def main(options: Options) -> None:
    bases = list(BASES)[: 1 if options.quick else None]
    rates = RATES[:1] if options.quick else RATES
    epochs = 4 if options.quick else RELABEL * PERIODS
    seeds = range(1 if options.quick else options.seeds)
    rows, curves, areas = [], {}, {}
    for base, egd in track([(b, e) for b in bases for e in (False, True)], "training"):
        best = max(rates, key=lambda r: area(run(base, r, egd, [100], epochs))[0])
        history = run(base, best, egd, seeds, epochs)
        name = f"egd + {base}" if egd else base
        found = area(history)
        areas[name] = np.median(found)
        curves[name] = (
            history.steps,
            100 * np.median(history.metrics["train_accuracy"], axis=1),
        )
        rows.append(
            {
                "optimizer": name,
                "learning rate": best,
                "area": f"{areas[name]:.3f}",
                "range": f"{np.min(found):.3f}–{np.max(found):.3f}",
                "over the base": f"{areas[name] / areas[base]:.2f}" if egd else "",
            }
        )
    options.out.mkdir(parents=True, exist_ok=True)
    picture = figures.lines(
        curves,
        x_label="step",
        y_label="train accuracy in %",
        title=f"digits, labels shuffled every {RELABEL} epochs",
    )
    figures.save(picture, options.out / "nonstationary.png")
    note = f"median of {len(seeds)} seeds (range)"
    report(rows, options.out / "nonstationary.csv", quick=options.quick, note=note)


if __name__ == "__main__":
    main(tyro.cli(Options))
