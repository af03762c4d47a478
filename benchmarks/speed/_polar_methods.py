"""Every way to a polar factor, over shapes up to a layer of a large model."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from benchmarks import charts
from egd_optax import (
    polar_by_eigh,
    polar_by_newton_schulz,
    polar_by_randomized_svd,
    polar_by_svd,
)

RANK = 32
SHAPES = (
    *((size, size) for size in (64, 128, 256, 512, 1024, 2048, 4096)),
    (194, 512),
    (8, 128, 128),
    (8, 512, 512),
    (1024, 4096),
    (4096, 1024),
    (24, 1024, 1024),
    (24, 1024, 4096),
)
CONDITIONS = (1e1, 1e3)


def _by_linalg_svd(x: jax.Array) -> jax.Array:
    u, _, vh = jnp.linalg.svd(x, full_matrices=False)
    return u @ vh


def _by_qdwh(x: jax.Array) -> jax.Array:
    if x.ndim == 3:
        return jax.lax.map(_by_qdwh, x)
    if x.shape[0] < x.shape[1]:
        return _by_qdwh(x.T).T
    return jax.lax.linalg.qdwh(x)[0]


def _by_muon(x: jax.Array) -> jax.Array:
    """Without momentum the update is what Muon makes of the gradient."""
    numbers = MuonDimensionNumbers(x.ndim - 2, x.ndim - 1)
    tx: optax.GradientTransformation = scale_by_muon(
        beta=0.0, nesterov=False, weight_dimension_numbers=numbers
    )
    return tx.update(x, tx.init(x))[0]


METHODS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "eigh": polar_by_eigh,
    "svd": polar_by_svd,
    "newton_schulz": polar_by_newton_schulz,
    # Enough for the largest of the condition numbers here.
    "newton_schulz 8": functools.partial(polar_by_newton_schulz, steps=8),
    "newton_schulz 5 bf16": functools.partial(
        polar_by_newton_schulz, steps=5, dtype=jnp.bfloat16
    ),
    f"randomized_svd {RANK}": functools.partial(
        polar_by_randomized_svd, rank=RANK, key=jax.random.key(0)
    ),
    "jnp.linalg.svd": _by_linalg_svd,
    "lax.linalg.qdwh": _by_qdwh,
    "optax muon": _by_muon,
}


def rows(
    shapes: tuple[tuple[int, ...], ...],
    conditions: tuple[float, ...],
    max_seconds: float,
    repeats: int,
) -> Iterator[dict[str, object]]:
    """One row a shape, condition number and method.

    What would take longer than ``max_seconds``, all its calls together, is skipped: by
    the time of the same method on the shape before, scaled with m² n.
    """
    known: dict[str, tuple[float, float]] = {}
    for shape in sorted(shapes, key=_work):
        for condition in conditions:
            least = {
                name: 4 * seconds * _work(shape) / work
                for name, (seconds, work) in known.items()
            }
            chosen = [name for name in METHODS if least.get(name, 0) <= max_seconds]
            x, exact = _draw(shape, condition)
            compiled = {
                name: jax.jit(METHODS[name]).lower(x).compile() for name in chosen
            }
            times = _seconds(compiled, x, max_seconds, repeats)
            for name in METHODS:
                row: dict[str, object] = {
                    "shape": "x".join(map(str, shape)),
                    "condition": f"{condition:.0e}",
                    "method": name,
                }
                if name not in compiled:
                    yield row | dict.fromkeys(
                        ("error", "ms", "gflops", "megabytes"), "skipped"
                    )
                    continue
                known[name] = times[name], _work(shape)
                result = np.asarray(compiled[name](x), np.float64)
                error = _spectral_norm(result.reshape(-1, *exact.shape)[0] - exact)
                yield row | {
                    "error": f"{error:.2e}",
                    "ms": f"{1e3 * times[name]:.3g}",
                    "gflops": _gflops(name, compiled[name], shape, times[name]),
                    "megabytes": f"{_megabytes(compiled[name]):.3g}",
                }


def picture(found: list[dict[str, object]]) -> Figure:
    """Error against time: a panel for every shape, one mark a method."""
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in found:
        shape, method = str(row["shape"]).replace("x", " × "), str(row["method"])
        points = groups.setdefault(shape, {name: [] for name in METHODS})[method]
        if row["ms"] != "skipped":
            points.append((float(row["ms"]), float(row["error"])))
    return charts.panels(
        {
            shape: {name: np.array(p).reshape(-1, 2) for name, p in methods.items()}
            for shape, methods in groups.items()
            # Where all but one were skipped there is nothing to compare.
            if sum(map(bool, methods.values())) > 1
        },
        x_label="ms a call",
        y_label="error against float64, spectral norm",
    )


def _work(shape: tuple[int, ...]) -> float:
    return math.prod(shape) * min(shape[-2:])


def _draw(shape: tuple[int, ...], condition: float) -> tuple[jax.Array, np.ndarray]:
    """Matrices with log-spaced spectrum, and the polar factor of the first of them."""
    rng = np.random.default_rng(0)
    m, n = sorted(shape[-2:])
    u = np.linalg.qr(rng.normal(size=(m, m)))[0]
    v = np.linalg.qr(rng.normal(size=(n, m)))[0]
    x = ((u * np.geomspace(1, 1 / condition, m)) @ v.T).astype(np.float32)
    # In float64 the Gram matrix is exact enough for the condition numbers here.
    w, q = np.linalg.eigh(x.astype(np.float64) @ x.T.astype(np.float64))
    exact = (q / np.sqrt(w)) @ q.T @ x
    if shape[-2] > shape[-1]:
        x, exact = x.T, exact.T
    return jnp.broadcast_to(jnp.asarray(x), shape), exact


def _spectral_norm(x: np.ndarray) -> float:
    x = x if x.shape[0] < x.shape[1] else x.T
    return math.sqrt(np.linalg.eigvalsh(x @ x.T)[-1])


def _seconds(
    compiled: dict[str, jax.stages.Compiled],
    x: jax.Array,
    max_seconds: float,
    repeats: int,
) -> dict[str, float]:
    """Median time of a warm call, the methods taking turns."""
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for turn in range(repeats + 1):
        for name, method in compiled.items():
            if turn > 2 and sum(times[name]) > max_seconds:
                continue
            start = time.perf_counter()
            jax.block_until_ready(method(x))
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def _gflops(
    name: str, compiled: jax.stages.Compiled, shape: tuple[int, ...], seconds: float
) -> str:
    """Operations by XLA's count over time, where XLA can count them.

    It does not know what a LAPACK call does, nor how often a loop is run; Muon's loop
    runs five times over three products.
    """
    m, n = sorted(shape[-2:])
    if name == "optax muon":
        operations = 5 * (4 * m**2 * n + 2 * m**3) * math.prod(shape[:-2])
    elif name.startswith("newton_schulz"):
        operations = compiled.cost_analysis()["flops"]
    else:
        return ""
    return f"{operations / seconds / 1e9:.3g}"


def _megabytes(compiled: jax.stages.Compiled) -> float:
    """Argument, result and what the program needs beside them."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
    ) / 1e6
