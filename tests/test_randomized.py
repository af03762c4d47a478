from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from optax.contrib import MuonDimensionNumbers
from reference import log_spaced, matrix_with_spectrum, polar, spectral_error

from egd_optax import (
    polar_by_eigh,
    polar_by_randomized_svd,
    polar_by_svd,
    scale_by_randomized_egd,
)


def key(seed=0):
    return jax.random.key(seed)


def of_rank(rng, m, n, rank, condition=10.0):
    spectrum = np.zeros(min(m, n))
    spectrum[:rank] = log_spaced(rank, condition)
    return matrix_with_spectrum(rng, m, n, spectrum)


@pytest.mark.parametrize("shape", [(60, 100), (64, 48)])
@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5])
@pytest.mark.parametrize("rank", [20, 40])
def test_is_as_accurate_as_the_svd_from_the_rank_on(shape, condition, rank, rng):
    draws = [of_rank(rng, *shape, 20, condition) for _ in range(5)]
    ours, svds = [], []
    for seed, x in enumerate(draws):
        exact = polar(x, 20)
        result = polar_by_randomized_svd(x, rank, key=key(seed))
        ours.append(spectral_error(result, exact))
        svds.append(spectral_error(polar_by_svd(x), exact))
    assert np.median(ours) <= 1.5 * np.median(svds)


@pytest.mark.parametrize(("gap", "error"), [(0.3, 0.2), (0.1, 2e-3), (0.01, 1e-5)])
def test_leading_directions_are_found_across_a_gap(gap, error, rng):
    spectrum = np.full(50, gap)
    spectrum[:10] = np.linspace(2, 1, 10)
    x = matrix_with_spectrum(rng, 50, 80, spectrum)
    result = polar_by_randomized_svd(x, 10, key=key())
    assert spectral_error(result, polar(x, 10)) < error
    s = np.linalg.svd(result, compute_uv=False)
    np.testing.assert_allclose(s, [1] * 10 + [0] * 40, atol=1e-5)


def test_power_iterations_sharpen_the_sketch(rng):
    spectrum = np.full(50, 0.3)
    spectrum[:10] = 1
    x = matrix_with_spectrum(rng, 50, 80, spectrum)

    def error(power_iterations):
        result = polar_by_randomized_svd(
            x, 10, key=key(), power_iterations=power_iterations
        )
        return spectral_error(result, polar(x, 10))

    errors = [error(q) for q in range(2, 6)]
    # Each by (σ_{r+1} / σ_r)² = 0.09.
    for coarse, fine in pairwise(errors):
        assert fine < 0.11 * coarse


@pytest.mark.parametrize("shape", [(3, 9), (9, 3)])
def test_a_rank_beyond_the_smaller_side_is_the_whole_matrix(shape, rng):
    x = rng.normal(size=shape).astype(np.float32)
    for rank in (3, 4, 100):
        np.testing.assert_array_equal(
            polar_by_randomized_svd(x, rank, key=key()), polar_by_eigh(x)
        )


def test_the_key_decides_and_each_matrix_has_a_sketch_of_its_own(rng):
    x = rng.normal(size=(20, 30)).astype(np.float32)
    twice = polar_by_randomized_svd(np.stack([x, x]), 3, key=key())
    again = polar_by_randomized_svd(np.stack([x, x]), 3, key=key())
    other = polar_by_randomized_svd(np.stack([x, x]), 3, key=key(1))
    np.testing.assert_array_equal(twice, again)
    assert np.max(np.abs(twice - other)) > 1e-3
    assert np.max(np.abs(twice[0] - twice[1])) > 1e-3


@pytest.mark.parametrize(
    ("dtype", "error"),
    [(jnp.bfloat16, 3e-2), (jnp.float16, 3e-3), (jnp.float64, 1e-13)],
)
def test_dtypes_are_kept(dtype, error, rng):
    x = rng.normal(size=(8, 2)) @ rng.normal(size=(2, 30))
    with jax.enable_x64(dtype == jnp.float64):
        # Rounded, its rank is full: only what lies far above the rounding is compared.
        result = polar_by_randomized_svd(jnp.asarray(x, dtype), 2, key=key())
        assert result.dtype == dtype
        assert spectral_error(result.astype(float), polar(x, 2)) < error


def test_complex_matrices(rng):
    left, right = rng.normal(size=(2, 9, 3)) + 1j * rng.normal(size=(2, 9, 3))
    x = (left @ right.conj().T).astype(np.complex64)
    result = polar_by_randomized_svd(x, 5, key=key())
    assert result.dtype == jnp.complex64
    assert np.linalg.norm(result - polar(x, 3), 2) < 1e-4


def test_batch_axes_and_vmap_agree(rng):
    x = np.array([[of_rank(rng, 9, 7, 3) for _ in range(3)] for _ in range(2)])
    exact = polar(x, 3)

    def method(x):
        return polar_by_randomized_svd(x, 4, key=key())

    np.testing.assert_allclose(method(x), exact, atol=1e-4)
    np.testing.assert_allclose(jax.vmap(jax.vmap(method))(x), exact, atol=1e-4)


