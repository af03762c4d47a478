"""What every transformation and alias must do, after optax's own contract.

The demands are those that optax makes of contributed optimizers; the factories are
found in the public API, so that a new one cannot be forgotten.
"""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import egd_optax

# What each factory needs; all else is left at its default.
ARGUMENTS = {
    "add_frobenius_penalty": {"strength": 1e-3},
    "add_log_det_penalty": {"strength": 1e-3, "eps": 0.1},
    "add_nuclear_norm_penalty": {"strength": 1e-3},
    "apply_unless_vanished": {"inner": egd_optax.scale_by_egd()},
    "clip_weight_row_norms": {"max_norm": 2.0},
    "delayed_frobenius_penalty": {},
    "egd": {"learning_rate": 1e-2},
    "egd()": {},  # which is another optimizer
    "grokfast_ema": {},
    "grokfast_ma": {},
    "normalize_by_column_norm": {},
    "orthogonal_gradient": {},
    "scale_by_egd": {},
    # Static under inject_hyperparams, as a plain int is not.
    "scale_by_randomized_egd": {"rank": np.int64(1)},
    "switch_on_metric": {
        "metric": "train_accuracy",
        "threshold": 0.5,
        "before": egd_optax.scale_by_egd(),
        "after": optax.identity(),
    },
}
# What is no factory of a transformation.
OTHERS = {
    "inverse_time_decay",
    "condition_numbers",
    "delayed_onset",
    "effective_ranks",
    "equinox_dimension_numbers",
    "flax_dimension_numbers",
    "haiku_dimension_numbers",
    "polar_by_eigh",
    "polar_factor",
    "polar_by_newton_schulz",
    "polar_by_randomized_svd",
    "polar_by_svd",
    "singular_values",
    "tabulate_matrices",
    "unit_columns",
}
FACTORIES = sorted(ARGUMENTS)
EXTRA = {"train_accuracy": 0.1, "nobody_expects_this": 1}


def factory(name):
    return getattr(egd_optax, name.removesuffix("()"))


def make(name):
    return factory(name)(**ARGUMENTS[name])


def optimizer(name):
    """A transformation made to descend; an alias does already."""
    if name in ("egd", "egd()"):
        return make(name)
    if name == "clip_weight_row_norms":
        return optax.chain(optax.scale_by_learning_rate(1e-2), make(name))
    return optax.chain(make(name), optax.scale_by_learning_rate(1e-2))


def test_every_public_factory_is_tested():
    public = {
        name
        for name in egd_optax.__all__
        if inspect.isfunction(getattr(egd_optax, name))
    }
    assert public == set(FACTORIES) - {"egd()"} | OTHERS


def mixed_target(dtype):
    """A vector and two matrices, one of them of rank one."""
    final = {
        "vector": jnp.array([1.0, -1.0, 2.0], dtype),
        "matrix": jnp.array([[1.0, 0.0], [-1.0, 0.5]], dtype),
        "wide": jnp.array([[1.0, -1.0, 0.5]], dtype),
    }
    initial = jax.tree.map(jnp.zeros_like, final)

    def loss(params):
        distances = jax.tree.map(lambda p, f: jnp.sum((p - f) ** 2), params, final)
        return sum(jax.tree.leaves(distances))

    return initial, final, loss


def rosenbrock(dtype):
    initial = jnp.zeros(2, dtype)

    def loss(params):
        return (1 - params[0]) ** 2 + 100 * (params[1] - params[0] ** 2) ** 2

    return initial, jnp.ones(2, dtype), loss


def step_fn(tx, loss):
    def step(params, state):
        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state, params, **EXTRA)
        return optax.apply_updates(params, updates), state

    return step


@pytest.mark.parametrize("name", FACTORIES)
def test_accepts_extra_arguments_and_compiles_once(name):
    params, _, loss = mixed_target(jnp.float32)
    tx = make(name)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(step_fn(tx, loss), n=1))
    state = tx.init(params)
    for _ in range(3):
        params, state = step(params, state)


