"""Whether each property of a polar factor holds for a million random matrices.

    python benchmarks/reliability/million_matrices.py  # four minutes on two cores
    python benchmarks/reliability/million_matrices.py --quick  # one shape
    python benchmarks/reliability/million_matrices.py --seed 17  # that batch once more

The matrices come in batches, each of one kind, dtype and shape, drawn from a seed of
its own. For each method, property and kind the table has how many matrices were asked,
the worst value beside its bound, and what draws it again: the seed, and the index in
the batch. Zero is the bound where every bit must be as it should. It goes to
results/million_matrices.csv; the exit status is 1 if a bound is broken.
"""

import collections
import dataclasses
import itertools
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro
from rich.progress import track

from benchmarks.reliability._polar_properties import Method, properties
from benchmarks.reliability._random_matrices import KINDS
from benchmarks.shared import report
from egd_optax import polar_by_eigh, polar_by_newton_schulz
from egd_optax.polar.eigh import polar_and_failures

METHODS = (
    Method("eigh", polar_by_eigh, polar_and_failures),
    Method("newton_schulz", polar_by_newton_schulz),
)
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float64, jnp.float16)
SHAPES = (
    (5, 5),
    (4, 9),
    (1, 1),
    (1, 7),
    (2, 2),
    (3, 2),
    (8, 8),
    (16, 6),
    (16, 16),
    (20, 33),
    (64, 64),
    (100, 130),
    (300, 7),
    (300, 300),
)
# Seeds in turn take every kind, then every dtype, then every shape.
ROUND = list(itertools.product(SHAPES, DTYPES, KINDS))


@dataclasses.dataclass(frozen=True)
class Options:
    """Properties of the polar factors of a million random matrices."""

    matrices: int = 1_000_000
    """How many, at least."""
    seed: int | None = None
    """One batch alone, to see it again; its table goes where a quick one does."""
    quick: bool = False
    """One shape, every kind and dtype once."""
    out: Path = Path(__file__).parent / "results"
    """Folder for million_matrices.csv."""


def shape_of(seed):
    m, n = ROUND[seed % len(ROUND)][0]
    return min(max(200_000 // (m * n), 3), 4096), m, n


def batch(seed):
    """The kind of a batch, its matrices, and what its properties draw from."""
    _, dtype, kind = ROUND[seed % len(ROUND)]
    rng = np.random.default_rng(seed)
    x = kind(rng, shape_of(seed), dtype).astype(dtype)
    return kind.__name__, x, rng


@dataclasses.dataclass
class Row:
    """The worst of one method, property and kind."""

    matrices: int = 0
    share: float = -1.0  # of the bound that the worst one takes
    worst: dict = dataclasses.field(default_factory=dict)

    def add(self, values, bounds, asked, **where):
        self.matrices += int(asked.sum())
        # A bound of zero leaves nothing or is broken.
        shares = np.where(values > 0, np.inf, 0.0)
        np.divide(values, bounds, out=shares, where=bounds > 0)
        shares[~asked] = -1
        index = int(np.argmax(shares))
        if shares[index] > self.share:
            self.share = float(shares[index])
            self.worst = {
                "worst": f"{values[index]:.1e}",
                "bound": f"{bounds[index]:.1e}",
                **where,
                "index": index,
            }


def measure(seeds):
    rows = collections.defaultdict(Row)
    total = 0
    for seed in track(seeds, "measuring", transient=True):
        kind, x, rng = batch(seed)
        total += len(x)
        where = {
            "dtype": x.dtype.name,
            "shape": "x".join(map(str, x.shape[1:])),
            "seed": seed,
        }
        for method in METHODS:
            for name, values, bounds, asked in properties(method, x, rng):
                rows[method.name, name, kind].add(values, bounds, asked, **where)
    return {key: row for key, row in sorted(rows.items()) if row.matrices}, total


def enough(matrices):
    """Seeds for so many matrices."""
    drawn = itertools.accumulate(shape_of(seed)[0] for seed in itertools.count())
    last = next(seed for seed, total in enumerate(drawn) if total >= matrices)
    return range(last + 1)


def main(options: Options) -> None:
    if options.seed is not None:
        seeds = [options.seed]
    elif options.quick:
        seeds = range(len(DTYPES) * len(KINDS))
    else:
        seeds = enough(options.matrices)
    rows, total = measure(seeds)
    table = [
        dict(zip(("method", "property", "kind"), key, strict=True))
        | {"matrices": row.matrices}
        | row.worst
        for key, row in rows.items()
    ]
    report(
        table,
        options.out / "million_matrices.csv",
        quick=options.quick or options.seed is not None,
        note=f"{total:_} matrices in {len(seeds)} batches",
    )
    broken = [", ".join(key) for key, row in rows.items() if not row.share <= 1]
    if broken:
        sys.exit("bounds broken:\n" + "\n".join(broken))


if __name__ == "__main__":
    main(tyro.cli(Options))
