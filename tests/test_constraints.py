import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from egd_optax import clip_weight_row_norms, orthogonal_gradient


@pytest.fixture
def tree(rng):
    return {
        "kernel": rng.normal(size=(6, 4)).astype(np.float32),
        "bias": rng.normal(size=4).astype(np.float32),
    }


def updated(tx, grads, params):
    return tx.update(grads, tx.init(params), params)[0]


def projected(g, w):
    g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
    return g - np.sum(w * g) / np.sum(w * w) * w


def test_what_lies_along_the_weights_of_each_leaf_is_gone(tree, rng):
    grads = jax.tree.map(lambda w: rng.normal(size=w.shape) + 3 * w, tree)
    updates = updated(orthogonal_gradient(), jax.tree.map(jnp.float32, grads), tree)
    for name, w in tree.items():
        np.testing.assert_allclose(updates[name], projected(grads[name], w), atol=1e-5)


def test_zero_weights_leave_the_gradient_as_it_is(tree):
    zeros = jax.tree.map(jnp.zeros_like, tree)
    updates = updated(orthogonal_gradient(), tree, zeros)
    jax.tree.map(np.testing.assert_array_equal, updates, tree)


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
def test_the_size_of_the_weights_does_not_matter(tree, rng, scale):
    g, w = rng.normal(size=(6, 4)).astype(np.float32), tree["kernel"]
    result = updated(orthogonal_gradient(), g, w * np.float32(scale))
    np.testing.assert_allclose(result, projected(g, w), atol=1e-5)


def test_a_projection_in_bfloat16_is_computed_in_float32(rng):
    w, g = jnp.asarray(rng.normal(size=(2, 1000)) + 5, jnp.bfloat16)
    result = updated(orthogonal_gradient(), g, w)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float64(result), projected(g, w), rtol=1e-2, atol=0.1)
    rounded_once = jnp.asarray(projected(g, w), jnp.bfloat16)
    assert np.mean(result == rounded_once) > 0.99


def test_descent_along_it_turns_the_weights_to_the_target(rng):
    target = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
    initial = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
    tx = optax.chain(orthogonal_gradient(), optax.sgd(1e-3))

    def step(w, _):
        return w + updated(tx, w - target, w), None

    w, _ = jax.lax.scan(step, initial, length=20_000)
    norm = jnp.linalg.norm
    assert jnp.vdot(w, target) / norm(w) / norm(target) > 0.9999
    np.testing.assert_allclose(norm(w), norm(initial), rtol=1e-2)


def test_the_weights_of_each_output_unit_are_clipped_after_the_update(tree, rng):
    grads = {name: rng.normal(size=w.shape) for name, w in tree.items()}
    grads = jax.tree.map(lambda g: g.astype(np.float32), grads)
    moved = tree["kernel"] + grads["kernel"]
    norms = np.linalg.norm(moved, axis=0)
    bound = float(np.median(norms))
    updates = updated(clip_weight_row_norms(bound), grads, tree)
    expected = moved * np.minimum(1, bound / norms)
    np.testing.assert_allclose(tree["kernel"] + updates["kernel"], expected, atol=1e-6)
    np.testing.assert_array_equal(updates["bias"], grads["bias"])
    within = norms <= bound
    assert 0 < np.sum(within) < 4
    np.testing.assert_array_equal(
        updates["kernel"][:, within], grads["kernel"][:, within]
    )


def test_a_small_update_within_the_bound_is_not_rounded():
    w, u = jnp.full((2, 2), 0.7), jnp.full((2, 2), 1e-12)
    np.testing.assert_array_equal(updated(clip_weight_row_norms(1.7), u, w), u)


def test_output_axes_are_named_by_dimension_numbers(rng):
    w = jnp.asarray(rng.normal(size=(4, 6, 2)), jnp.float32)
    numbers = MuonDimensionNumbers(reduction_axis=(1, 2), output_axis=0)
    tx = clip_weight_row_norms(0.5, weight_dimension_numbers=numbers)
    clipped = w + updated(tx, jnp.zeros_like(w), w)
    norms = np.linalg.norm(clipped.reshape(4, 12), axis=1)
    np.testing.assert_allclose(norms, 0.5, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_are_right_at_any_scale(tree, scale):
    scale = np.float32(scale)
    tx = clip_weight_row_norms(scale)
    w = tree["kernel"] * scale
    clipped = w + updated(tx, np.zeros_like(w), w)
    norms = np.linalg.norm(np.float64(clipped) / scale, axis=0)
    expected = np.minimum(np.linalg.norm(tree["kernel"], axis=0), 1)
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


def test_the_bound_holds_in_bfloat16_to_its_rounding(rng):
    w = jnp.asarray(rng.normal(size=(50, 9)), jnp.bfloat16)
    clipped = w + updated(clip_weight_row_norms(2.0), jnp.zeros_like(w), w)
    assert clipped.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.linalg.norm(np.float64(clipped), axis=0), 2, rtol=5e-3
    )


def test_sums_beyond_the_largest_number_do_not_matter():
    # Inner products, norms and moved weights, each more than float32 holds.
    w = jnp.full((4, 2), 3e38)
    along = updated(orthogonal_gradient(), w, jnp.ones_like(w))
    np.testing.assert_array_equal(along, 0)
    for bound in (2.0, 3e38):
        updates = updated(clip_weight_row_norms(bound), w, w)
        np.testing.assert_allclose(w + updates, bound / 2, rtol=1e-6, atol=3e31)


@pytest.mark.parametrize("tx", [orthogonal_gradient(), clip_weight_row_norms(2.0)])
def test_parameters_are_asked_for(tx, tree):
    with pytest.raises(ValueError, match=r"tx\.update\(grads, state, params\)"):
        tx.update(tree, tx.init(tree))
