"""Whole grokking runs a second against the number of seeds in one program.

    python benchmarks/speed/sweep.py  # 1 to 8 seeds on a CPU, else 32
    python benchmarks/speed/sweep.py --counts 1 2 4 8 16 32
    python benchmarks/speed/sweep.py --quick

a + b mod 97, the two-layer net (--model transformer: that), egd, until every seed has
95 % of its test part right. The trainer takes the seeds one after another on a CPU
(lax.map), and batches them elsewhere (vmap); the table says which. Runs of all counts
take turns, times are medians, compilation apart. "time" is against that of the first
count, for as many steps. Table and picture go to results/sweep.csv and sweep.png.
"""

import dataclasses
import statistics
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro
from rich.progress import track

from benchmarks import charts
from benchmarks.shared import report
from egd_optax.grokking import figures
from egd_optax.grokking.problems.problem import modular, with_settings
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.training.run import train


@dataclasses.dataclass(frozen=True)
class Options:
    """Counts the grokking runs that a machine makes in a second."""

    model: Literal["mlp", "transformer"] = "mlp"
    """What is trained; the transformer's table is sweep-transformer.csv."""
    counts: tuple[int, ...] = ()
    """Numbers of seeds; none: 1, 2, 4, 8, and 16 and 32 on accelerators."""
    repeats: int = 3
    """Runs of each."""
    quick: bool = False
    """One and two seeds of a tiny net, a few steps."""
    out: Path = Path(__file__).parent / "results"
    """Folder for sweep.csv and sweep.png."""


def run(problem, count):
    """The history of so many seeds."""
    seeds = tuple(range(count))
    problem = with_settings(problem, seeds=seeds, patience=1)
    optimizer = RECIPES["egd"].make(problem)
    return train(problem.task, problem.make_model, optimizer, problem.settings)


def main(options: Options) -> None:
    problem = modular("addition", 97, model=options.model)
    repeats = options.repeats
    on_cpu = jax.default_backend() == "cpu"
    counts = options.counts or ((1, 2, 4, 8) if on_cpu else (1, 2, 4, 8, 16, 32))
    if options.quick:
        problem = modular("addition", 23, model=options.model, width=16)
        counts, repeats = (1, 2), 1
        problem = with_settings(problem, batch_size=64, max_steps=20)
    histories = {count: [] for count in counts}
    turns = [count for _ in range(repeats) for count in counts]
    for count in track(turns, "running", transient=True):
        histories[count].append(run(problem, count))
    rows, rates, first = [], [], None
    for count, found in histories.items():
        seconds = statistics.median(history.run_seconds for history in found)
        steps = int(found[0].steps[-1])
        first = first or seconds / steps
        rates.append(count / seconds)
        rows.append(
            {
                "seeds": count,
                "seeds are": "mapped (lax.map)" if on_cpu else "batched (vmap)",
                "steps": steps,
                "compile s": f"{found[0].compile_seconds:.2f}",
                "run s": f"{seconds:.2f}",
                "ms a step": f"{1e3 * seconds / steps:.2f}",
                "time": f"{seconds / steps / first:.2f}",
                "seeds/s": f"{rates[-1]:.3g}",
            }
        )
    note = f"{problem.task.name}, medians of {repeats} runs"
    stem = "sweep" if options.model == "mlp" else f"sweep-{options.model}"
    report(rows, options.out / f"{stem}.csv", quick=options.quick, note=note)
    picture = charts.lines(
        {rows[0]["seeds are"]: (np.array(counts), np.array(rates))},
        x_label="seeds in one program",
        y_label="runs a second",
        title=f"egd on {problem.task.name}",
        log_x=True,
    )
    name = f"{stem}-quick.png" if options.quick else f"{stem}.png"
    figures.save(picture, options.out / name)


if __name__ == "__main__":
    main(tyro.cli(Options))
