"""How many steps of polar_by_newton_schulz a condition number takes.

    python benchmarks/speed/products.py  # a minute on two cores
    python benchmarks/speed/products.py --quick  # two condition numbers

For log-spaced spectra: the least number of steps whose error is at most twice that of
the SVD, both against float64, in the spectral norm, medians over draws. Beside it what
as many steps make of noise: the error for a matrix of half the rank, whose other
directions must vanish. And the error of the cheap mode. The table goes to
results/products.csv.
"""

import dataclasses
import functools
import statistics
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro
from rich.progress import track

from benchmarks.shared import report
from egd_optax import polar_by_newton_schulz, polar_by_svd

SHAPE = 128, 512
# At 1e7 the float32 SVD itself has an error of one.
CONDITIONS = tuple(10.0**power for power in range(1, 7))
MOST_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Options:
    """Steps of polar_by_newton_schulz against the condition number."""

    quick: bool = False
    """Two condition numbers, few draws."""
    out: Path = Path(__file__).parent / "results"
    """Folder for newton_schulz.csv."""


def draw(rng, spectrum, rank=None):
    """A float32 matrix and its polar factor in float64, of the leading directions."""
    u = np.linalg.qr(rng.normal(size=(SHAPE[0], SHAPE[0])))[0]
    v = np.linalg.qr(rng.normal(size=(SHAPE[1], SHAPE[0])))[0]
    x = ((u * spectrum) @ v.T).astype(np.float32)
    u, _, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    return x, u[:, :rank] @ vt[:rank]


def error(method, samples):
    return statistics.median(
        float(np.linalg.norm(np.asarray(method(x), np.float64) - exact, 2))
        for x, exact in samples
    )


def measure(condition, draws):
    rng = np.random.default_rng(0)
    half = SHAPE[0] // 2
    full = np.geomspace(1, 1 / condition, SHAPE[0])
    deficient = np.append(np.geomspace(1, 0.1, half), np.zeros(half))
    samples = [draw(rng, full) for _ in range(draws)]
    of_half_rank = [draw(rng, deficient, half) for _ in range(draws)]
    bound = 2 * error(polar_by_svd, samples)
    for steps in range(1, MOST_STEPS):
        method = functools.partial(polar_by_newton_schulz, steps=steps)
        reached = error(method, samples)
        if reached <= bound:
            break
    cheap = functools.partial(polar_by_newton_schulz, steps=5, dtype=jnp.bfloat16)
    return {
        "condition": f"{condition:.0e}",
        "steps": steps,
        "error": f"{reached:.1e}",
        "error_svd": f"{bound / 2:.1e}",
        "error_half_rank": f"{error(method, of_half_rank):.1e}",
        "error_cheap": f"{error(cheap, samples):.1e}",
    }


def main(options: Options) -> None:
    conditions = CONDITIONS[:2] if options.quick else CONDITIONS
    draws = 2 if options.quick else 5
    rows = [
        measure(condition, draws)
        for condition in track(conditions, "measuring", transient=True)
    ]
    note = f"{SHAPE[0]}x{SHAPE[1]}, float32, draws {draws}"
    report(rows, options.out / "newton_schulz.csv", quick=options.quick, note=note)


if __name__ == "__main__":
    main(tyro.cli(Options))
