"""The numbers that hold on every device: `make accelerator` runs this file on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import log_spaced, matrix_with_spectrum, polar, spectral_error

import egd_optax

ON_CPU = jax.default_backend() == "cpu"
METHODS = {
    "default": egd_optax.polar_factor,
    "eigh": egd_optax.polar_by_eigh,
    "svd": egd_optax.polar_by_svd,
    "newton_schulz": egd_optax.polar_by_newton_schulz,
}
# One small enough for a GPU to decompose, wide, tall, and a stack.
SHAPES = (24, 40), (97, 160), (160, 97)


def tolerance(name, condition):
    """Float32 loses κ of its digits; in float64 inside, as on a CPU, it loses none."""
    if ON_CPU and name in ("default", "eigh"):
        return 2e-7
    return 1e-5 + 1e-6 * condition


@pytest.mark.parametrize("condition", [1e1, 1e3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_the_error_is_that_of_float32(name, shape, condition, rng):
    x = matrix_with_spectrum(rng, *shape, log_spaced(min(shape), condition))
    found = jax.jit(METHODS[name])(x)
    assert spectral_error(found, polar(x)) <= tolerance(name, condition)


@pytest.mark.parametrize("name", METHODS)
def test_a_stack_is_its_matrices(name, rng):
    stack = rng.normal(size=(3, 24, 40)).astype(np.float32)
    found = jax.jit(METHODS[name])(stack)
    for x, one in zip(stack, found, strict=True):
        assert spectral_error(one, polar(x)) <= tolerance(name, 1e1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_null_directions_stay_out(name, shape, rng):
    rank = min(shape) // 2
    spectrum = np.append(log_spaced(rank, 1e1), np.zeros(min(shape) - rank))
    x = matrix_with_spectrum(rng, *shape, spectrum)
    found = jax.jit(METHODS[name])(x)
    # What rounding leaves of them may be amplified, but not to the length of a step.
    bound = 0.1 if name == "newton_schulz" or not ON_CPU else 1e-4
    assert spectral_error(found, polar(x, rank)) <= bound


@pytest.mark.parametrize("name", METHODS)
def test_zero_nan_and_scale(name, rng):
    method = jax.jit(METHODS[name])
    x = jnp.asarray(rng.normal(size=(24, 40)).astype(np.float32))
    assert not method(jnp.zeros_like(x)).any()
    assert jnp.isnan(method(x.at[3, 4].set(jnp.nan))).all()
    for power in (-40, 40):
        scaled = method(x * 2.0**power)
        assert np.array_equal(scaled, method(x))


@pytest.mark.parametrize("polar_fn", [None, egd_optax.polar_by_newton_schulz])
def test_a_step_of_egd(polar_fn, rng):
    params = {"kernel": jnp.ones((24, 40)), "bias": jnp.ones(40)}
    grads = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape).astype(np.float32)), params
    )
    tx = egd_optax.egd(0.1, momentum=0.5, weight_decay=0.3, polar_fn=polar_fn)
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
    direction = polar(1.5 * np.asarray(grads["kernel"]))
    expected = -0.1 * (direction + 0.3 * np.ones((24, 40)))
    name = "default" if polar_fn is None else "newton_schulz"
    error = spectral_error(updates["kernel"], expected)
    assert error <= 1e-6 + 0.1 * tolerance(name, 1e1)
    # Adam's first step is the sign, as long as its rate.
    np.testing.assert_allclose(
        updates["bias"], -1e-3 * np.sign(grads["bias"]), rtol=1e-4
    )
    assert int(optax.tree.get(state, "fallbacks")) == 0


def test_members_of_a_vmap_are_trained_as_alone(rng):
    tx = egd_optax.egd(0.1)
    grads = {"kernel": jnp.asarray(rng.normal(size=(3, 24, 40)).astype(np.float32))}
    params = jax.tree.map(jnp.ones_like, grads)

    def step(grads, params):
        return tx.update(grads, tx.init(params), params)[0]["kernel"]

    together = jax.jit(jax.vmap(step))(grads, params)
    alone = functools.partial(jax.jit(step), params={"kernel": params["kernel"][0]})
    for one, gradient in zip(together, grads["kernel"], strict=True):
        error = spectral_error(one, np.asarray(alone({"kernel": gradient}), np.float64))
        assert error <= 0.1 * tolerance("newton_schulz", 1e1)
