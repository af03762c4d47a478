"""Singular values of the hidden layer's gradient while a net groks (Figure 4 of EGD).

    python benchmarks/evidence/spectrum.py  # some minutes on two cores
    python benchmarks/evidence/spectrum.py --quick

a + b mod 97, the two-layer net, one seed: largest and smallest singular value and
condition number of the gradient of a batch, and the accuracy on the other half of the
pairs, at the end of some 80 epochs of a run, for sgd to the end of its plateau and for
egd. The gradient has an exact null space (the two one-hots of an example add up alike);
smallest is the smallest singular value above float32's rounding of the largest.
Table and picture go to results/spectrum*.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import optax
import tyro
from flax import nnx
from rich.progress import track

from benchmarks import charts
from benchmarks.shared import report
from egd_optax import singular_values
from egd_optax.grokking import figures
from egd_optax.grokking.problems.losses import cross_entropy
from egd_optax.grokking.problems.problem import modular
from egd_optax.grokking.problems.tasks import split
from egd_optax.grokking.recipes import RECIPES

EPOCHS = {"sgd": 6500, "egd": 60}
BATCH = 512
LOOKS = 80


@dataclasses.dataclass(frozen=True)
class Options:
    """Watches the spectrum of gradients."""

    quick: bool = False
    """Two epochs."""
    out: Path = Path(__file__).parent / "results"
    """Folder for spectrum.csv and spectrum.png."""


def watch(recipe: str, epochs: int):
    """Epochs looked at; largest and smallest singular value, accuracy at their end."""
    problem = modular("addition", 97)
    task = problem.task
    graph, params = nnx.split(problem.make_model(nnx.Rngs(0)), nnx.Param)
    tx = RECIPES[recipe].make(problem)
    parts = split(len(task.labels), jax.random.key(0))
    train, test = np.asarray(parts.train), np.asarray(parts.test)

    def measure(params, inputs, labels):
        losses, right = cross_entropy(nnx.merge(graph, params)(inputs), labels)
        return losses.mean(), right.mean()

    @jax.jit
    def step(params, state, inputs, labels):
        grads, _ = jax.grad(measure, has_aux=True)(params, inputs, labels)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, grads

    hidden = jax.jit(lambda grads: singular_values(grads)["hidden"]["kernel"])
    tests, answers = task.inputs[test], task.labels[test]
    accuracy = jax.jit(lambda params: measure(params, tests, answers)[1])
    rng = np.random.default_rng(0)
    state = tx.init(params)
    looked_at = np.unique(np.geomspace(1, epochs, LOOKS).round().astype(int))
    found = []
    for epoch in track(range(1, epochs + 1), recipe):
        order = rng.permutation(train)
        for first in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[first : first + BATCH]
            params, state, grads = step(
                params, state, task.inputs[batch], task.labels[batch]
            )
        if epoch in looked_at:
            spectrum = np.asarray(hidden(grads)[...])
            rounding = 4 * np.finfo(np.float32).eps * spectrum[0]
            smallest = spectrum[spectrum > rounding][-1]
            found.append((spectrum[0], smallest, accuracy(params)))
    return looked_at, *np.array(found).T


def main(options: Options) -> None:
    curves, rows = {}, []
    for recipe, epochs in EPOCHS.items():
        axis, largest, smallest, accuracies = watch(
            recipe, 2 if options.quick else epochs
        )
        curves |= {
            f"{recipe}: largest": (axis, largest),
            f"{recipe}: smallest": (axis, smallest),
        }
        rows += [
            {
                "recipe": recipe,
                "epoch": epoch,
                "largest": f"{high:.3e}",
                "smallest": f"{low:.3e}",
                "condition": f"{high / low:.1e}",
                "test accuracy": f"{100 * right:.1f} %",
            }
            for epoch, high, low, right in zip(
                axis, largest, smallest, accuracies, strict=True
            )
        ]
    options.out.mkdir(parents=True, exist_ok=True)
    picture = charts.lines(
        curves,
        x_label="epoch",
        y_label="singular value of the hidden layer's gradient",
        title="a + b mod 97, gradient of one batch",
        log_x=True,
        log_y=True,
    )
    figures.save(picture, options.out / "spectrum.png")
    report(rows, options.out / "spectrum.csv", quick=options.quick, note="one seed")


if __name__ == "__main__":
    main(tyro.cli(Options))
