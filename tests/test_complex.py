"""Complex weights, each beside the real ones that they stand for.

A gradient is what an optimizer goes against: the conjugate of what jax.grad gives.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import polar
from test_contract import FACTORIES, make

import egd_optax


def normal(rng, *shape):
    z = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    return jnp.asarray(z, jnp.complex64)


def tree(rng):
    return {"wide": normal(rng, 2, 3), "again": normal(rng, 2, 3), "v": normal(rng, 3)}


def as_real(z):
    """Of twice the size. Sums, products and adjoints of matrices stay what they are."""
    if jnp.ndim(z) < 2:
        return jnp.concatenate([z.real, z.imag])
    return jnp.block([[z.real, -z.imag], [z.imag, z.real]])


# Another sketch for another size: below.
@pytest.mark.parametrize("name", sorted(set(FACTORIES) - {"scale_by_randomized_egd"}))
def test_complex_weights_do_what_real_ones_of_twice_the_size_do(rng, name):
    tx = egd_optax.grokfast_ma(2) if name == "grokfast_ma" else make(name)
    params = jax.tree.map(lambda w: 2 * w, tree(rng))
    real_params = jax.tree.map(as_real, params)
    state, real_state = tx.init(params), tx.init(real_params)
    for metric in (0.0, 1.0):
        grads = tree(rng)
        extra = {"train_accuracy": metric}
        updates, state = tx.update(grads, state, params, **extra)
        real_grads = jax.tree.map(as_real, grads)
        expected, real_state = tx.update(real_grads, real_state, real_params, **extra)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        if name in ("egd", "egd()"):
            # Adam's second moment is that of the absolute value: below.
            updates.pop("v"), expected.pop("v")
        chex.assert_trees_all_close(
            jax.tree.map(as_real, updates), expected, rtol=1e-4, atol=1e-5
        )


def log_det(w):
    return jnp.linalg.slogdet(w @ w.T.conj() / 0.5 + jnp.eye(2))[1]


@pytest.mark.parametrize(
    ("tx", "loss"),
    [
        (egd_optax.add_frobenius_penalty(0.1), lambda w: jnp.sum(jnp.abs(w) ** 2)),
        (
            egd_optax.add_nuclear_norm_penalty(0.1),
            lambda w: jnp.sum(jnp.linalg.svd(w, compute_uv=False)),
        ),
        (egd_optax.add_log_det_penalty(0.1, eps=0.5), log_det),
    ],
)
def test_penalties_add_the_gradients_of_their_losses(rng, tx, loss):
    w, g = normal(rng, 2, 3), normal(rng, 2, 3)
    updates, _ = tx.update(g, tx.init(w), w)
    np.testing.assert_allclose(updates, g + 0.1 * jax.grad(loss)(w).conj(), rtol=1e-4)


def test_clipped_weights_keep_their_phase():
    tx = egd_optax.clip_weight_row_norms(2.0)
    for w, u, expected in (
        (0.1 + 0.1j, 0.01 + 0.02j, 0.11 + 0.12j),
        (3j, 0.0, 2j),
        (3 + 3j, 1 + 1j, 2**0.5 * (1 + 1j)),
    ):
        w, u = (jnp.full((1, 1), z, jnp.complex64) for z in (w, u))
        updates, _ = tx.update(u, tx.init(w), w)
        np.testing.assert_allclose(w + updates, [[expected]], rtol=1e-6)


def test_what_is_orthogonal_is_so_in_real_and_imaginary_parts():
    tx = egd_optax.orthogonal_gradient()
    w = jnp.array([1, 1j], jnp.complex64)
    updates, _ = tx.update(w, tx.init(w), w)
    np.testing.assert_allclose(updates, [0, 0], atol=1e-7)
    # A phase turns the weights: their norm stays.
    updates, _ = tx.update(1j * w, tx.init(w), w)
    np.testing.assert_allclose(updates, 1j * w, rtol=1e-6)
    w = jnp.array([1 + 2j, 3 - 1j], jnp.complex64)
    g = jnp.array([2, 1 + 1j], jnp.complex64)
    updates, _ = tx.update(g, tx.init(w), w)
    assert jnp.linalg.norm(updates) < jnp.linalg.norm(g)
    assert abs(jnp.vdot(w, updates).real) < 1e-6


def test_a_sketch_finds_the_leading_directions(rng):
    spectrum = np.diag([5.0, 4.0, 1e-3, 1e-3])
    u, v = (np.linalg.qr(normal(rng, n, 4))[0] for n in (5, 7))
    g = jnp.asarray(u @ spectrum @ v.T, jnp.complex64)
    tx = egd_optax.scale_by_randomized_egd(2)
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(updates, polar(g, rank=2), atol=1e-5)


def test_adam_sees_absolute_values(rng):
    params = {"v": normal(rng, 3)}
    tx = egd_optax.egd(0.1, adam_learning_rate=0.1)
    state = tx.init(params)
    mu, nu = 0, 0
    for count in (1, 2, 3):
        g = normal(rng, 3)
        updates, state = tx.update({"v": g}, state, params)
        mu, nu = 0.9 * mu + 0.1 * g, 0.999 * nu + 0.001 * jnp.abs(g) ** 2
        expected = -0.1 * mu / (1 - 0.9**count) / jnp.sqrt(nu / (1 - 0.999**count))
        np.testing.assert_allclose(updates["v"], expected, rtol=1e-4)


def test_complex_weights_learn(rng):
    solution, params = tree(rng), tree(rng)

    def loss(params):
        distances = jax.tree.map(lambda a, b: jnp.abs(a - b) ** 2, params, solution)
        return sum(map(jnp.sum, jax.tree.leaves(distances)))

    rate = egd_optax.inverse_time_decay(0.5, 30)
    tx = egd_optax.egd(rate, weight_decay=0.0, adam_learning_rate=rate)

    def step(carry, _):
        params, state = carry
        grads = jax.tree.map(jnp.conj, jax.grad(loss)(params))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, tx.init(params))
    params = jax.jit(lambda: jax.lax.scan(step, carry, length=1000)[0][0])()
    assert loss(params) < 0.01