@pytest.mark.parametrize("target", [mixed_target, rosenbrock])
# ⊥Grad turns the weights but keeps their norm: tests/test_constraints.py. Steps of
# egd() fall as the bounce around a minimum does, in more steps than these.
@pytest.mark.parametrize(
    "name", sorted(set(FACTORIES) - {"orthogonal_gradient", "egd()"})
)
def test_converges(name, target):
    if target is rosenbrock and name != "egd":
        # Plain descent leaves the valley at any useful learning rate.
        tx = optax.chain(make(name), optax.adam(3e-3))
    else:
        tx = optimizer(name)
    params, final, loss = target(jnp.float32)
    step = step_fn(tx, loss)
    (params, _), _ = jax.jit(
        lambda carry: jax.lax.scan(lambda c, _: (step(*c), None), carry, length=20_000)
    )((params, tx.init(params)))
    chex.assert_trees_all_close(params, final, rtol=5e-2, atol=5e-2)


# One leaf is to be passed over; tests/test_default_rule.py.
@pytest.mark.filterwarnings("ignore:leaves of more than two axes")
@pytest.mark.parametrize("name", FACTORIES)
def test_survives_inject_hyperparams(name):
    make_with, arguments = factory(name), ARGUMENTS[name]
    params = {"a": -jnp.ones((2, 3)), "b": jnp.ones((2, 5, 2)), "c": jnp.ones(3)}
    grads = jax.tree.map(jnp.negative, params)
    plain = make_with(**arguments)
    injected = optax.inject_hyperparams(make_with)(**arguments)
    state, injected_state = jax.jit(plain.init)(params), jax.jit(injected.init)(params)
    for _ in range(2):
        updates, state = jax.jit(plain.update)(grads, state, params, **EXTRA)
        injected_updates, injected_state = jax.jit(injected.update)(
            grads, injected_state, params, **EXTRA
        )
    chex.assert_trees_all_close(injected_updates, updates, rtol=1e-5)
    chex.assert_trees_all_close(injected_state.inner_state, state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("name", FACTORIES)
def test_preserves_dtypes_and_shapes_under_cond(name, dtype):
    params, _, loss = mixed_target(dtype)
    tx = make(name)
    state = tx.init(params)
    grads = jax.grad(loss)(params)
    updates, new_state = jax.jit(tx.update)(grads, state, params, **EXTRA)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    # Both sides of a cond must agree in every type, weak ones included.
    jax.lax.cond(
        jnp.array(True),
        lambda: tx.update(grads, state, params, **EXTRA),
        lambda: (params, state),
    )


@pytest.mark.parametrize("name", FACTORIES)
def test_float64_stays_float64(name):
    with jax.enable_x64(True):
        params, _, loss = mixed_target(jnp.float64)
        tx = make(name)
        state = tx.init(params)
        updates, new_state = tx.update(jax.grad(loss)(params), state, params, **EXTRA)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("name", FACTORIES)
def test_accumulates_gradients_in_multi_steps(name, dtype):
    params, _, loss = mixed_target(dtype)
    tx = optax.MultiSteps(make(name), every_k_schedule=2)
    state = jax.jit(tx.init)(params)
    grads = jax.grad(loss)(params)
    updates, state = jax.jit(tx.update)(grads, state, params, **EXTRA)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    updates, _ = jax.jit(tx.update)(grads, state, params, **EXTRA)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", FACTORIES)
def test_state_can_be_mapped_over_parameters(name):
    params, _, _ = mixed_target(jnp.float32)
    tx = make(name)
    state = tx.init(params)
    mapped = optax.tree.map_params(tx, lambda leaf: leaf, state)
    chex.assert_trees_all_equal(mapped, state)


@pytest.mark.parametrize("name", FACTORIES)
def test_nan_reaches_apply_if_finite(name):
    params = {"matrix": jnp.ones((2, 2)), "vector": jnp.ones(2)}
    grads = {"matrix": jnp.array([[1.0, jnp.nan], [0.0, 1.0]]), "vector": jnp.ones(2)}
    tx = optax.apply_if_finite(make(name), max_consecutive_errors=3)
    updates, state = tx.update(grads, tx.init(params), params, **EXTRA)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    assert state.notfinite_count == 1


@pytest.mark.parametrize("name", FACTORIES)
def test_zero_gradients_stay_finite(name):
    params = {"matrix": jnp.zeros((2, 2)), "vector": jnp.zeros(2)}
    tx = make(name)
    updates, _ = tx.update(params, tx.init(params), params, **EXTRA)
    chex.assert_trees_all_close(updates, params)


# The steps of egd() depend on how many matrices there are.
@pytest.mark.parametrize("name", sorted(set(FACTORIES) - {"egd()"}))
def test_leaves_without_values_are_passed_over(name):
    params, _, loss = mixed_target(jnp.float32)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    grads = jax.grad(loss)(params)
    tx = make(name)
    expected, _ = tx.update(grads, tx.init(params), params, **EXTRA)

    empty = {"vector": None, "matrix": params["matrix"], "wide": None}
    updates, _ = tx.update(
        empty | {"matrix": grads["matrix"]}, tx.init(empty), empty, **EXTRA
    )
    chex.assert_trees_all_close(updates, empty | {"matrix": expected["matrix"]})

    masked = optax.masked(tx, {"vector": False, "matrix": True, "wide": False})
    updates, _ = masked.update(grads, masked.init(params), params, **EXTRA)
    chex.assert_trees_all_close(updates, grads | {"matrix": expected["matrix"]})


@pytest.mark.parametrize("name", FACTORIES)
def test_runs_under_vmap(name):
    params, _, loss = mixed_target(jnp.float32)
    tx = make(name)
    scales = jnp.array([1.0, 2.0])
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf + 0.1, leaf - 0.2]), params)
    grads = jax.vmap(lambda p, s: jax.grad(lambda q: s * loss(q))(p))(stacked, scales)

    def update(grads, params):
        return tx.update(grads, tx.init(params), params, **EXTRA)[0]

    together = jax.vmap(update)(grads, stacked)
    for member in range(2):
        alone = update(*jax.tree.map(lambda leaf, i=member: leaf[i], (grads, stacked)))
        one = jax.tree.map(lambda leaf, i=member: leaf[i], together)
        chex.assert_trees_all_close(alone, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", [optax.constant_schedule(1e-3)])
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("egd", "learning_rate"),
        ("egd", "weight_decay"),
        ("egd", "adam_learning_rate"),
        ("add_frobenius_penalty", "strength"),
        ("add_log_det_penalty", "strength"),
        ("add_nuclear_norm_penalty", "strength"),
        ("delayed_frobenius_penalty", "strength"),
    ],
)
def test_a_constant_schedule_is_a_number(name, argument, schedule):
    results = []
    extra = {"train_accuracy": 1.0}
    for value in (1e-3, schedule):
        params, _, loss = mixed_target(jnp.float32)
        params = jax.tree.map(lambda leaf: leaf + 0.3, params)
        tx = factory(name)(**(ARGUMENTS[name] | {argument: value}))
        state = tx.init(params)
        for _ in range(3):
            grads = jax.grad(loss)(params)
            updates, state = tx.update(grads, state, params, **extra)
        results.append(updates)
    chex.assert_trees_all_close(*results, rtol=1e-6)


