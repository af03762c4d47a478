import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from egd_optax import delayed_frobenius_penalty, switch_on_metric


def run(tx, metrics, name="accuracy"):
    params = jnp.array([1.0, -2.0])
    state = tx.init(params)
    update = jax.jit(tx.update)
    for value in metrics:
        updates, state = update(params, state, params, **{name: value})
        yield updates[0]


def test_it_latches_and_takes_effect_at_once():
    tx = switch_on_metric("accuracy", 0.9, optax.scale(1.0), optax.scale(10.0))
    metrics = [0.1, jnp.nan, 0.899, 0.9, 0.1, jnp.nan]
    assert [float(x) for x in run(tx, metrics)] == [1, 1, 1, 10, 10, 10]


def test_each_branch_counts_its_own_steps():
    schedule = optax.scale_by_schedule(lambda count: count)
    tx = switch_on_metric("accuracy", 0.5, schedule, schedule)
    metrics = [0.0, 0.0, 0.0, 1.0, 0.0]
    assert [float(x) for x in run(tx, metrics)] == [0, 1, 2, 0, 1]


def test_only_the_branch_in_force_runs():
    ran = []

    def spy(name):
        def update(updates, params=None):
            jax.debug.callback(lambda: ran.append(name))
            return updates

        return optax.stateless(update)

    tx = switch_on_metric("accuracy", 0.5, spy("before"), spy("after"))
    jax.block_until_ready(list(run(tx, [0.0, 1.0, 0.0])))
    jax.effects_barrier()
    assert ran == ["before", "after", "after"]


def test_extra_arguments_reach_the_branches():
    inner = optax.GradientTransformationExtraArgs(
        optax.init_empty_state,
        lambda updates, state, params=None, *, factor, **_: (updates * factor, state),
    )
    tx = switch_on_metric("accuracy", 0.5, inner, inner)
    grads = jnp.ones(2)
    updates, _ = tx.update(grads, tx.init(grads), accuracy=0.0, factor=3.0)
    np.testing.assert_array_equal(updates, [3, 3])


def test_a_metric_that_is_not_passed_is_named_at_trace_time():
    tx = optax.chain(delayed_frobenius_penalty(), optax.sgd(0.1))
    params = jnp.ones(2)
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"train_accuracy=.*passed: value"):
        jax.eval_shape(lambda: tx.update(params, state, params, value=1.0))
    with pytest.raises(ValueError, match="train_accuracy must be a real scalar, got "):
        tx.update(params, state, params, train_accuracy=jnp.ones(2))


def test_vmap_switches_each_member_by_itself():
    tx = switch_on_metric("accuracy", 0.5, optax.scale(1.0), optax.scale(10.0))
    params = jnp.ones((3, 2))
    state = jax.vmap(tx.init)(params)

    def update(grads, state, accuracy):
        return tx.update(grads, state, accuracy=accuracy)

    updates, state = jax.vmap(update)(params, state, jnp.array([0.1, 0.9, 0.2]))
    np.testing.assert_array_equal(updates[:, 0], [1, 10, 1])
    np.testing.assert_array_equal(state.switched, [False, True, False])


def test_switching_does_not_recompile():
    tx = delayed_frobenius_penalty()
    params = jnp.ones(2)
    state = tx.init(params)
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(tx.update, n=1))
    for accuracy in (0.1, 1.0, 0.2):
        _, state = update(params, state, params, train_accuracy=jnp.float32(accuracy))
    assert state.switched


def test_delayed_frobenius_penalty_is_the_published_one():
    tx = delayed_frobenius_penalty()
    metrics = [0.98, 0.99, 0.5]
    updates = list(run(tx, metrics, name="train_accuracy"))
    np.testing.assert_allclose(updates, [1, 1.02, 1.02], rtol=1e-6)
