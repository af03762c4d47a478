from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from reference import log_spaced, matrix_with_spectrum, polar, spectral_error

from egd_optax import (
    polar_by_eigh,
    polar_by_newton_schulz,
    polar_by_randomized_svd,
    polar_by_svd,
)
from egd_optax.polar.eigh import iterated
from egd_optax.polar.linear_algebra import unit_scale

SHAPES = [(194, 512), (512, 97), (128, 512), (64, 64), (1, 7), (200, 10)]
WITH_RCOND = [polar_by_eigh, polar_by_svd]
METHODS = [*WITH_RCOND, polar_by_newton_schulz]
WITH_A_SKETCH = [
    *METHODS,
    partial(polar_by_randomized_svd, rank=2, key=jax.random.key(0)),
]


@jax.jit
def polar_on_accelerators(x):
    """What polar_by_eigh does where there is no CPU."""
    wide = x if x.shape[-2] <= x.shape[-1] else x.mT
    rcond = jnp.full(x.shape[:-2], 4 * jnp.finfo(x.dtype).eps)
    result = iterated(unit_scale(wide), rcond)
    return result if wide is x else result.mT


def ratio_to_svd(draws, method):
    ours, svds = [], []
    for x in draws:
        exact = polar(x)
        ours.append(spectral_error(method(x), exact))
        svds.append(spectral_error(polar_by_svd(x), exact))
    # Below half a unit in the last place there is nothing to compare.
    return np.median(ours) / max(np.median(svds), np.finfo(np.float32).eps / 2)


@pytest.mark.parametrize(
    ("method", "largest", "bound"),
    [(polar_on_accelerators, 6, 1.5), (polar_by_newton_schulz, 4, 2)],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_as_accurate_as_the_svd(shape, method, largest, bound):
    rng = np.random.default_rng(1)
    d = min(shape)
    ratios = {}
    for condition in np.logspace(1, largest, largest):
        draws = [
            matrix_with_spectrum(rng, *shape, log_spaced(d, condition))
            for _ in range(5)
        ]
        ratios[condition] = ratio_to_svd(draws, method)
    assert max(ratios.values()) <= bound, ratios


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("condition", [1e1, 1e2, 1e3, 1e4])
def test_is_right_to_the_last_bit(condition, shape):
    rng = np.random.default_rng(1)
    x = matrix_with_spectrum(rng, *shape, log_spaced(min(shape), condition))
    exact, result = polar(x), np.asarray(polar_by_eigh(x))
    assert spectral_error(result, exact) < np.finfo(np.float32).eps
    assert np.mean(result == exact.astype(np.float32)) > 0.9


def test_is_far_more_accurate_than_the_svd_where_not_all_bits_are_right(rng):
    for condition, times in [(1e5, 1000), (1e6, 300)]:
        x = matrix_with_spectrum(rng, 194, 512, log_spaced(194, condition))
        assert ratio_to_svd([x], polar_by_eigh) < 1 / times


@pytest.mark.parametrize("small", [1e-2, 1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("count", [1, 30, 70])
def test_is_accurate_for_directions_far_below_a_cluster(small, count, rng):
    # Most directions just above what one pass resolves, the others far below.
    spectrum = np.full(128, 0.012)
    spectrum[0] = 1
    spectrum[-count:] = small * np.linspace(1.5, 1, count)
    draws = [matrix_with_spectrum(rng, 128, 256, spectrum) for _ in range(3)]
    assert ratio_to_svd(draws, polar_on_accelerators) <= 2
    assert ratio_to_svd(draws, polar_by_eigh) <= 1e-2


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_directions_near_rcond_are_set_to_one_or_dropped_on_accelerators(dtype, rng):
    lowest = np.log10(float(jnp.finfo(dtype).eps)) - 1
    stack = np.stack(
        [
            np.linalg.qr(rng.normal(size=(5, 5)))[0]
            * 10 ** rng.uniform(lowest, 0, size=5)
            @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
            for _ in range(2000)
        ]
    )
    with jax.enable_x64(dtype == jnp.float64):
        result = lax.map(polar_on_accelerators, jnp.asarray(stack, dtype))
    values = np.linalg.svd(np.asarray(result, np.float64), compute_uv=False)
    assert np.max(np.minimum(values, abs(values - 1))) < 1e-4


def test_rows_whose_squares_nearly_vanish_are_finite_on_accelerators():
    x = jnp.diag(jnp.array([1.0, 1e-3, 3e-17, 1e-17]))
    np.testing.assert_allclose(polar_on_accelerators(x), x > 1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "rank"), [((64, 64), 20), ((97, 40), 39)])
def test_rank_deficiency_drops_the_null_space(method, shape, rank, rng):
    m, n = shape
    x = rng.normal(size=(m, rank)) @ rng.normal(size=(rank, n))
    x = x.astype(np.float32)
    assert spectral_error(method(x), polar(x, rank)) < 1e-4


def test_a_gradient_of_softmax_and_relu_has_its_exact_null_space(rng):
    # Columns of a softmax gradient add up to zero; dead units have zero rows.
    x = rng.normal(size=(64, 10)).astype(np.float32)
    x -= x.mean(axis=1, keepdims=True)
    x[5:20] = 0
    result = np.asarray(polar_by_eigh(x))
    assert spectral_error(result, polar(x, 9)) < 1e-5
    assert np.all(result[5:20] == 0)


@pytest.mark.parametrize("method", WITH_RCOND)
def test_rcond_is_relative_to_the_largest_singular_value(method):
    x = jnp.diag(jnp.array([5.0, 0.6, 0.4, 1e-3])) * 1e-20
    for rcond, kept in [(0.1, 2), (0.05, 3), (1e-2, 3), (1e-4, 4), (0.0, 4)]:
        expected = np.diag(np.arange(4) < kept)
        np.testing.assert_allclose(method(x, rcond=rcond), expected, atol=1e-6)
    np.testing.assert_allclose(
        jax.jit(method)(x, rcond=jnp.float32(0.1)), np.diag([1, 1, 0, 0]), atol=1e-6
    )


@pytest.mark.parametrize("method", WITH_A_SKETCH)
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 1), (2, 4, 3)])
def test_zero_in_zero_out(method, shape):
    assert not np.any(method(jnp.zeros(shape)))


