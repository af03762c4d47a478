import jax
import jax.numpy as jnp
import numpy as np
from optax.contrib import MuonDimensionNumbers

from egd_optax import condition_numbers, effective_ranks, singular_values


def test_one_entry_a_matrix(rng):
    tree = {
        "kernel": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
        "bias": jnp.ones(3),
    }
    s = np.linalg.svd(np.asarray(tree["kernel"], np.float64), compute_uv=False)
    p = s / s.sum()
    for fn, expected in [
        (singular_values, s),
        (condition_numbers, s[0] / s[-1]),
        (effective_ranks, np.exp(-np.sum(p * np.log(p)))),
    ]:
        result = jax.jit(fn)(tree)
        assert result["bias"] is None
        assert len(jax.tree.leaves(result)) == 1
        np.testing.assert_allclose(result["kernel"], expected, rtol=1e-5)


def test_degenerate_matrices():
    tree = [jnp.zeros((2, 2)), jnp.diag(jnp.array([1.0, 0.0]))]
    np.testing.assert_array_equal(condition_numbers(tree), [np.inf, np.inf])
    np.testing.assert_allclose(effective_ranks(tree), [0, 1])


def test_batches_of_matrices_and_small_dtypes(rng):
    kernels = jnp.asarray(rng.normal(size=(4, 5, 3)), jnp.bfloat16)
    result = singular_values(
        kernels, weight_dimension_numbers=MuonDimensionNumbers(1, 2)
    )
    assert result.shape == (4, 3)
    assert result.dtype == jnp.float32


def test_mapping_near_the_largest_number_and_without_entries():
    tree = [jnp.diag(jnp.array([3e38, 3e38])), jnp.zeros((0, 3)), jnp.zeros((3, 0))]
    np.testing.assert_allclose(effective_ranks(tree), [2, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(condition_numbers(tree), [1, 0, 0], rtol=1e-6)
