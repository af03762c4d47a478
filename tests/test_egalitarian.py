import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers
from reference import polar

from egd_optax import egd, polar_by_svd, scale_by_egd


@pytest.fixture
def tree(rng):
    return {
        "kernel": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=3), jnp.float32),
    }


@pytest.mark.parametrize("polar_fn", [None, polar_by_svd])
def test_mapping_are_whitened_and_vectors_pass(tree, polar_fn):
    tx = scale_by_egd(polar_fn)
    updates, _ = tx.update(tree, tx.init(tree))
    np.testing.assert_allclose(updates["kernel"], polar(tree["kernel"]), atol=1e-5)
    np.testing.assert_array_equal(updates["bias"], tree["bias"])


def test_a_layer_is_whitened_in_one_call_whatever_the_depth():
    calls = []

    def counted(x):
        calls.append(x.shape)
        return x

    layers = [{"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)} for _ in range(12)]
    tx = scale_by_egd(counted)
    jax.eval_shape(tx.update, layers, tx.init(layers))
    assert calls == [(12, 4, 4)]


def test_egd_is_the_formula_of_its_docstring(tree, rng):
    grads = [jax.tree.map(lambda x: x * s, tree) for s in (1.0, -0.3, 2.0)]
    grads[1]["kernel"] += jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    tx = egd(0.1, momentum=0.8, weight_decay=0.3, adam_learning_rate=0.01)
    params, state = tree, tx.init(tree)
    adam = optax.adam(0.01)
    adam_state = adam.init(tree["bias"])
    weights, trace = np.asarray(tree["kernel"], np.float64), 0.0
    bias = tree["bias"]
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        gradient = np.asarray(grad["kernel"], np.float64)
        trace = 0.8 * trace + gradient
        weights = weights - 0.1 * (polar(gradient + 0.8 * trace) + 0.3 * weights)
        step, adam_state = adam.update(grad["bias"], adam_state)
        bias = bias + step
    np.testing.assert_allclose(params["kernel"], weights, atol=1e-5)
    np.testing.assert_allclose(params["bias"], bias, atol=1e-6)


def test_egd_sees_other_axes_and_skips_what_it_is_told(rng):
    params = {
        "attention": jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32),
        "embedding": jnp.asarray(rng.normal(size=(7, 4)), jnp.float32),
    }
    numbers = {"attention": MuonDimensionNumbers(0, (1, 2)), "embedding": None}
    tx = egd(1.0, weight_decay=0.0, momentum=0.0, weight_dimension_numbers=numbers)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(
        -updates["attention"].reshape(4, 6),
        polar(params["attention"].reshape(4, 6)),
        atol=1e-5,
    )
    np.testing.assert_allclose(jnp.abs(updates["embedding"]), 1e-3, rtol=1e-3)


def test_schedules_drive_learning_rate_and_decay():
    params = {"kernel": jnp.eye(2)}
    tx = egd(
        optax.piecewise_constant_schedule(1.0, {1: 0.5}),
        momentum=0.0,
        weight_decay=optax.piecewise_constant_schedule(0.0, {}),
    )
    state = tx.init(params)
    for expected in (-1.0, -0.5):
        updates, state = tx.update(params, state, params)
        np.testing.assert_allclose(updates["kernel"], expected * np.eye(2), atol=1e-6)