@pytest.mark.parametrize("method", WITH_A_SKETCH)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 3, 3)])
def test_empty_arrays_stay_empty(method, shape):
    assert method(jnp.zeros(shape)).shape == shape


@pytest.mark.parametrize("method", WITH_A_SKETCH)
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
def test_scale_does_not_matter(method, scale, rng):
    x = rng.normal(size=(6, 9)).astype(np.float32)
    np.testing.assert_allclose(method(x * np.float32(scale)), method(x), atol=2e-6)


@pytest.mark.parametrize("method", WITH_A_SKETCH)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_matrix_spoils_itself_alone(method, bad, rng):
    x = rng.normal(size=(3, 6, 9)).astype(np.float32)
    expected = method(x)
    x[1, 2, 3] = bad
    result = np.asarray(method(x))
    assert np.all(np.isnan(result[1]))
    np.testing.assert_allclose(result[[0, 2]], expected[np.array([0, 2])], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_dtypes_are_kept(method, rng):
    x = rng.normal(size=(6, 9))
    exact = polar(x)
    for dtype, error in [
        (jnp.float32, 1e-5),
        (jnp.float16, 3e-3),
        (jnp.bfloat16, 3e-2),
    ]:
        result = method(jnp.asarray(x, dtype))
        assert result.dtype == dtype
        assert spectral_error(result.astype(jnp.float32), exact) < error
    with jax.enable_x64(True):
        result = method(jnp.asarray(x, jnp.float64))
        assert result.dtype == jnp.float64
        assert spectral_error(result, exact) < 1e-13


def test_float64_is_as_accurate_as_the_svd(rng):
    x = (rng.normal(size=(40, 60)).T * np.logspace(0, -9, 40)).T
    with jax.enable_x64(True):
        ours, svds = polar_by_eigh(jnp.asarray(x)), polar_by_svd(jnp.asarray(x))
        assert np.linalg.norm(ours - svds, 2) < 1e-5
        assert np.linalg.norm(ours @ ours.T - np.eye(40), 2) < 1e-13


@pytest.mark.parametrize("method", METHODS)
def test_complex_matrices(method, rng):
    x = rng.normal(size=(6, 9)) + 1j * rng.normal(size=(6, 9))
    x = (x * np.logspace(0, -3, 6)[:, None]).astype(np.complex64)
    for y in (x, x.T):
        result = method(y)
        assert result.dtype == jnp.complex64
        assert np.linalg.norm(result - polar(y), 2) < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_batch_axes_vmap_and_scan_agree(method, rng):
    x = rng.normal(size=(2, 3, 5, 8)).astype(np.float32)
    # One member that takes several passes beside members that take one.
    x[1, 1] = matrix_with_spectrum(rng, 5, 8, np.logspace(0, -5, 5))
    one_by_one = np.array([[method(matrix) for matrix in row] for row in x])
    tolerance = {"atol": 3e-3, "rtol": 0}  # of the ill-conditioned one
    np.testing.assert_allclose(method(x), one_by_one, **tolerance)
    np.testing.assert_allclose(jax.vmap(jax.vmap(method))(x), one_by_one, **tolerance)
    _, scanned = lax.scan(lambda _, row: (None, method(row)), None, x)
    np.testing.assert_allclose(scanned, one_by_one, **tolerance)


def test_a_batch_on_accelerators_agrees(rng):
    x = rng.normal(size=(4, 6, 9)).astype(np.float32)
    x[2] = matrix_with_spectrum(rng, 6, 9, np.logspace(0, -4, 6))
    x[3] = 0
    np.testing.assert_allclose(polar_on_accelerators(x), polar_by_eigh(x), atol=1e-3)


@pytest.mark.parametrize("method", WITH_A_SKETCH)
def test_what_is_no_matrix_is_refused(method):
    with pytest.raises(ValueError, match=r"x.shape=\(3,\)"):
        method(jnp.ones(3))
    with pytest.raises(TypeError, match="int32"):
        method(jnp.ones((2, 2), jnp.int32))


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=36, max_size=36),
)
def test_singular_values_are_zero_or_one(m, n, entries):
    x = np.zeros((6, 6), np.float32)  # one shape, so that it compiles once
    x[:m, :n] = np.reshape(entries, (6, 6))[:m, :n]
    s = np.linalg.svd(np.asarray(polar_by_eigh(x), np.float64), compute_uv=False)
    assert np.all(np.minimum(s, np.abs(s - 1)) < 1e-4), s
