"""How methods are put together: matrices and vectors apart, directions, the window."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from reference import polar

import egd_optax
from egd_optax.grokking.methods import directions, tuned
from egd_optax.grokking.methods.matrices import all_matrices, with_matrices_apart
from egd_optax.grokking.methods.window import grokfast_of_any_window
from egd_optax.grokking.problems.problem import modular
from egd_optax.grokking.recipes import RECIPES, TUNED
from egd_optax.grokking.search.trials import settings_at, spread_out

NET = modular("addition", 5, width=6)
TRANSFORMER = modular("addition", 5, model="transformer", width=8)


def draw(problem, seed):
    params = nnx.state(problem.make_model(nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params
    )


def by_path(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("problem", [NET, TRANSFORMER], ids=["net", "transformer"])
def test_without_rows_nothing_changes_but_the_tree(problem):
    params, grads = draw(problem, 0), draw(problem, 1)
    plain = egd_optax.egd(0.1, weight_dimension_numbers=all_matrices)
    apart = with_matrices_apart(egd_optax.egd(0.1))
    updates = [
        by_path(tx.update(grads, tx.init(params), params)[0]) for tx in (plain, apart)
    ]
    assert updates[0].keys() == updates[1].keys()
    for path, expected in updates[0].items():
        np.testing.assert_allclose(updates[1][path], expected, atol=1e-6)


def test_a_bias_as_a_row_has_its_matrix_direction():
    params, grads = draw(TRANSFORMER, 0), draw(TRANSFORMER, 1)
    tx = with_matrices_apart(optax.chain(egd_optax.scale_by_egd()), 1)
    found = by_path(tx.update(grads, tx.init(params), params)[0])
    given = by_path(grads)
    kernel, *_ = (path for path in given if "query" in path and "kernel" in path)
    bias = kernel.replace("kernel", "bias")
    matrix = np.vstack([given[kernel].reshape(8, 8), given[bias].reshape(1, 8)])
    moved = np.vstack([found[kernel].reshape(8, 8), found[bias].reshape(1, 8)])
    np.testing.assert_allclose(moved, polar(matrix), atol=1e-5)
    # What belongs to no matrix passes.
    for path in given:
        if "norm" in path:
            np.testing.assert_array_equal(found[path], given[path])


def test_a_traced_choice_is_the_written_one():
    params, grads = draw(NET, 0), draw(NET, 1)

    def step(rows):
        settings = {"learning_rate": 0.1, "shrinkage": 0.01, "vector_shrinkage": 0.1}
        tx = tuned.egd(**settings, biases_as_rows=rows)
        return tx.update(grads, tx.init(params), params)[0]

    for rows in (0, 1):
        traced, written = by_path(jax.jit(step)(rows)), by_path(step(rows))
        for path, expected in written.items():
            np.testing.assert_allclose(traced[path], expected, atol=1e-6)
    (bias,) = (path for path in written if "bias" in path)
    assert not np.allclose(written[bias], by_path(step(0))[bias])


@pytest.mark.parametrize(
    ("method", "name", "values"),
    [(tuned.clipped_rows, "by_lion", (0, 1)), (tuned.grokfast_ma, "window_size", [3])],
)
def test_what_is_written_holds_no_more_than_it_needs(method, name, values):
    params, grads = draw(NET, 0), draw(NET, 1)

    def step(value):
        tx = optax.with_extra_args_support(method(learning_rate=0.1, **{name: value}))
        state = tx.init(params)
        for _ in range(4):
            updates, state = tx.update(grads, state, params)
        return updates, state

    for value in values:
        traced, traced_state = jax.jit(step)(value)
        written, written_state = step(value)
        chex.assert_trees_all_close(traced, written, atol=1e-6)
        sizes = [
            sum(leaf.size for leaf in jax.tree.leaves(state))
            for state in (traced_state, written_state)
        ]
        assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("direction", "norms"),
    [
        (directions.plain, lambda d, x: (d, x)),
        (directions.sign, lambda d, x: (np.abs(d), np.ones_like(x))),
        (directions.frobenius, lambda d, x: (np.linalg.norm(d), 1)),
        (directions.columns, lambda d, x: (np.linalg.norm(d, axis=-2), np.ones(5))),
        (directions.rows, lambda d, x: (np.linalg.norm(d, axis=-1), np.ones(3))),
    ],
)
def test_directions_have_the_norms_that_they_are_named_for(rng, direction, norms):
    x = 1e-12 * rng.normal(size=(3, 5)).astype(np.float32)
    found = np.asarray(direction(jnp.asarray(x)))
    np.testing.assert_allclose(*norms(found, x), rtol=1e-5)
    np.testing.assert_array_equal(np.sign(found), np.sign(x))
    np.testing.assert_array_equal(direction(jnp.zeros((3, 5))), 0)


def test_five_steps_come_near_the_polar_factor(rng):
    x = rng.normal(size=(8, 5)).astype(np.float32)
    found = np.asarray(directions.five_steps(jnp.asarray(x)))
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    kept = np.diag(u.T @ found @ vt.T)
    assert (kept > 0.6).all() and (kept < 1.3).all()


def test_the_rank_may_be_traced(rng):
    x = jnp.asarray(rng.normal(size=(40, 30)), jnp.float32)
    found = jax.jit(lambda x, rank: directions.randomized(rank)(x))
    for rank in (4, 16, 48):
        s = np.linalg.svd(found(x, rank), compute_uv=False)
        assert np.sum(s > 0.5) == min(rank, 30)
        np.testing.assert_allclose(
            found(x, rank), directions.randomized(rank)(x), atol=1e-4
        )


@pytest.mark.parametrize("window", [1, 3, 5])
def test_any_window_is_that_of_grokfast_ma(rng, window):
    grads = rng.normal(size=(12, 4)).astype(np.float32)
    known = egd_optax.grokfast_ma(window, 2.0)
    any_window = grokfast_of_any_window(window, 2.0, at_most=5)
    states = [tx.init(jnp.zeros(4)) for tx in (known, any_window)]
    for g in grads:
        (a, first), (b, second) = (
            tx.update(jnp.asarray(g), state)
            for tx, state in zip((known, any_window), states, strict=True)
        )
        states = [first, second]
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", TUNED)
def test_all_settings_of_a_tuned_method_may_be_traced(name):
    space = RECIPES[name].space
    values = settings_at(space, spread_out(len(space), 1, seed=0))
    params = nnx.state(NET.make_model(nnx.Rngs(0)), nnx.Param)

    def step(values):
        tx = optax.with_extra_args_support(RECIPES[name].build(NET, **values))
        return tx.update(params, tx.init(params), params, train_accuracy=1.0)[0]

    traced = jax.eval_shape(step, {k: jnp.asarray(v) for k, v in values.items()})
    assert jax.tree.structure(traced) == jax.tree.structure(params)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(traced))
