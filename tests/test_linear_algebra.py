import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egd_optax.polar.linear_algebra import unit_scale


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 3), (16, 16)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_entry_spoils_its_matrix_in_a_stack_of_any_size(shape, bad, rng):
    # XLA's vectorized maximum of a large stack passes over NaN.
    for count in (2, 16, 4096):
        x = rng.normal(size=(count, *shape)).astype(np.float32)
        x[1::2].reshape(count // 2, -1)[:, -1] = bad
        result = np.asarray(unit_scale(jnp.asarray(x)))
        assert np.all(np.isnan(result[1::2]))
        assert np.all(np.isfinite(result[::2]))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2)])
def test_any_normal_number_is_brought_between_a_half_and_four(shape):
    info = jnp.finfo(jnp.float32)
    for scale in (jax.jit(unit_scale), unit_scale):
        for number in [float(info.max), 1.8e38, 8.6e37, 2.0, 1.0, 1e-30, info.tiny]:
            result = np.asarray(scale(jnp.full(shape, number, jnp.float32)))
            assert np.all((result >= 0.5) & (result < 4)), number


def test_complex_numbers_whose_magnitude_overflows_are_scaled():
    x = jnp.full((2, 2), 3e38 + 3e38j, jnp.complex64)
    assert np.all(np.isfinite(unit_scale(x)))
