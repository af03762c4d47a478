"""Whole grokking runs against the number of seeds in one program, or of devices.

    python benchmarks/speed/sweep.py  # 1 to 8 seeds on a CPU, else 32
    python benchmarks/speed/sweep.py --counts 1 2 4 8 16 32
    python benchmarks/speed/sweep.py --devices 1 2  # runs a minute of 8 (32) seeds
    python benchmarks/speed/sweep.py --quick

a + b mod 97, the two-layer net (--model transformer: that), egd, until every seed has
95 % of its test part right. The trainer takes the seeds one after another on a CPU
(lax.map), and batches them elsewhere (vmap); the table says which. Runs of all counts
take turns, times are medians, compilation apart. "time" is against that of the first
count, for as many steps. Table and picture go to results/sweep.csv and sweep.png.

With --devices the trainer lays the greatest count of seeds over so many devices, each
number in a process of its own, and runs a minute go to sweep-devices.csv. Devices of a
CPU are parts of it: more than it has cores tell nothing.
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
from benchmarks.speed._devices import in_a_process, leave_memory
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
    devices: tuple[int, ...] = ()
    """Numbers of devices that share the seeds; none: all that there are."""
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


def problem_of(model, quick):
    """What is trained."""
    if not quick:
        return modular("addition", 97, model=model)
    problem = modular("addition", 23, model=model, width=16)
    return with_settings(problem, batch_size=64, max_steps=20)


def over_devices(model, quick, count, repeats):
    """Of so many seeds over all devices of this process."""
    found = [run(problem_of(model, quick), count) for _ in range(repeats)]
    seconds = statistics.median(history.run_seconds for history in found)
    return {
        "devices": len(jax.devices()),
        "seeds": count,
        "steps": int(found[0].steps[-1]),
        "run s": f"{seconds:.2f}",
        "runs/min": f"{60 * count / seconds:.1f}",
    }


def main(options: Options) -> None:
    if options.devices:
        leave_memory()
    problem = problem_of(options.model, options.quick)
    repeats = 1 if options.quick else options.repeats
    on_cpu = jax.default_backend() == "cpu"
    counts = options.counts or ((1, 2, 4, 8) if on_cpu else (1, 2, 4, 8, 16, 32))
    if options.quick:
        counts = (1, 2)
    note = f"{problem.task.name}, medians of {repeats} runs"
    stem = "sweep" if options.model == "mlp" else f"sweep-{options.model}"
    if options.devices:
        arguments = options.model, options.quick, max(counts), repeats
        rows = [
            in_a_process(n, "sweep", "over_devices", arguments)
            for n in track(options.devices, "running", transient=True)
        ]
        path = options.out / f"{stem}-devices.csv"
        report(rows, path, quick=options.quick, note=note)
        return
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
