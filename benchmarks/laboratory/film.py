"""How does an embedding become circles? A film of one run.

    python benchmarks/laboratory/film.py  # a minute or two on two cores
    python benchmarks/laboratory/film.py --quick

a + b mod 31 by Nanda et al.'s one-layer transformer, 75 % of the pairs, all in each
step, trained with AdamW as they do, which generalizes late. A frame shows the embedding
of the numbers 0 to 30 on the planes of the four strongest frequencies, and both
accuracies. The planes are those of the end, found within its eight principal
components alone: of all 128 features, 31 numbers are on a circle of some plane whatever
their embedding is. results/film.gif; and the shares of these frequencies by step, with
the effective number of all, in results/film.csv.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import entr

from benchmarks.shared import report
from egd_optax.grokking.files import replacing
from egd_optax.grokking.problems.problem import modular, with_settings
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.training.program import Examples, Program

P, PLANES, EVERY = 31, 4, 50


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws the film."""

    steps: int = 2500
    """Length of the run."""
    quick: bool = False
    """Few steps."""
    out: Path = Path(__file__).parent / "results"
    """Folder for film and table."""


def main(options: Options) -> None:
    steps = 300 if options.quick else options.steps
    frames = snapshots(steps)
    waves = 2 * np.pi * np.outer(np.arange(P), np.arange(1, P // 2 + 1)) / P
    energy = [
        np.sum((np.cos(waves).T @ e) ** 2 + (np.sin(waves).T @ e) ** 2, axis=1)
        for _, e, _ in frames
    ]
    shares = [each / each.sum() for each in energy]
    strongest = np.argsort(shares[-1])[::-1][:PLANES]
    table = [
        {
            "step": step,
            **{f"frequency {k + 1}": f"{share[k]:.3f}" for k in strongest},
            "effective frequencies": f"{np.exp(entr(share).sum()):.1f}",
            "train accuracy": f"{train:.3f}",
            "test accuracy": f"{test:.3f}",
        }
        for (step, _, (train, test)), share in zip(frames, shares, strict=True)
    ]
    note = f"shares of the strongest of {P // 2} frequencies in the embedding, one seed"
    report(table, options.out / "film.csv", quick=options.quick, note=note)
    phases, (_, last, _) = waves[:, strongest], frames[-1]
    planes = [_plane(last - last.mean(axis=0), phase) for phase in phases.T]
    pictures = [_frame(phases, planes, strongest + 1, *each) for each in frames]
    path = options.out / ("film-quick.gif" if options.quick else "film.gif")
    with replacing(path) as temporary:
        pictures[0].save(
            temporary,
            format="gif",
            save_all=True,
            append_images=pictures[1:],
            duration=[80] * (len(pictures) - 1) + [3000],
            loop=0,
        )
    print(f"written to {path}")


def snapshots(steps: int) -> list[tuple[int, np.ndarray, tuple[float, float]]]:
    """Step, embedding, and accuracy on training and test part, of a few steps each."""
    problem = with_settings(
        modular("addition", P, model="one-layer-transformer"),
        train_fraction=0.75,
        batch_size=None,
        epochs_per_evaluation=EVERY,
        max_steps=steps,
    )
    task = problem.task
    program = Program(
        task,
        problem.make_model,
        RECIPES["adamw-paper"].make(problem),
        problem.settings,
        steps_per_epoch=1,
        chunk=1,
    )
    data = Examples(jnp.asarray(task.inputs), jnp.asarray(task.labels))
    advance = jax.jit(program.until_evaluation)
    member = jax.jit(program.begin)(0, data)
    frames = []
    for number in range(steps // EVERY):
        member = advance(member, number, data)
        table = nnx.merge(program.graphdef, member.params).embeddings(P)[0]
        accuracies = (member.metrics[f"{x}_accuracy"] for x in ("train", "test"))
        frames.append(
            (EVERY * (number + 1), np.array(table), tuple(map(float, accuracies)))
        )
    return frames


def _plane(table: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """What cosines and sines of the numbers span in their principal components."""
    principal = np.linalg.svd(table, full_matrices=False)[2][: 2 * PLANES].T
    both = np.stack([np.cos(phases), np.sin(phases)], axis=1)
    return principal @ np.linalg.qr((table @ principal).T @ both)[0]


def _frame(
    phases: np.ndarray,
    planes: Sequence[np.ndarray],
    frequencies: np.ndarray,
    step: int,
    table: np.ndarray,
    accuracies: tuple[float, float],
) -> Image.Image:
    figure = Figure(figsize=(3 * PLANES, 3.5), dpi=80, layout="constrained")
    panels = figure.subplots(1, PLANES)
    for axes, phase, plane, frequency in zip(
        panels, phases.T, planes, frequencies, strict=True
    ):
        points = (table - table.mean(axis=0)) @ plane
        axes.scatter(*points.T, c=phase % (2 * np.pi), cmap="twilight", s=22)
        reach = 1.1 * np.abs(points).max()
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
        axes.set_aspect("equal")
        axes.set_title(f"frequency {frequency}", loc="left", fontsize=10)
    train, test = (f"{100 * x:.0f} %" for x in accuracies)
    figure.suptitle(
        f"step {step}: {train} of the training part, {test} of the test part",
        x=0.01,
        ha="left",
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return drawn.quantize(64, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main(tyro.cli(Options))
