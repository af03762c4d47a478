"""Singular values of the hidden layer's gradient while a net groks (Figure 4 of EGD).

    python benchmarks/spectrum.py          # some minutes on two cores
    python benchmarks/spectrum.py --quick

a + b mod 97, the two-layer net, one seed: largest and smallest singular value and
condition number of the gradient of a batch at the end of every epoch, for sgd and egd.
The gradient has an exact null space (the two one-hots of an example add up alike);
smallest is the smallest singular value above float32's rounding of the largest.
Table and picture go to benchmarks/results/spectrum*.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import optax
import tyro
from _output import report
from flax import nnx
from rich.progress import track

from egd_optax import singular_values
from egd_optax.grokking import figures
from egd_optax.grokking.losses import cross_entropy
from egd_optax.grokking.problems import modular
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.tasks import split

EPOCHS = 60
BATCH = 512


@dataclasses.dataclass(frozen=True)
class Options:
    """Watches the spectrum of gradients."""

    quick: bool = False
    """Two epochs."""
    out: Path = Path(__file__).parent / "results"
    """Folder for spectrum.csv and spectrum.png."""


def watch(recipe: str, epochs: int):
    """Largest and smallest singular value after each epoch."""
    problem = modular("addition", 97)
    task = problem.task
    graph, params = nnx.split(problem.make_model(nnx.Rngs(0)), nnx.Param)
    tx = RECIPES[recipe].make(problem)
    train = np.asarray(split(len(task.labels), jax.random.key(0)).train)

    def loss(params, inputs, labels):
        return cross_entropy(nnx.merge(graph, params)(inputs), labels)[0].mean()

    @jax.jit
    def step(params, state, inputs, labels):
        grads = jax.grad(loss)(params, inputs, labels)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, grads

    hidden = jax.jit(lambda grads: singular_values(grads)["hidden"]["kernel"])
    rng = np.random.default_rng(0)
    state = tx.init(params)
    extremes = []
    for _ in track(range(epochs), recipe):
        order = rng.permutation(train)
        for first in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[first : first + BATCH]
            params, state, grads = step(
                params, state, task.inputs[batch], task.labels[batch]
            )
        spectrum = np.asarray(hidden(grads)[...])
        rounding = 4 * np.finfo(np.float32).eps * spectrum[0]
        extremes.append((spectrum[0], spectrum[spectrum > rounding][-1]))
    return np.array(extremes).T


def main(options: Options) -> None:
    epochs = 2 if options.quick else EPOCHS
    axis = np.arange(1, epochs + 1)
    curves, rows = {}, []
    for recipe in ("sgd", "egd"):
        largest, smallest = watch(recipe, epochs)
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
            }
            for epoch, high, low in zip(axis, largest, smallest, strict=True)
        ]
    options.out.mkdir(parents=True, exist_ok=True)
    picture = figures.lines(
        curves,
        x_label="epoch",
        y_label="singular value of the hidden layer's gradient",
        title="a + b mod 97, gradient of one batch",
        log_y=True,
    )
    figures.save(picture, options.out / "spectrum.png")
    report(rows, options.out / "spectrum.csv", quick=options.quick, note="one seed")


if __name__ == "__main__":
    main(tyro.cli(Options))
