"""What a hundred thousand steps do to every recipe: nothing.

    python benchmarks/reliability/long_runs.py  # a quarter of an hour on two cores
    python benchmarks/reliability/long_runs.py --quick  # two recipes, 600 steps

Each recipe trains a small net on a + b mod 7, with all that a run of egd-grok is made
of, once in one piece and once through a hundred files: after every hundredth of the
steps the state goes to disk, and the run goes on from what is read back. Demanded are
that every number of parameters and optimizer state stays finite, that both runs end on
the same bits, that nothing is compiled again, and that the process does not grow. The
table goes to results/long_runs.csv. Exit status 1 if a demand is not met.

What the process grows by is its resident memory at the end of the first run less that
after a tenth of it (Linux).
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.progress import track

from benchmarks.shared import report
from egd_optax.grokking.problems.problem import modular
from egd_optax.grokking.problems.settings import steps_per_epoch
from egd_optax.grokking.recipes import RECIPES, recipes_for
from egd_optax.grokking.training.program import Examples, Member, Program

PIECES = 100
MOST_GROWTH = 8.0  # MiB; allocators take their memory in larger steps than an array's


@dataclasses.dataclass(frozen=True)
class Options:
    """Long runs of every recipe, in one piece and in a hundred."""

    quick: bool = False
    """Two recipes, few steps."""
    out: Path = Path(__file__).parent / "results"
    """Folder for long_runs.csv."""


def resident() -> float:
    """MiB that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def through_a_file(member: Member, path: Path) -> Member:
    """The state written to disk and read back."""
    leaves, treedef = jax.tree.flatten(
        member._replace(key=jax.random.key_data(member.key))
    )
    np.savez(path, *map(np.asarray, leaves))
    with np.load(path) as file:
        found = [jnp.asarray(file[name]) for name in file.files]
    member = jax.tree.unflatten(treedef, found)
    return member._replace(key=jax.random.wrap_key_data(member.key))


def arrays(member: Member) -> list[np.ndarray]:
    plain = member._replace(key=jax.random.key_data(member.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(plain)]


def measure(name: str, steps: int) -> dict[str, object]:
    problem = modular("addition", 7, width=16)
    settings = dataclasses.replace(
        problem.settings, batch_size=24, max_steps=steps, patience=None
    )
    per_epoch = steps_per_epoch(problem.task, settings)
    piece = steps // per_epoch // PIECES
    settings = dataclasses.replace(settings, epochs_per_evaluation=piece)
    optimizer = optax.with_extra_args_support(RECIPES[name].make(problem))
    program = Program(
        problem.task, problem.make_model, optimizer, settings, per_epoch, chunk=1
    )
    data = Examples(jnp.asarray(problem.task.inputs), jnp.asarray(problem.task.labels))
    begin, advance = jax.jit(program.begin), jax.jit(program.advance)

    member, finite, sizes = begin(0, data), True, []
    for number in range(PIECES):
        member, metrics = advance(member, 0, number, 1, data)
        finite &= all(np.isfinite(x).all() for x in arrays(member))
        sizes.append(resident())

    resumed = begin(0, data)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(PIECES):
            resumed, _ = advance(resumed, 0, number, 1, data)
            resumed = through_a_file(resumed, Path(folder) / "state.npz")
    same = all(map(np.array_equal, arrays(member), arrays(resumed)))
    return {
        "recipe": name,
        "steps": steps,
        "finite": finite,
        "resumed_equal": same,
        "compilations": advance._cache_size(),
        "growth_MiB": round(sizes[-1] - sizes[PIECES // 10], 1),
        "train_accuracy": round(float(metrics["train_accuracy"][0]), 3),
    }


def main(options: Options) -> None:
    names = recipes_for(modular("addition", 7))
    steps = 100_000
    if options.quick:
        names, steps = ("egd", "egd-rsvd-paper"), 600
    rows = [measure(name, steps) for name in track(names, "running", transient=True)]
    note = f"net of width 16 on a + b mod 7, whole batches, {PIECES} pieces"
    report(rows, options.out / "long_runs.csv", quick=options.quick, note=note)
    failed = [
        row["recipe"]
        for row in rows
        if not (row["finite"] and row["resumed_equal"] and row["compilations"] == 1)
        or (row["growth_MiB"] > MOST_GROWTH and not options.quick)
    ]
    if failed:
        sys.exit(f"demands not met: {', '.join(map(str, failed))}")


if __name__ == "__main__":
    main(tyro.cli(Options))
