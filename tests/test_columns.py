import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers

from egd_optax import egd, normalize_by_column_norm, unit_columns


def normalize(x, **kwargs):
    tx = normalize_by_column_norm(**kwargs)
    return tx.update(x, tx.init(x))[0]


def test_columns_have_unit_norm_above_the_floor(rng):
    x = rng.normal(size=(6, 4))
    x[:, 1] *= 1e-4
    expected = x / np.maximum(np.linalg.norm(x, axis=0), 0.01)
    np.testing.assert_allclose(normalize(jnp.asarray(x, jnp.float32)), expected, 1e-5)


def test_without_a_floor_zero_stays_zero_and_scale_does_not_matter(rng):
    x = rng.normal(size=(6, 4)).astype(np.float32)
    x[:, 2] = 0
    expected = normalize(jnp.asarray(x), floor=0.0)
    assert np.all(expected[:, 2] == 0)
    for scale in (1e-35, 1e-30, 1e30, 1e38):
        scaled = normalize(jnp.asarray(x * np.float32(scale)), floor=0.0)
        np.testing.assert_allclose(scaled, expected, rtol=1e-5)


def test_output_axes_are_named_by_dimension_numbers(rng):
    x = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    result = normalize(x, weight_dimension_numbers=MuonDimensionNumbers(1, 0))
    np.testing.assert_allclose(jnp.linalg.norm(result, axis=1), 1, rtol=1e-5)


def test_nan_stays_nan():
    x = jnp.array([[jnp.nan, 1.0], [1.0, 1.0]])
    result = np.asarray(normalize(x))
    assert np.isnan(result[0, 0])
    np.testing.assert_allclose(result[:, 1], np.sqrt(0.5), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
def test_unit_columns_are_those_without_a_floor(rng, dtype):
    x = jnp.asarray(rng.normal(size=(2, 6, 4)), dtype).at[1, :, 2].set(0)
    found = unit_columns(x)
    assert found.dtype == x.dtype
    for own, matrix in zip(found, x, strict=True):
        np.testing.assert_array_equal(own, normalize(matrix, floor=0.0))


def test_egd_takes_them_as_its_direction(rng):
    x = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    tx = egd(0.5, momentum=0.0, weight_decay=0.0, polar_fn=unit_columns)
    updates, _ = tx.update(x, tx.init(x), x)
    np.testing.assert_allclose(updates, -0.5 * unit_columns(x), rtol=1e-6)
