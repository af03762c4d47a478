"""What the tests compare with: plain NumPy in float64."""

import numpy as np


def polar(x, rank=None):
    """Polar factor of the leading ``rank`` directions (all if None)."""
    u, _, vt = np.linalg.svd(np.asarray(x, np.result_type(x.dtype, np.float64)), False)
    return u[..., :rank] @ vt[..., :rank, :]


def matrix_with_spectrum(rng, m, n, spectrum):
    d = min(m, n)
    u = np.linalg.qr(rng.normal(size=(m, d)))[0]
    v = np.linalg.qr(rng.normal(size=(n, d)))[0]
    return ((u * spectrum) @ v.T).astype(np.float32)


def log_spaced(d, condition):
    return np.logspace(0, -np.log10(condition), d) if d > 1 else np.ones(1)


def spectral_error(x, reference):
    return np.linalg.norm(np.asarray(x, np.float64) - reference, 2)
