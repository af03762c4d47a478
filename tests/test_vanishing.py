import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from egd_optax import apply_unless_vanished, egd, inverse_time_decay, scale_by_egd


def teacher(rng, widths=(64, 128, 16), examples=512):
    """Weights of a ReLU net with zero loss but for rounding, random ones, the loss."""
    inputs = rng.normal(size=(examples, widths[0]))
    shapes = list(itertools.pairwise(widths))
    weights, others = (
        {str(i): rng.normal(size=s) / np.sqrt(s[0]) for i, s in enumerate(shapes)}
        for _ in range(2)
    )
    targets = np.maximum(inputs @ weights["0"], 0) @ weights["1"]
    inputs, targets, weights, others = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32), (inputs, targets, weights, others)
    )

    def loss(params):
        outputs = jax.nn.relu(inputs @ params["0"]) @ params["1"]
        return jnp.mean((outputs - targets) ** 2)

    return weights, others, loss


def train(tx, params, state, loss, steps):
    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])(
        (params, state)
    )


@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_a_model_at_zero_loss_stays_put(rng, momentum):
    solution, start, loss = teacher(rng)
    for rounding, size in zip(
        *(jax.tree.leaves(jax.grad(loss)(x)) for x in (solution, start)), strict=True
    ):
        share = jnp.max(jnp.abs(rounding)) / jnp.max(jnp.abs(size))
        assert 1e-8 < share < 1e-7

    def after(**options):
        tx = egd(0.01, momentum=momentum, weight_decay=0.0, **options)
        # One step away from the solution, as a training that led there has seen.
        _, state = tx.update(jax.grad(loss)(start), tx.init(start), start)
        return train(tx, solution, state, loss, 100)[0]

    chex.assert_trees_all_equal(after(), solution)
    moved = after(vanishing_threshold=0.0)
    assert loss(moved) > 1e8 * loss(solution)


def test_a_clamp_of_small_singular_values_would_not_keep_it_there(rng):
    def clamped(x):
        u, s, vt = jnp.linalg.svd(x[0], full_matrices=False)
        return ((u * (s / jnp.maximum(s, 1e-6))) @ vt)[None]

    solution, _, loss = teacher(rng)
    tx = optax.chain(scale_by_egd(clamped), optax.scale_by_learning_rate(0.01))
    first, _ = train(tx, solution, tx.init(solution), loss, 1)
    moved, _ = train(tx, solution, tx.init(solution), loss, 100)
    assert loss(first) > 10 * loss(solution)
    assert loss(moved) > 1e8 * loss(solution)


def test_momentum_does_not_go_on_without_a_gradient():
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    tx = egd(0.1, momentum=0.95, weight_decay=0.0)
    _, state = tx.update(params, tx.init(params), params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = tx.update(zeros, state, params)
    chex.assert_trees_all_equal(updates, zeros)
    # From where it left off.
    updates, _ = tx.update(params, state, params)
    assert all(jnp.all(u < 0) for u in jax.tree.leaves(updates))


def test_decay_goes_on():
    params = {"kernel": jnp.ones((3, 2))}
    tx = egd(0.1, weight_decay=0.5)
    updates, _ = tx.update({"kernel": jnp.zeros((3, 2))}, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)


def test_until_then_nothing_is_changed(rng):
    tx, inner = apply_unless_vanished(scale_by_egd()), scale_by_egd()
    grads = {"a": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), "b": jnp.ones(2)}
    state = tx.init(grads)
    for factor in (1.0, 1e-5, 1e30):
        scaled = jax.tree.map(lambda g, f=factor: f * g, grads)
        updates, state = tx.update(scaled, state)
        expected, _ = inner.update(scaled, inner.init(grads))
        chex.assert_trees_all_equal(updates, expected)


def test_leaf_by_leaf_and_with_a_threshold_of_ones_own():
    tx = apply_unless_vanished(optax.identity(), 0.1)
    state = tx.init(jnp.zeros(2))
    grads = {"a": jnp.ones(2), "b": jnp.full(2, 4.0)}
    state = tx.init(grads)
    _, state = tx.update(grads, state)
    grads = {"a": jnp.full(2, 0.3), "b": jnp.full(2, 0.3)}
    updates, _ = tx.update(grads, state)
    np.testing.assert_array_equal(updates["a"], grads["a"])
    np.testing.assert_array_equal(updates["b"], 0)


@pytest.mark.parametrize("outlier", [1e37, jnp.inf, jnp.nan])
def test_an_outlier_stops_nothing(outlier):
    tx = apply_unless_vanished(optax.identity())
    state = tx.init(jnp.zeros(2))
    for size in (1.0, outlier, 1e-5):
        updates, state = tx.update(jnp.full(2, size), state)
        np.testing.assert_array_equal(updates, np.full(2, size, np.float32))
    # As the first gradient, one that is not finite says nothing.
    if not np.isfinite(outlier):
        _, state = tx.update(jnp.full(2, outlier), tx.init(jnp.zeros(2)))
        assert tx.update(jnp.full(2, 1e-9), state)[0].all()


