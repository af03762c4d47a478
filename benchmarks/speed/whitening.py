"""Error and speed of the polar factor: polar_by_eigh against the SVD, or every method.

    python benchmarks/speed/whitening.py  # a minute or two on two cores
    python benchmarks/speed/whitening.py --quick  # fewer shapes and draws
    python benchmarks/speed/whitening.py --every-method  # a quarter of an hour

Errors are spectral norms of the difference from the float64 polar factor, on
log-spaced spectra, medians over draws; "rounded right" is the share of the entries that
are the float32 nearest to that factor's. Times are warm medians of calls that alternate
between the methods in one run. The table goes to results/whitening.csv.

With --every-method all polar functions, JAX's own and Muon's, over shapes up to 4096²:
the table goes to whitening-methods.csv, error against time to whitening-methods.png.
"""

import dataclasses
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import tyro
from rich.progress import track

from benchmarks.shared import fail, report
from benchmarks.speed import _polar_methods
from egd_optax import polar_by_eigh, polar_by_svd
from egd_optax.grokking import figures

METHODS = {"eigh": jax.jit(polar_by_eigh), "svd": jax.jit(polar_by_svd)}
SHAPES = (194, 512), (512, 97), (128, 512), (64, 64), (1, 7), (200, 10)
CONDITIONS = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares polar_by_eigh with the SVD."""

    quick: bool = False
    """Two shapes, two condition numbers, few draws."""
    every_method: bool = False
    """All methods and sizes instead of polar_by_eigh and the SVD."""
    max_seconds: float = 10
    """With every method: what takes longer, all its calls together, is skipped."""
    shapes: tuple[str, ...] = ()
    """With every method: shapes such as 24x1024x4096; none: up to a large model's."""
    out: Path = Path(__file__).parent / "results"
    """Folder for the table."""


def draw(rng, m, n, condition):
    """A float32 matrix with log-spaced spectrum and its float64 polar factor."""
    d = min(m, n)
    u = np.linalg.qr(rng.normal(size=(m, d)))[0]
    v = np.linalg.qr(rng.normal(size=(n, d)))[0]
    x = ((u * np.geomspace(1, 1 / condition, d)) @ v.T).astype(np.float32)
    # The matrix that both methods see is the rounded one.
    u, _, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    return x, u @ vt


def milliseconds(x, repeats):
    """Median time of each method, the methods taking turns."""
    x = jax.device_put(x)
    times = {name: [] for name in METHODS}
    for _ in range(repeats + 1):
        for name, method in METHODS.items():
            start = time.perf_counter()
            jax.block_until_ready(method(x))
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def measure(shape, condition, draws, repeats):
    rng = np.random.default_rng(0)
    samples = [draw(rng, *shape, condition) for _ in range(draws)]
    errors = {
        name: statistics.median(
            float(np.linalg.norm(np.asarray(method(x), np.float64) - exact, 2))
            for x, exact in samples
        )
        for name, method in METHODS.items()
    }
    rounded_right = statistics.median(
        float(np.mean(METHODS["eigh"](x) == exact.astype(np.float32)))
        for x, exact in samples
    )
    times = milliseconds(samples[0][0], repeats)
    return {
        "m": shape[0],
        "n": shape[1],
        "condition": f"{condition:.0e}",
        "error_eigh": f"{errors['eigh']:.2e}",
        "error_svd": f"{errors['svd']:.2e}",
        "error_ratio": f"{errors['eigh'] / errors['svd']:.1e}",
        "rounded_right": f"{rounded_right:.3f}",
        "ms_eigh": f"{times['eigh']:.2f}",
        "ms_svd": f"{times['svd']:.2f}",
        "times_faster": f"{times['svd'] / times['eigh']:.1f}",
    }


def shape_from(text: str) -> tuple[int, ...]:
    """The shape that a word such as 24x1024x4096 stands for."""
    sizes = text.split("x")
    if len(sizes) < 2 or not all(size.isdigit() and int(size) for size in sizes):
        fail("whitening", f"shape {text!r} must be sizes such as 24x1024x4096")
    return tuple(map(int, sizes))


def compare_every_method(options: Options) -> None:
    shapes = tuple(map(shape_from, options.shapes)) or _polar_methods.SHAPES
    if options.quick:
        shapes = (64, 64), (2, 16, 40)
    repeats = 3 if options.quick else 20
    rows = list(
        track(
            _polar_methods.rows(
                shapes, _polar_methods.CONDITIONS, options.max_seconds, repeats
            ),
            "measuring",
            len(shapes) * len(_polar_methods.CONDITIONS) * len(_polar_methods.METHODS),
            transient=True,
        )
    )
    note = (
        f"at most {repeats} timed calls in {options.max_seconds:g} s; gflops by "
        "XLA's count for newton_schulz, by 5 (4 m² n + 2 m³) for Muon; megabytes: "
        "arguments, results and temporaries"
    )
    report(rows, options.out / "whitening-methods.csv", quick=options.quick, note=note)
    name = "whitening-methods-quick.png" if options.quick else "whitening-methods.png"
    figures.save(_polar_methods.picture(rows), options.out / name)


def main(options: Options) -> None:
    if options.every_method:
        compare_every_method(options)
        return
    shapes = SHAPES[3:5] if options.quick else SHAPES
    conditions = CONDITIONS[1:3] if options.quick else CONDITIONS
    draws, repeats = (2, 5) if options.quick else (5, 40)
    cells = [(shape, condition) for shape in shapes for condition in conditions]
    rows = [
        measure(*cell, draws, repeats)
        for cell in track(cells, "measuring", transient=True)
    ]
    note = f"draws {draws}, timed calls {repeats}"
    report(rows, options.out / "whitening.csv", quick=options.quick, note=note)


if __name__ == "__main__":
    main(tyro.cli(Options))
