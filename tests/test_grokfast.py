import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from egd_optax import grokfast_ema, grokfast_ma


def ema_in_numpy(grads, alpha, lamb):
    average = grads[0]
    for grad in grads:
        average = alpha * average + (1 - alpha) * grad
        yield grad + lamb * average


def ma_in_numpy(grads, window_size, lamb, filter_type, warmup):
    for last in range(len(grads)):
        queue = grads[max(0, last + 1 - window_size) : last + 1]
        slow = queue.mean(axis=0) if filter_type == "mean" else queue.sum(axis=0)
        waiting = warmup and len(queue) < window_size
        yield grads[last] + (0 if waiting else lamb * slow)


def filtered(tx, grads):
    state = tx.init(jnp.asarray(grads[0], jnp.float32))
    update = jax.jit(tx.update)
    for grad in grads:
        result, state = update(jnp.asarray(grad, jnp.float32), state)
        yield result


@pytest.fixture
def grads(rng):
    return rng.normal(size=(300, 3, 2)) + 0.3


def assert_equal_to_float32(ours, reference):
    np.testing.assert_allclose(np.array(list(ours)), list(reference), 5e-6, 5e-6)


@pytest.mark.parametrize(("alpha", "lamb"), [(0.98, 2.0), (0.8, 0.1), (0.0, 1.0)])
def test_ema_is_its_definition(grads, alpha, lamb):
    ours = filtered(grokfast_ema(alpha, lamb), grads)
    assert_equal_to_float32(ours, ema_in_numpy(grads, alpha, lamb))


@pytest.mark.parametrize("filter_type", ["mean", "sum"])
@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("window_size", [1, 7, 100, 400])
def test_ma_is_its_definition(grads, window_size, filter_type, warmup):
    lamb = 5.0 if filter_type == "mean" else 0.05
    options = {"filter_type": filter_type, "warmup": warmup}
    ours = filtered(grokfast_ma(window_size, lamb, **options), grads)
    reference = ma_in_numpy(grads, window_size, lamb, filter_type, warmup)
    assert_equal_to_float32(ours, reference)


def test_ma_does_not_gather_rounding_errors():
    # A spike of 1e6 leaves errors of 0.1 in a sum that is only added to and taken from.
    grads = np.full((40, 1), 1e-3)
    grads[5] = 1e6
    *_, last = filtered(grokfast_ma(8, 1.0), grads)
    np.testing.assert_allclose(last, 2e-3, rtol=1e-5)


def test_defaults_are_the_papers(grads):
    assert_equal_to_float32(
        filtered(grokfast_ma(), grads), ma_in_numpy(grads, 100, 5.0, "mean", True)
    )
    assert_equal_to_float32(
        filtered(grokfast_ema(), grads), ema_in_numpy(grads, 0.98, 2.0)
    )


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'median'"):
        grokfast_ma(filter_type="median")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        grokfast_ma(0)
    with pytest.raises(TypeError, match=r"2\.5"):
        grokfast_ma(2.5)
    injected = optax.inject_hyperparams(grokfast_ma)(window_size=3)
    with pytest.raises(TypeError, match="static_args='window_size'"):
        jax.jit(injected.init)(jnp.ones(2))


def test_gradients_whose_sum_is_too_large_have_their_mean():
    results = list(filtered(grokfast_ma(100, 0.5), np.full((250, 1), 1e38)))
    np.testing.assert_allclose(results[99:], 1.5e38, rtol=1e-5)


@pytest.mark.parametrize("tx", [grokfast_ema(), grokfast_ma(4)])
def test_slow_parts_of_half_precision_are_kept_in_float32(tx):
    params = jnp.ones(3, jnp.bfloat16)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(params, state)
    slow = state.ema if hasattr(state, "ema") else state.mean
    assert (slow.dtype, updates.dtype) == (jnp.float32, jnp.bfloat16)