def test_the_threshold_follows_the_dtype():
    with jax.enable_x64(True):
        tx = apply_unless_vanished(optax.identity())
        state = tx.init(jnp.zeros(2, jnp.float64))
        for size, rests in ((1.0, False), (1e-14, False), (1e-15, True)):
            updates, state = tx.update(jnp.full(2, size, jnp.float64), state)
            assert bool(jnp.all(updates == 0)) == rests
    state = tx.init(jnp.zeros(2, jnp.bfloat16))
    for size, rests in ((1.0, False), (1e-5, False), (1e-7, True)):
        updates, state = tx.update(jnp.full(2, size, jnp.bfloat16), state)
        assert updates.dtype == jnp.bfloat16
        assert bool(jnp.all(updates == 0)) == rests


def test_nan_in_a_vanished_gradient_is_seen():
    tx = apply_unless_vanished(scale_by_egd())
    ones = jnp.ones((64, 64))
    _, state = tx.update(ones, tx.init(ones))
    updates, _ = jax.jit(tx.update)(jnp.zeros_like(ones).at[3, 4].set(jnp.nan), state)
    assert np.all(np.isnan(updates))


def test_one_huge_gradient_stops_no_leaf_for_good():
    params = {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}
    huge, usual = (
        {"kernel": size * jnp.eye(3), "bias": jnp.full(3, size)} for size in (1e7, 1.0)
    )
    tx, adam = egd(0.1, weight_decay=0.0), optax.adam(1e-3)
    _, state = tx.update(huge, tx.init(params), params)
    _, adam_state = adam.update(huge["bias"], adam.init(params["bias"]))

    def step(states, _):
        updates, state = tx.update(usual, states[0], params)
        bias, adam_state = adam.update(usual["bias"], states[1])
        resting = optax.tree.get(state, "resting")
        return (state, adam_state), (updates, bias, resting)

    states = (state, adam_state)
    _, (updates, bias, resting) = jax.lax.scan(step, states, length=200)
    np.testing.assert_allclose(updates["kernel"][-1], -0.1 * np.eye(3), atol=1e-6)
    np.testing.assert_allclose(updates["bias"][-1], bias[-1], rtol=1e-6)
    np.testing.assert_array_equal(resting, np.where(np.arange(200) < 192, 2, 0))


@pytest.mark.parametrize("intercept", [16.0, 20.0, 60.0])
def test_an_honest_fall_by_many_orders_of_magnitude_goes_on(rng, intercept):
    inputs = rng.normal(size=(256, 8))
    inputs[:, -1] = 1
    counts = rng.poisson(np.exp(inputs @ rng.normal(size=(8, 1)) / 3))
    inputs, counts = jnp.asarray(inputs, jnp.float32), jnp.asarray(counts, jnp.float32)

    def loss(weights):
        return jnp.mean(jnp.exp(inputs @ weights) - counts * (inputs @ weights))

    start = jnp.zeros((8, 1)).at[-1].set(intercept)
    ends = []
    for threshold in (None, 0.0):
        tx = egd(0.1, weight_decay=0.0, vanishing_threshold=threshold)
        ends.append(train(tx, start, tx.init(start), loss, 1000)[0])
    np.testing.assert_array_equal(*ends)
    best = optax.contrib.muon(optax.cosine_decay_schedule(1.0, 1000))
    best = train(best, jnp.zeros((8, 1)), best.init(jnp.zeros((8, 1))), loss, 1000)[0]
    assert loss(ends[0]) < loss(best) + 0.01


@pytest.mark.parametrize("batch", [16, 512])
def test_zero_loss_is_kept_through_many_trials(rng, batch):
    solution, start, loss = teacher(rng, examples=batch)
    tx = egd(0.1, weight_decay=0.0)
    _, state = tx.update(jax.grad(loss)(start), tx.init(start), start)
    params, state = train(tx, solution, state, loss, 1500)
    assert optax.tree.get(state, "resting") == 2
    # 1.7e-7 of the start's, 1e8 times as much without.
    assert loss(params) < 100 * loss(solution)


def test_a_gradient_of_zero_changes_nothing():
    tx = apply_unless_vanished(optax.identity())
    state, ones = tx.init(jnp.zeros(2)), jnp.ones(2)
    for gradient, rests in ((ones, False), (0 * ones, True), (1e-6 * ones, False)):
        before = state
        updates, state = tx.update(gradient, state)
        np.testing.assert_array_equal(updates, gradient)
        assert state.resting == rests
        if rests:
            chex.assert_trees_all_equal(state._replace(resting=0), before)


def test_a_leaf_that_trains_has_the_same_bits_as_without(rng):
    start, target = jnp.asarray(rng.normal(size=(2, 32, 24)), jnp.float32)

    def steps(direction):
        tx = optax.chain(
            direction,
            optax.add_decayed_weights(0.07),
            optax.scale_by_learning_rate(inverse_time_decay(0.1, 10.0)),
        )

        def loss(weights):
            return 0.3 * jnp.sum((weights - target) ** 2)

        return train(tx, start, tx.init(start), loss, 10)[0]

    whitened = optax.chain(optax.trace(0.5, nesterov=True), scale_by_egd())
    np.testing.assert_array_equal(
        steps(apply_unless_vanished(whitened)), steps(whitened)
    )
