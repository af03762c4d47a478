from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers
from reference import log_spaced, matrix_with_spectrum

from egd_optax import (
    add_frobenius_penalty,
    add_log_det_penalty,
    add_nuclear_norm_penalty,
    delayed_onset,
    inverse_time_decay,
    polar_by_svd,
)

PENALTIES = [
    add_frobenius_penalty,
    add_nuclear_norm_penalty,
    partial(add_log_det_penalty, eps=0.1),
]


@pytest.fixture
def params(rng):
    return {
        "kernel": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=3), jnp.float32),
    }


def added(tx, params, steps=1):
    state = tx.init(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for _ in range(steps):
        updates, state = tx.update(zeros, state, params)
    return updates


def assert_same(ours, reference):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        ours,
        reference,
    )


def test_frobenius_is_the_gradient_of_its_loss(params):
    def loss(tree):
        return 0.3 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))

    assert_same(added(add_frobenius_penalty(0.3), params), jax.grad(loss)(params))


@pytest.mark.parametrize("polar_fn", [None, polar_by_svd])
def test_nuclear_norm_is_the_gradient_of_its_loss(params, polar_fn):
    def loss(tree):
        return 0.3 * jnp.linalg.norm(tree["kernel"], "nuc")

    tx = add_nuclear_norm_penalty(0.3, polar_fn=polar_fn)
    assert_same(added(tx, params), jax.grad(loss)(params))


def log_det_gradient(w, strength, eps):
    """In float64, by differentiating the penalty itself."""

    def loss(w):
        return strength * jnp.linalg.slogdet(w @ w.T / eps + jnp.eye(len(w)))[1]

    with jax.enable_x64(True):
        return np.asarray(jax.grad(loss)(jnp.asarray(w, jnp.float64)))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (60, 60), (97, 40), (1, 4)])
@pytest.mark.parametrize("eps", [1e-3, 0.1, 10.0])
def test_log_det_is_the_gradient_of_its_loss(shape, eps, rng):
    w = matrix_with_spectrum(rng, *shape, 3 * log_spaced(min(shape), 1e3))
    expected = log_det_gradient(w, 0.3, eps)
    ours = added(add_log_det_penalty(0.3, eps=eps), jnp.asarray(w))
    error = np.linalg.norm(ours - expected, 2)
    # Rounding of the Gram matrix, whose largest eigenvalue is 9, against ε.
    assert error < (1e-6 + 1e-7 * 9 / eps) * np.linalg.norm(expected, 2)


def test_log_det_sees_other_axes(rng):
    w = rng.normal(size=(2, 3, 7)).astype(np.float32)
    numbers = MuonDimensionNumbers(reduction_axis=2, output_axis=1)
    tx = add_log_det_penalty(0.3, eps=0.5, weight_dimension_numbers=numbers)
    expected = [log_det_gradient(member, 0.3, 0.5) for member in w]
    np.testing.assert_allclose(added(tx, jnp.asarray(w)), expected, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e4, 1e30])
@pytest.mark.parametrize("eps", [1e-30, 1e-6, 1e6])
def test_log_det_is_finite_for_weights_of_any_size_and_rank(scale, eps, rng):
    w = rng.normal(size=(300, 20)) @ rng.normal(size=(20, 200)) * scale
    ours = added(add_log_det_penalty(1.0, eps=eps), jnp.asarray(w, jnp.float32))
    assert np.all(np.isfinite(ours)) and np.any(ours)
    # Singular values above √ε are pushed by 2 / σ, whatever is below.
    if scale >= 1e4 and eps <= 1e-6:
        expected = 2 * np.linalg.pinv(w, rcond=1e-9).T
        error = np.linalg.norm(ours - expected, 2)
        assert error < 1e-2 * np.linalg.norm(expected, 2)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_masks_and_schedules(penalty, params):
    full = added(penalty(2.0), params)
    masked = added(penalty(2.0, mask={"kernel": True, "bias": False}), params)
    assert_same(masked, {"kernel": full["kernel"], "bias": jnp.zeros(3)})
    schedule = delayed_onset(2.0, onset_step=3)
    assert_same(added(penalty(schedule), params, steps=3), masked_zero(params))
    assert_same(added(penalty(schedule), params, steps=4), full)


def masked_zero(params):
    return jax.tree.map(jnp.zeros_like, params)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_parameters_are_asked_for(penalty, params):
    tx = penalty(0.1)
    with pytest.raises(ValueError, match="params"):
        tx.update(params, tx.init(params))


def test_a_schedule_in_float32_does_not_promote_the_update():
    params = jnp.ones((2, 2), jnp.bfloat16)
    tx = add_frobenius_penalty(lambda count: jnp.float32(0.1))
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates.dtype == jnp.bfloat16


@pytest.mark.parametrize("ramp_steps", [0, 1, 8])
def test_onset_and_ramp(ramp_steps):
    schedule = delayed_onset(0.5, 10, ramp_steps)
    steps = np.arange(30)
    ramp = (
        (steps >= 10) if ramp_steps == 0 else np.clip((steps - 10) / ramp_steps, 0, 1)
    )
    np.testing.assert_allclose([schedule(t) for t in steps], 0.5 * ramp, rtol=1e-6)
    traced = jax.jit(lambda t, *args: delayed_onset(*args)(t))
    np.testing.assert_allclose(traced(15, 0.5, 10, ramp_steps), 0.5 * ramp[15], 1e-6)


@pytest.mark.parametrize("ramp_steps", [0, 10])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, jnp.uint32, np.int64])
def test_no_count_is_past_an_onset_that_is_to_come(dtype, ramp_steps):
    schedule = delayed_onset(1.0, 10, ramp_steps)
    values = [float(schedule(dtype(step))) for step in (0, 5, 9, 25)]
    assert values == [0, 0, 0, 1]


@pytest.mark.parametrize("dtype", [np.float16, jnp.float16, jnp.bfloat16])
def test_steps_of_16_bits_are_no_limit_to_a_schedule(dtype):
    rate = inverse_time_decay(0.1, dtype(256))(jnp.int32(70000))
    np.testing.assert_allclose(rate, 0.1 / (1 + 70000 / 256), rtol=1e-6)
    onset = delayed_onset(1.0, dtype(1024))
    assert [float(onset(jnp.int32(step))) for step in (1023, 1024)] == [0, 1]


def test_a_delayed_penalty_is_frobenius_under_a_schedule(params):
    tx = optax.chain(add_frobenius_penalty(delayed_onset(0.01, 2)), optax.sgd(1.0))
    state = tx.init(params)
    zeros = masked_zero(params)
    for step in range(4):
        updates, state = tx.update(zeros, state, params)
        factor = -0.02 if step >= 2 else 0.0
        assert_same(updates, jax.tree.map(lambda p, f=factor: f * p, params))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("dtype", "size"), [(jnp.float32, 3e38), (jnp.float16, 6e4)])
def test_a_weak_penalty_of_the_largest_weights_is_finite(penalty, dtype, size):
    w = {"kernel": jnp.full((2, 3), size, dtype)}
    updates = added(penalty(1e-3), w)
    assert updates["kernel"].dtype == dtype
    assert np.all(np.isfinite(updates["kernel"]))
    if penalty is add_frobenius_penalty:
        np.testing.assert_allclose(updates["kernel"], 2e-3 * size, rtol=1e-3)
