"""Derivatives, forward and reverse, beside finite differences and formulas."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers
from reference import polar
from test_contract import ARGUMENTS, EXTRA, FACTORIES, factory

from egd_optax import (
    add_log_det_penalty,
    condition_numbers,
    effective_ranks,
    egd,
    polar_by_eigh,
    polar_by_newton_schulz,
    polar_by_randomized_svd,
    polar_by_svd,
    singular_values,
)

LEADING = functools.partial(
    polar_by_randomized_svd, rank=2, key=jax.random.key(0), power_iterations=4
)
H = 1e-5
# Each with the number of directions it keeps of the matrices below.
POLAR_FUNCTIONS = {
    "eigh": (polar_by_eigh, 3),
    "svd": (polar_by_svd, 3),
    "newton_schulz": (polar_by_newton_schulz, 3),
    "rcond": (functools.partial(polar_by_eigh, rcond=0.2), 2),
    "randomized": (LEADING, 2),
}
SPECTRA = {
    singular_values: lambda s: s,
    condition_numbers: lambda s: s[..., 0] / s[..., -1],
    effective_ranks: lambda s: np.exp(
        -np.sum(s / s.sum(-1, keepdims=True) * np.log(s / s.sum(-1, keepdims=True)), -1)
    ),
}


def numbers(rng, shape, dtype):
    x = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    return (x if np.issubdtype(dtype, np.complexfloating) else x.real).astype(dtype)


def matrices(rng, shape, dtype):
    u, _, vh = np.linalg.svd(numbers(rng, shape, dtype), full_matrices=False)
    return (u * np.array([3, 2, 0.3])) @ vh


def difference(fn, x, dx):
    """Of NumPy in float64."""
    x, dx = (np.asarray(a, np.result_type(a.dtype, np.float64)) for a in (x, dx))
    return (fn(x + H * dx) - fn(x - H * dx)) / (2 * H)


@jax.jit(static_argnums=0)
def both_ways(fn, x, dx, weights):
    """The derivative of fn along dx; and its transpose, of weights."""
    value, derivative = jax.linearize(fn, x)
    (gradient,) = jax.linear_transpose(derivative, x)(weights.astype(value.dtype))
    return derivative(dx), gradient


def assert_derivative(fn, x, dx, weights, expected, rtol=2e-4):
    forward, gradient = both_ways(fn, x, dx, weights)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(forward, expected, atol=rtol * scale)
    along = np.sum(np.asarray(gradient) * dx).real
    np.testing.assert_allclose(
        along, np.sum(expected * weights).real, atol=rtol * scale * weights.size
    )


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 3, 5), np.float32), ((4, 3), np.complex64)]
)
@pytest.mark.parametrize("name", POLAR_FUNCTIONS)
def test_the_polar_factor(rng, name, shape, dtype):
    fn, rank = POLAR_FUNCTIONS[name]
    dx, weights = (numbers(rng, shape, dtype) for _ in range(2))
    x = matrices(rng, shape, dtype)
    expected = difference(lambda x: polar(x, rank), x, dx)
    assert_derivative(fn, x, dx, weights, expected)
    if len(shape) > 2 and name == "eigh":
        assert_derivative(jax.vmap(fn), x, dx, weights, expected)


@pytest.mark.parametrize("name", sorted(set(POLAR_FUNCTIONS) - {"newton_schulz"}))
def test_the_polar_factor_where_singular_values_vanish_or_are_equal(rng, name):
    u, v = np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :1], np.ones((3, 1)) / 3**0.5
    x = np.stack([np.zeros((3, 3)), 2 * u @ v.T, 2 * np.eye(3)]).astype(np.float32)
    dx, weights = (rng.normal(size=(3, 3, 3)).astype(np.float32) for _ in range(2))
    (d_zero, d_one, d_equal), gradient = both_ways(
        POLAR_FUNCTIONS[name][0], x, dx, weights
    )
    np.testing.assert_array_equal(d_zero, 0)
    left, right = u @ u.T, v @ v.T
    turned = (np.eye(3) - left) @ dx[1] @ right + left @ dx[1] @ (np.eye(3) - right)
    np.testing.assert_allclose(d_one, turned / 2, atol=1e-5)
    if name != "randomized":
        # A random two of three equal directions have no derivative.
        np.testing.assert_allclose(d_equal, (dx[2] - dx[2].T) / 4, atol=1e-5)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("fn", SPECTRA, ids=lambda fn: fn.__name__)
def test_spectra(rng, fn):
    batch = functools.partial(fn, weight_dimension_numbers=MuonDimensionNumbers(1, 2))
    for dtype in (np.float32, np.complex64):
        x = matrices(rng, (2, 3, 5), dtype)
        dx = numbers(rng, x.shape, dtype)

        def by_numpy(x):
            return SPECTRA[fn](np.linalg.svd(x, compute_uv=False))

        expected = difference(by_numpy, x, dx)
        weights = rng.normal(size=expected.shape).astype(np.float32)
        assert_derivative(batch, x, dx, weights, expected)
    x = np.stack([np.zeros((3, 5)), np.ones((3, 5)), np.eye(3, 5)]).astype(np.float32)
    weights = np.ones_like(batch(x))
    forward, gradient = both_ways(batch, x, x - 1, weights)
    assert np.all(np.isfinite(forward))
    assert np.all(np.isfinite(gradient))
    if fn is singular_values:
        # The nuclear norm.
        np.testing.assert_allclose(gradient, polar_by_svd(x), atol=1e-5)


def tree(rng):
    shapes = {"one": (2, 3), "two": (2, 3), "vector": (2,)}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def after_two_steps(tx, params, grads):
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update(g, state, params, **EXTRA)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", FACTORIES)
def test_two_steps_of_each_transformation(rng, name):
    arguments = ARGUMENTS[name]
    if name == "scale_by_randomized_egd":
        # The derivative is that of the limit.
        arguments = arguments | {"power_iterations": 40}
    with jax.enable_x64(True):
        tx = factory(name)(**arguments)
        weights = tree(rng)
        x, dx = ((tree(rng), [tree(rng), tree(rng)]) for _ in range(2))
        if name == "egd()":
            # Where steps lead one way its share follows them, but in float32:
            # test_automatic.py looks at that slope.
            x[1][1] = optax.tree.add_scale(x[1][1], -2, x[1][0])

        def loss(x):
            return optax.tree.vdot(after_two_steps(tx, *x), weights)

        @jax.jit
        def results(x):
            value, derivative = jax.linearize(loss, x)
            (gradient,) = jax.linear_transpose(derivative, x)(1.0)
            return value, derivative(dx), gradient

        above, below = (results(optax.tree.add_scale(x, h, dx))[0] for h in (H, -H))
        _, forward, gradient = results(x)
        np.testing.assert_allclose(forward, (above - below) / (2 * H), rtol=1e-6)
        np.testing.assert_allclose(optax.tree.vdot(gradient, dx), forward, rtol=1e-9)
        zeros = optax.tree.zeros_like(x)
        one = jax.tree.map(lambda leaf: leaf.at[..., 0].set(1), zeros)
        for x in (zeros, one):
            _, forward, gradient = results(x)
            assert np.isfinite(forward)
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_hyper_gradients_of_a_training_with_egd(rng):
    inputs, targets = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))

    def loss_fn(params):
        # A unit that is dead has zero for the gradient of its bias.
        bias = jnp.array([-100.0, 0, 0, 0])
        hidden = jax.nn.relu(inputs @ params["in"] + (params["bias"] + bias)[None])
        return jnp.mean((hidden @ params["out"] - targets) ** 2)

    def trained(hyper):
        tx = egd(
            hyper["rate"],
            momentum=hyper["momentum"],
            weight_decay=hyper["decay"],
            adam_learning_rate=0.01,
        )
        params, state = hyper["params"], tx.init(hyper["params"])
        for _ in range(2):
            updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
            params = optax.apply_updates(params, updates)
        return loss_fn(params)

    with jax.enable_x64(True):
        params = {"in": rng.normal(size=(3, 4)), "out": rng.normal(size=(4, 2))}
        params = jax.tree.map(jnp.asarray, params | {"bias": np.ones(4)})
        hyper = {"rate": 0.05, "momentum": 0.5, "decay": 0.1, "params": params}
        both = jax.jit(jax.value_and_grad(trained))
        gradient = both(hyper)[1]
        directions = [{name: 1.0} for name in ("rate", "momentum", "decay")]
        for direction in [*directions, {"params": optax.tree.ones_like(params)}]:
            above, below = (
                both(hyper | {k: optax.tree.add_scale(hyper[k], h, d)})[0]
                for h in (H, -H)
                for k, d in direction.items()
            )
            along = optax.tree.vdot({k: gradient[k] for k in direction}, direction)
            np.testing.assert_allclose(along, (above - below) / (2 * H), rtol=1e-4)


def log_det(x):
    tx = add_log_det_penalty(0.5, eps=0.1)
    return tx.update(x, tx.init(x), x)[0]


@pytest.mark.parametrize("fn", [polar_by_eigh, LEADING, singular_values, log_det])
def test_no_decomposition_of_several_matrices_at_once_on_a_cpu(fn):
    # They stand still, each waiting for the others: polar/stacks.py.
    def gradient(x):
        return jax.vmap(jax.grad(lambda x: jnp.sum(fn(x) ** 2)))(x)

    for program in (gradient, jax.grad(lambda x: jnp.sum(gradient(x)))):
        text = jax.jit(program).lower(jnp.ones((7, 3, 4))).as_text()
        calls = re.findall(r"custom_call @(?:lapack|blas).*", text)
        assert calls
        assert not [call for call in calls if re.search(r"tensor<\d+x\d+x\d+x", call)]


def test_what_is_not_differentiated_computes_no_derivative():
    text = jax.jit(polar_by_eigh).lower(jnp.ones((3, 4))).as_text()
    assert "gesdd" not in text
    assert "gesdd" in jax.jit(polar_by_svd).lower(jnp.ones((3, 4))).as_text()


@pytest.mark.parametrize("fn", [polar_by_eigh, log_det])
def test_second_derivatives(rng, fn):
    weights = rng.normal(size=(3, 4))
    with jax.enable_x64(True):
        x, dx = matrices(rng, (3, 4), np.float64), rng.normal(size=(3, 4))

        @jax.jit
        def results(x):
            gradient = jax.grad(lambda x: jnp.sum(weights * fn(x)))
            value, derivative = jax.linearize(gradient, x)
            return value, derivative(dx), jax.linear_transpose(derivative, x)(dx)[0]

        expected = (results(x + H * dx)[0] - results(x - H * dx)[0]) / (2 * H)
        _, forward, reverse = results(x)
        np.testing.assert_allclose(forward, expected, atol=1e-6 * np.max(expected))
        np.testing.assert_allclose(reverse, forward, atol=1e-9 * np.max(expected))
        # Singular vectors have no derivative: rather none than a wrong one.
        if fn is polar_by_eigh:
            assert np.all(np.isnan(results(np.eye(3, 4))[1]))