def test_a_sketch_alone_will_do(rng):
    x = of_rank(rng, 9, 7, 3)
    result = polar_by_randomized_svd(x, 4, key=key(), power_iterations=0)
    np.testing.assert_allclose(result, polar(x, 3), atol=1e-4)


def test_a_rank_that_is_none_is_refused():
    for make in (
        scale_by_randomized_egd,
        lambda rank: polar_by_randomized_svd(jnp.ones((2, 2)), rank, key=key()),
    ):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            make(0)
        with pytest.raises(TypeError, match=r"2\.5"):
            make(2.5)
    injected = optax.inject_hyperparams(scale_by_randomized_egd)(rank=3)
    with pytest.raises(TypeError, match="static_args='rank'"):
        jax.jit(injected.init)(jnp.ones((2, 2)))


@pytest.fixture
def grads(rng):
    return {
        "a": jnp.asarray(rng.normal(size=(20, 30)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(30, 20)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=20), jnp.float32),
    }


def run(tx, grads, steps=3, compiled=False):
    update = jax.jit(tx.update) if compiled else tx.update
    state, results = tx.init(grads), []
    for _ in range(steps):
        updates, state = update(grads, state)
        results.append(updates)
    return results


@pytest.mark.parametrize("seed", [3, "key", "rbg"])
def test_a_run_is_the_same_again_from_the_same_seed(grads, seed):
    seed = {"key": key(3), "rbg": jax.random.key(3, impl="rbg")}.get(seed, seed)
    tx = scale_by_randomized_egd(4, seed=seed)
    chex.assert_trees_all_equal(run(tx, grads), run(tx, grads))
    compiled = run(tx, grads, compiled=True)
    chex.assert_trees_all_close(compiled, run(tx, grads), atol=1e-5)


def test_an_integer_and_its_key_are_the_same_seed(grads):
    chex.assert_trees_all_equal(
        run(scale_by_randomized_egd(4, seed=5), grads),
        run(scale_by_randomized_egd(4, seed=key(5)), grads),
    )


def test_each_step_matrix_and_seed_has_its_own_sketch(grads):
    grads["b"] = grads["a"].T
    grads["c"] = grads["a"]
    results = run(scale_by_randomized_egd(4), grads, steps=2)
    results += run(scale_by_randomized_egd(4, seed=1), grads, steps=1)
    factors = [r["a"] for r in results] + [r["c"] for r in results]
    factors += [r["b"].T for r in results]
    for i, one in enumerate(factors):
        np.testing.assert_array_equal(results[0]["bias"], grads["bias"])
        for other in factors[:i]:
            assert np.max(np.abs(one - other)) > 1e-3


def test_a_gradient_of_low_rank_is_whitened_exactly(rng):
    grads = {"tall": of_rank(rng, 40, 20, 5), "wide": of_rank(rng, 20, 30, 6)}
    for updates in run(scale_by_randomized_egd(6), grads):
        np.testing.assert_allclose(updates["tall"], polar(grads["tall"], 5), atol=1e-5)
        np.testing.assert_allclose(updates["wide"], polar(grads["wide"], 6), atol=1e-5)


def test_axes_and_stacks_are_those_of_scale_by_egd(rng):
    kernel = jnp.asarray(of_rank(rng, 12, 20, 2).reshape(3, 4, 20))
    numbers = MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=2)
    tx = scale_by_randomized_egd(2, weight_dimension_numbers=numbers)
    updates, _ = tx.update(kernel, tx.init(kernel))
    exact = polar(kernel.reshape(12, 20), 2)
    np.testing.assert_allclose(updates.reshape(12, 20), exact, atol=1e-5)


def test_a_run_goes_on_from_a_checkpoint(grads):
    tx = scale_by_randomized_egd(4)
    _, state = tx.update(grads, tx.init(grads))
    saved = serialization.to_bytes(state)
    restored = serialization.from_bytes(tx.init(grads), saved)
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal(tx.update(grads, restored), tx.update(grads, state))


def test_seeds_can_be_mapped(grads):
    def first(seed):
        tx = scale_by_randomized_egd(4, seed=seed)
        return tx.update(grads, tx.init(grads))[0]

    together = jax.vmap(first)(jnp.arange(2))
    for seed in range(2):
        one = jax.tree.map(lambda leaf, i=seed: leaf[i], together)
        chex.assert_trees_all_close(one, first(seed), atol=1e-4)


def test_no_tracer_outlives_its_trace():
    with jax.checking_leaks():
        polar_by_randomized_svd(jnp.ones((3, 2)), 1, key=key())
        tx = scale_by_randomized_egd(1)
        params = {"w": jnp.ones((4, 3))}
        tx.update(params, tx.init(params))
