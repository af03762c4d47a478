"""Labels that change under way: EGD in front of other optimizers.

    python benchmarks/evidence/nonstationary.py  # 75 minutes on one core
    python benchmarks/evidence/nonstationary.py --quick

A small convolutional net learns the 1797 digits of scikit-learn; every 20 epochs the
labels of the training part are shuffled anew. What counts is how much of the time the
net knows the labels of the day: the mean train accuracy over the run, the area under
the curve. Each base optimizer runs with EGD in front and without, either at the best
of twelve settings, chosen by that area on a seed of its own: learning rate, decoupled
decay, and decay of the second moments. Noise is whitened, too, so behind EGD the base's
momentum is off and Nesterov momentum comes before the whitening. The paper (Figure 7
ff. of arXiv 2510.04930) did this on CIFAR-10. The table goes to
results/nonstationary.csv.
"""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import optax
import tyro
from rich.progress import Progress
from sklearn.datasets import load_digits

from benchmarks import charts
from benchmarks.shared import report
from egd_optax import flax_dimension_numbers, scale_by_egd
from egd_optax.grokking import figures
from egd_optax.grokking.problems.models import ConvNet
from egd_optax.grokking.problems.settings import Settings
from egd_optax.grokking.problems.tasks import Task
from egd_optax.grokking.training.run import train

# By their momentum, which RMSProp lacks, and the decay of their second moments.
BASES = {
    "adam": optax.scale_by_adam,
    "rmsprop": lambda _, b2: optax.scale_by_rms(decay=b2),
    "radam": optax.scale_by_radam,
}
MOMENTUM = 0.9
RATES = (3e-3, 1e-2)
DECAYS = (0.0, 0.3, 1.0)
SECOND_MOMENTS = (0.95, 0.999)
RELABEL = 20
PERIODS = 5


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains under changing labels."""

    quick: bool = False
    """One optimizer, one setting, two short periods."""
    seeds: int = 5
    """Seeds of the reported runs; the settings are chosen with another one."""
    out: Path = Path(__file__).parent / "results"
    """Folder for nonstationary.csv and nonstationary.png."""


def digits() -> Task:
    images, labels = load_digits(return_X_y=True)
    inputs = (images / 16).astype(np.float32)
    return Task("digits", inputs, labels.astype(np.int32), classes=10)


def optimizer(base: str, rate: float, decay: float, b2: float, egd: bool):
    if egd:
        direction = optax.chain(
            optax.trace(MOMENTUM, nesterov=True),
            scale_by_egd(weight_dimension_numbers=flax_dimension_numbers),
            BASES[base](0.0, b2),
        )
    else:
        direction = BASES[base](MOMENTUM, b2)
    return optax.chain(
        direction,
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(rate),
    )


def run(base, setting, egd, seeds, epochs):
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
        optimizer(base, *setting, egd),
        settings,
    )


def area(history):
    return np.mean(history.metrics["train_accuracy"], axis=0)


def main(options: Options) -> None:
    bases = list(BASES)[: 1 if options.quick else None]
    settings = list(itertools.product(RATES, DECAYS, SECOND_MOMENTS))
    settings = settings[: 1 if options.quick else None]
    epochs = 4 if options.quick else RELABEL * PERIODS
    seeds = range(1 if options.quick else options.seeds)
    rows, curves, areas = [], {}, {}
    methods = [(base, egd) for base in bases for egd in (False, True)]
    with Progress() as progress:
        bar = progress.add_task(
            "training", total=len(methods) * (len(settings) + len(seeds))
        )

        def trained(base, setting, egd, seeds):
            history = run(base, setting, egd, seeds, epochs)
            progress.advance(bar, len(seeds))
            return history

        for base, egd in methods:
            scores = [area(trained(base, s, egd, [100]))[0] for s in settings]
            best = settings[int(np.argmax(scores))]
            history = trained(base, best, egd, seeds)
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
                    "learning rate": best[0],
                    "decay": best[1],
                    "second moments": best[2],
                    "area": f"{areas[name]:.3f}",
                    "range": f"{np.min(found):.3f}–{np.max(found):.3f}",
                    "over the base": f"{areas[name] / areas[base]:.2f}" if egd else "",
                }
            )
    options.out.mkdir(parents=True, exist_ok=True)
    picture = charts.lines(
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
