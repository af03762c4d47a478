import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from egd_optax import (
    add_frobenius_penalty,
    add_nuclear_norm_penalty,
    delayed_onset,
    polar_by_svd,
)


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


@pytest.mark.parametrize("penalty", [add_frobenius_penalty, add_nuclear_norm_penalty])
def test_masks_and_schedules(penalty, params):
    full = added(penalty(2.0), params)
    masked = added(penalty(2.0, mask={"kernel": True, "bias": False}), params)
    assert_same(masked, {"kernel": full["kernel"], "bias": jnp.zeros(3)})
    schedule = delayed_onset(2.0, onset_step=3)
    assert_same(added(penalty(schedule), params, steps=3), masked_zero(params))
    assert_same(added(penalty(schedule), params, steps=4), full)


def masked_zero(params):
    return jax.tree.map(jnp.zeros_like, params)


@pytest.mark.parametrize("penalty", [add_frobenius_penalty, add_nuclear_norm_penalty])
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


def test_a_delayed_penalty_is_frobenius_under_a_schedule(params):
    tx = optax.chain(add_frobenius_penalty(delayed_onset(0.01, 2)), optax.sgd(1.0))
    state = tx.init(params)
    zeros = masked_zero(params)
    for step in range(4):
        updates, state = tx.update(zeros, state, params)
        factor = -0.02 if step >= 2 else 0.0
        assert_same(updates, jax.tree.map(lambda p, f=factor: f * p, params))