@pytest.mark.parametrize("name", FACTORIES)
def test_leaves_of_one_shape_in_bfloat16_under_jit(name):
    params, _, _ = mixed_target(jnp.bfloat16)
    params = {"one": params, "two": params}
    grads = jax.tree.map(lambda leaf: leaf + 1, params)
    tx = make(name)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params, **EXTRA)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_tree_all_finite(updates)


@pytest.mark.parametrize("name", FACTORIES)
def test_steps_under_checkpoint_with_donated_buffers(name):
    params, _, loss = mixed_target(jnp.float32)
    params = {"one": params, "two": jax.tree.map(lambda leaf: leaf + 0.1, params)}
    tx = optimizer(name)

    def total(params):
        return loss(params["one"]) + loss(params["two"])

    plain = step_fn(tx, total)
    again = jax.jit(
        step_fn(tx, jax.checkpoint(total)),
        donate_argnums=(0, 1),
        keep_unused=True,  # a count of the last step alone is never read
    )
    expected = jax.jit(plain)(params, tx.init(params))
    # As init made it: a copy would part what shares a buffer. A warning is an error.
    state = tx.init(params)
    given = jax.tree.leaves((params, state))
    params, state = again(params, state)
    chex.assert_trees_all_close((params, state), expected, rtol=1e-5)
    assert all(leaf.is_deleted() for leaf in given)
    again(params, state)


def test_a_donated_state_leaves_the_key_that_it_was_made_from():
    seed, params = jax.random.key(3), jnp.ones((3, 2))
    tx = egd_optax.scale_by_randomized_egd(1, seed=seed)
    update = jax.jit(tx.update, donate_argnums=1)
    first, _ = update(params, tx.init(params))
    again, _ = update(params, tx.init(params))
    chex.assert_trees_all_equal(first, again)
