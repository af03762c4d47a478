"""A whitening beside other work: with nothing set, and with OPENBLAS_NUM_THREADS=1.

    python benchmarks/speed/busy.py  # two minutes
    python benchmarks/speed/busy.py --quick

XLA calls LAPACK from threads of its own, and LAPACK's BLAS may bring more, which spin
while they wait. One update of `egd` on an MNIST net of two hidden layers of 1000 units,
in processes of their own, in turn: nothing set, the variable set; on idle cores, and on
cores that each have a busy loop. The ratio is to the process with the variable that
came next. The table goes to results/busy.csv.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import tyro
from rich.progress import track

from benchmarks.shared import report

VARIABLES = "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"


@dataclasses.dataclass(frozen=True)
class Options:
    """Times an update on idle and on busy cores."""

    rounds: int = 5
    """Processes of each kind."""
    quick: bool = False
    """A small net, one round."""
    out: Path = Path(__file__).parent / "results"
    """Folder for busy.csv."""


def measure(width: int, updates: int) -> float:
    """Median of the seconds that a warm update takes; runs in a process of its own."""
    import jax
    import numpy as np

    from egd_optax import egd

    rng = np.random.default_rng(0)
    shapes = [(784, width), (width, width), (width, 10)]
    params = [jax.numpy.asarray(rng.normal(size=s), jax.numpy.float32) for s in shapes]
    tx = egd(0.05)
    state, update = tx.init(params), jax.jit(tx.update)
    seconds = []
    for _ in range(updates + 1):
        start = time.perf_counter()
        _, state = jax.block_until_ready(update(params, state, params))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def in_a_process(arguments: tuple[int, int], variable: bool) -> float:
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    if variable:
        environment[VARIABLES[0]] = "1"
    code = "import json; from benchmarks.speed import busy; " + (
        f"print(json.dumps(busy.measure(*{arguments})))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    loops = [multiprocessing.Process(target=_for_ever) for _ in range(count)]
    for loop in loops:
        loop.start()
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.join()


def _for_ever() -> None:
    while True:
        pass


def main(options: Options) -> None:
    cores = os.cpu_count() or 1
    arguments = (64, 1) if options.quick else (1000, 5)
    rounds = 1 if options.quick else options.rounds
    rows = []
    for loops in (0, cores):
        with busy_loops(loops):
            pairs = [
                (in_a_process(arguments, False), in_a_process(arguments, True))
                for _ in track(range(rounds), f"{loops} busy loops", transient=True)
            ]
        unset, told = (sorted(side) for side in zip(*pairs, strict=True))
        ratios = sorted(nothing / variable for nothing, variable in pairs)
        for name, times in (("nothing", unset), ("OPENBLAS_NUM_THREADS=1", told)):
            rows.append(
                {
                    "cores": f"{cores}, {loops} busy" if loops else f"{cores}, idle",
                    "set": name,
                    "ms": f"{1e3 * statistics.median(times):.0f} "
                    f"({1e3 * times[0]:.0f}–{1e3 * times[-1]:.0f})",
                    "ratio": f"{statistics.median(ratios):.2f} "
                    f"({ratios[0]:.2f}–{ratios[-1]:.2f})"
                    if name == "nothing"
                    else "1",
                }
            )
    note = f"784 × {arguments[0]} × {arguments[0]} × 10, medians of {rounds} processes"
    report(rows, options.out / "busy.csv", quick=options.quick, note=note)


if __name__ == "__main__":
    main(tyro.cli(Options))
