"""Eigendecompositions that do not converge: that matrix goes another way, is counted.

LAPACK does not fail on request. Here an eigh is put in its place that answers NaN for
Gram matrices of flat matrices, whose trace is far above the largest entry.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import polar

from egd_optax import (
    add_nuclear_norm_penalty,
    egd,
    polar_by_eigh,
    polar_by_randomized_svd,
    polar_by_svd,
    scale_by_egd,
    scale_by_randomized_egd,
)
from egd_optax.polar.eigh import iterated
from egd_optax.polar.fallback import with_fallback
from egd_optax.polar.linear_algebra import unit_scale

SHAPE = 6, 9
REAL_EIGH = jax.lax.linalg.eigh


def flat(seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(np.sign(rng.normal(size=SHAPE)), jnp.float32)


def steep(seed):
    x = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    x[0, 0] = 30
    return jnp.asarray(x)


@pytest.fixture
def failing(monkeypatch):
    def eigh(x, **options):
        vectors, values = REAL_EIGH(x, **options)
        trace = jnp.trace(x, axis1=-2, axis2=-1)
        fails = (trace > 3 * jnp.max(jnp.abs(x), axis=(-2, -1)))[..., None]
        nan = jnp.array(jnp.nan, values.dtype)
        return jnp.where(fails[..., None], nan, vectors), jnp.where(fails, nan, values)

    jax.clear_caches()
    monkeypatch.setattr(jax.lax.linalg, "eigh", eigh)
    yield
    monkeypatch.undo()
    jax.clear_caches()


def test_the_matrix_that_failed_is_whitened_and_no_other_is_touched(failing):
    stack = jnp.stack([steep(0), flat(1), steep(2)])
    result = polar_by_eigh(stack)
    np.testing.assert_allclose(result, polar(stack), atol=1e-5)
    np.testing.assert_array_equal(result[::2], polar_by_eigh(stack[::2]))
    np.testing.assert_array_equal(jax.vmap(polar_by_eigh)(stack), result)
    np.testing.assert_allclose(
        polar_by_eigh(flat(1).T.astype(jnp.bfloat16)), polar(flat(1)).T, atol=1e-2
    )


def test_where_stacks_go_in_one_call(failing):
    # What polar_by_eigh does where there is no CPU.
    stack = jnp.stack([steep(0), flat(1), steep(2)])
    whiten = jax.jit(with_fallback(iterated))
    result, failed = whiten(unit_scale(stack), jnp.full(3, 4.8e-7))
    np.testing.assert_array_equal(failed, [False, True, False])
    np.testing.assert_allclose(result, polar(stack), atol=1e-5)


@pytest.mark.parametrize("make", [scale_by_egd, lambda: scale_by_egd(polar_by_eigh)])
def test_failures_are_counted_in_the_state(failing, make):
    tx = make()
    update = jax.jit(tx.update)
    grads = {"a": flat(1), "b": steep(2), "c": flat(3), "d": flat(4).T, "e": flat(5)[0]}
    state = tx.init(grads)
    for count in (3, 6):
        updates, state = update(grads, state)
        assert state.fallbacks == count
    chex.assert_tree_all_finite(updates)
    with_nan = grads | {"c": flat(3).at[1, 1].set(jnp.nan)}
    updates, state = update(with_nan, state)
    # A NaN that was given is no failure, and stays visible.
    assert state.fallbacks == 8
    assert jnp.isnan(updates["c"]).all()
    chex.assert_tree_all_finite(updates["a"])


def test_nothing_is_counted_where_nothing_fails():
    tx = scale_by_egd()
    grads = {"a": flat(1), "b": steep(2), "zero": jnp.zeros(SHAPE)}
    grads["deficient"] = jnp.outer(flat(1)[:, 0], flat(2)[0])
    _, state = tx.update(grads, tx.init(grads))
    assert state.fallbacks == 0


def test_a_polar_function_of_the_user_is_left_alone():
    tx = scale_by_egd(lambda x: jnp.full_like(x, jnp.nan))
    updates, state = tx.update(flat(1), tx.init(flat(1)))
    assert jnp.isnan(updates).all()
    assert state.fallbacks == 0


def test_optimizer_and_penalty_survive(failing):
    params, grads = {"kernel": flat(2)}, {"kernel": flat(1)}
    tx = optax.chain(add_nuclear_norm_penalty(0.1), egd(0.1))
    updates, state = tx.update(grads, tx.init(params), params)
    chex.assert_tree_all_finite(updates)
    assert optax.tree.get(state, "fallbacks") == 1


def test_randomized_whitening_survives_and_counts(failing):
    # Orthonormal rows: so are those of any projection, and eigh fails for it.
    grads = jnp.eye(*SHAPE)
    leading = polar_by_randomized_svd(grads, 4, key=jax.random.key(0))
    values = np.linalg.svd(leading, compute_uv=False)
    np.testing.assert_allclose(values, [1, 1, 1, 1, 0, 0], atol=1e-5)
    tx = scale_by_randomized_egd(4)
    updates, state = tx.update(grads, tx.init(grads))
    chex.assert_tree_all_finite(updates)
    assert state.fallbacks == 1


def test_an_svd_that_fails_is_replaced_too(monkeypatch):
    def svd(x, **options):
        u, s, vh = np.linalg.svd(np.zeros(x.shape), **options)
        return tuple(jnp.full(part.shape, jnp.nan, x.dtype) for part in (u, s, vh))

    jax.clear_caches()
    with monkeypatch.context() as patch:
        patch.setattr(jnp.linalg, "svd", svd)
        result = polar_by_svd(steep(0))
    jax.clear_caches()
    np.testing.assert_allclose(result, polar(steep(0)), atol=1e-4)
