"""What must hold of a polar factor, each with its bound, for a stack of matrices."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

# Beyond it the error of the inside is no longer below 1e-3: of the Gram matrix in
# float64 (a CPU, for what is computed in float32), of the steps of Newton–Schulz
# (its table; m^(1/8) is at most 2.1 here), of the reference itself.
LARGEST_CONDITION = {
    ("eigh", jnp.float32): 1e6,
    ("eigh", jnp.float64): 1e10,
    ("newton_schulz", jnp.float32): 1.4e4,
    ("newton_schulz", jnp.float64): 1.4e4,
}


@dataclasses.dataclass(frozen=True)
class Method:
    name: str
    fn: Callable[[jax.Array], jax.Array]
    # The same, and whether something had to stand in for it, where that can be.
    with_failures: Callable[[jax.Array], tuple[jax.Array, jax.Array]] | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        with jax.enable_x64(x.dtype == np.float64):
            return np.asarray(self.fn(jnp.asarray(x)))

    def failures(self, x: np.ndarray) -> np.ndarray:
        with jax.enable_x64(x.dtype == np.float64):
            return np.asarray(self.with_failures(jnp.asarray(x))[1])


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Singular value decompositions in float64 of a stack, and what they tell."""

    u: np.ndarray
    vt: np.ndarray
    kept: np.ndarray  # (count, d), bool: directions above rcond
    clear: np.ndarray  # (count,), bool: none so near to rcond that rounding decides
    condition: np.ndarray  # (count,): of the directions kept

    @property
    def polar(self) -> np.ndarray:
        return self.u * self.kept[:, None, :] @ self.vt


def computed_in(dtype):
    return jnp.float64 if dtype == np.float64 else jnp.float32


def unit_scale(x: np.ndarray) -> np.ndarray:
    """In float64, over the largest; what is subnormal for the method is zero."""
    wide = x.astype(np.float64)
    wide = np.where(np.abs(wide) < float(jnp.finfo(computed_in(x.dtype)).tiny), 0, wide)
    largest = np.max(np.abs(wide), axis=(1, 2), keepdims=True)
    return wide / np.where(largest > 0, largest, 1)


def spectrum_of(x: np.ndarray) -> Spectrum:
    info = jnp.finfo(computed_in(x.dtype))
    u, s, vt = np.linalg.svd(unit_scale(x), full_matrices=False)
    share = s / np.where(s[:, :1] > 0, s[:, :1], 1)
    rcond = 4 * float(info.eps)
    # In float64 the reference knows those near rcond no better.
    margin = 2 if info.bits == 32 else 1000
    kept = share > rcond
    near = (share > rcond / margin) & (share < rcond * margin)
    smallest = np.min(np.where(kept, share, 1), axis=1)
    return Spectrum(u, vt, kept, ~near.any(axis=1), 1 / smallest)


def holds_for(method: Method, x: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    limit = LARGEST_CONDITION[method.name, computed_in(x.dtype)]
    return spectrum.clear & (spectrum.condition <= limit)


def error_bound(method: Method, x: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Of the result, in the Frobenius norm."""
    rank = spectrum.kept.sum(axis=1)
    size = max(x.shape[1:])
    eps = float(jnp.finfo(computed_in(x.dtype)).eps)
    inside = {
        ("eigh", jnp.float32): 2**-52 * spectrum.condition**2,
        # 50 is the share of the reference, whose vectors are orthogonal to that only.
        ("eigh", jnp.float64): eps * (50 + 4 * spectrum.condition),
        ("newton_schulz", jnp.float32): 4 * eps * spectrum.condition + 2e-4,
        ("newton_schulz", jnp.float64): 4 * eps * spectrum.condition + 2e-4,
    }[method.name, computed_in(x.dtype)]
    rounding = float(jnp.finfo(x.dtype).eps)
    return np.sqrt(rank) * (rounding + np.sqrt(size) * inside)


def norms(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x, axis=(1, 2))


def properties(
    method: Method, x: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, value, bound and whether it is asked, of each property and matrix."""
    count, m, n = x.shape
    none, every = np.zeros(count), np.ones(count, bool)
    finite = np.isfinite(x.astype(np.float64)).all(axis=(1, 2))
    narrow = method(x)
    y = narrow.astype(np.float64)
    if not finite.all():
        others = method(np.where(finite[:, None, None], x, 0).astype(x.dtype))
        changed = (narrow != others).sum(axis=(1, 2))
        yield "NaN spreads to no other", changed, none, finite
        yield "NaN is seen", np.isfinite(y).sum(axis=(1, 2)), none, ~finite
        return
    yield "finite", (~np.isfinite(y)).sum(axis=(1, 2)), none, every
    if method.with_failures:
        yield "nothing stands in", method.failures(x) + none, none, every
    if not np.isfinite(y).all():
        return

    spectrum = spectrum_of(x)
    empty = ~spectrum.kept.any(axis=1)
    yield "zero stays zero", np.max(np.abs(y), axis=(1, 2)), none, empty

    ask = holds_for(method, x, spectrum) & ~empty
    rounding = float(jnp.finfo(x.dtype).eps)
    tiny = float(jnp.finfo(computed_in(x.dtype)).tiny)
    values = np.linalg.svd(y, compute_uv=False)
    away = np.max(np.abs(values - spectrum.kept), axis=1)
    yield "singular values one or zero", away, none + 1e-3 + rounding, ask
    # Also of directions near rcond, or beyond the reach of the steps.
    above = np.max(values, axis=1) - 1
    yield "none above one", above, none + 1e-3 + rounding, ~empty

    error = error_bound(method, x, spectrum)
    yield "distance to the exact factor", norms(y - spectrum.polar), error, ask

    q, p = (np.linalg.qr(rng.normal(size=(k, k)))[0] for k in (m, n))
    # Rounding what is turned changes each entry.
    turned = (q @ unit_scale(x) @ p).astype(x.dtype)
    changed = norms(method(turned).astype(np.float64) - q @ y @ p)
    moved = 2 * np.sqrt(max(m, n)) * rounding * spectrum.condition + 2 * error
    # In a half precision that fills up the null space with more than rcond.
    whole = spectrum.kept.all(axis=1) | (x.dtype == computed_in(x.dtype))
    yield "orthogonal equivariance", changed, moved, ask & whole & (moved < 0.1)

    changed = norms(method(x.mT).astype(np.float64).mT - y)
    yield "transpose symmetry", changed, 2 * error, ask

    factor = 2.0 ** rng.integers(-20, 20, size=(count, 1, 1))
    with np.errstate(over="ignore"):
        scaled = (x.astype(np.float64) * factor).astype(x.dtype)
    exact = np.all(
        (scaled.astype(np.float64) == x.astype(np.float64) * factor)
        & ((np.abs(scaled) >= tiny) | (x == 0))
        & ((np.abs(x) >= tiny) | (x == 0)),
        axis=(1, 2),
    )
    changed = norms(method(scaled).astype(np.float64) - y)
    yield "scale invariance", changed, none, exact
