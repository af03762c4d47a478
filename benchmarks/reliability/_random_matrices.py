"""Stacks of random matrices of every kind that a gradient could be."""

import jax.numpy as jnp
import numpy as np


def gaussian(rng, shape, dtype):
    return _sized(rng, rng.normal(size=shape), dtype)


def rank_up_to_five(rng, shape, dtype):
    count, m, n = shape
    kept = np.arange(5) < rng.integers(0, 6, size=(count, 1))
    left, right = rng.normal(size=(count, m, 5)), rng.normal(size=(count, 5, n))
    return _sized(rng, left * kept[:, None, :] @ right, dtype)


def duplicated_rows(rng, shape, dtype):
    rows = rng.integers(0, shape[1], size=(*shape[:2], 1))
    return _sized(rng, np.take_along_axis(rng.normal(size=shape), rows, axis=1), dtype)


def graded(rng, shape, dtype):
    """Condition numbers up to 1e12, log-spaced or at random in between."""
    count, m, n = shape
    d = min(m, n)
    u = np.linalg.qr(rng.normal(size=(count, m, d)))[0]
    v = np.linalg.qr(rng.normal(size=(count, n, d)))[0]
    places = np.sort(rng.uniform(size=(count, d)), axis=1)
    even = rng.uniform(size=(count, 1)) < 0.5
    places = np.where(even, np.linspace(0, 1, d), places)
    spectrum = 10 ** (-places * rng.uniform(0, 12, size=(count, 1)))
    return _sized(rng, (u * spectrum[:, None, :]) @ v.mT, dtype)


def mixed_sizes(rng, shape, dtype):
    """Entries over the whole range of the dtype, in float64 over that of float32."""
    low, high = _range(dtype)
    return rng.choice([-1, 1], size=shape) * 10 ** rng.uniform(low, high, size=shape)


def subnormal(rng, shape, dtype):
    return rng.uniform(-1, 1, size=shape) * float(jnp.finfo(dtype).tiny)


def zero(rng, shape, dtype):
    return np.zeros(shape)


def one_bad_entry(rng, shape, dtype):
    """NaN or an infinity in about half of the matrices, the first among them."""
    x = gaussian(rng, shape, dtype).reshape(shape[0], -1)
    bad = np.append(0, 1 + np.flatnonzero(rng.uniform(size=len(x) - 1) < 0.5))
    places = rng.integers(0, x.shape[1], size=len(bad))
    x[bad, places] = rng.choice([np.nan, np.inf, -np.inf], size=len(bad))
    return x.reshape(shape)


KINDS = (
    gaussian,
    rank_up_to_five,
    duplicated_rows,
    graded,
    mixed_sizes,
    subnormal,
    zero,
    one_bad_entry,
)


def _range(dtype):
    """Powers of ten that the dtype holds, normal and with room for a sum of few."""
    info = jnp.finfo(jnp.float32 if dtype == jnp.float64 else dtype)
    return np.log10(float(info.tiny)) + 0.1, np.log10(float(info.max)) - 0.1


def _sized(rng, x, dtype):
    """Each matrix as large as it may be, as small, or in between."""
    low, high = _range(dtype)
    size = 10 ** rng.uniform(low / 2, high / 2, size=(len(x), 1, 1))
    return size * x
