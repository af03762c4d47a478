"""What is special to Newton–Schulz; what all polar factors share is in test_polar."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import log_spaced, matrix_with_spectrum, polar, spectral_error

from egd_optax import (
    polar_by_newton_schulz,
    polar_by_svd,
    scale_by_egd,
)
from egd_optax.polar import newton_schulz
from egd_optax.polar.newton_schulz import LAST, quintics

FLOAT32, BFLOAT16 = 2.0**-23, 2.0**-7


def remez(low, high):
    """The odd quintic nearest to one on an interval, by Remez exchange."""
    points = np.linspace(low, high, 4)
    for _ in range(50):
        # Three coefficients and the error, which takes turns in its sign.
        rows = np.stack([points, points**3, points**5, (-1.0) ** np.arange(4)], axis=1)
        *coefficients, _ = np.linalg.solve(rows, np.ones(4))
        a, b, c = coefficients
        extrema = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a]).real))
        points = np.array([low, *extrema, high])
    return coefficients


def apply(coefficients, x):
    a, b, c = coefficients
    return a * x + b * x**3 + c * x**5


@pytest.mark.parametrize("eps", [FLOAT32, BFLOAT16])
def test_each_polynomial_is_the_best_of_its_interval(eps, monkeypatch):
    # Nothing held back: the polynomials of the paper.
    monkeypatch.setattr(newton_schulz, "_DEEPEST", 0)
    monkeypatch.setattr(newton_schulz, "_CUSHION", 1)
    found, low = quintics.__wrapped__(8, eps)
    high = 1.0
    for coefficients in found:
        grid = np.linspace(low, high, 100_001)
        values, best = apply(coefficients, grid), apply(remez(low, high), grid)
        # The next polynomial takes them at whatever scale they have.
        np.testing.assert_allclose(values / values.max(), best / best.max(), atol=1e-6)
        low, high = values.min(), values.max()
    assert high - low < 0.2


@pytest.mark.parametrize("eps", [FLOAT32, BFLOAT16, 2.0**-52])
@pytest.mark.parametrize("steps", [0, 1, 5, 9, 14])
def test_the_polynomials_together_have_the_value_one(steps, eps):
    found, low = quintics(steps, eps)
    x = np.geomspace(low, 1, 10_001)
    for coefficients in found:
        x = apply(coefficients, x)
    a, b, c = LAST
    x = a * x**3 + b * x**5 + c * x**7
    np.testing.assert_allclose(x, 1, atol=1.2 * eps)


@pytest.mark.parametrize(
    ("dtype", "eps"), [("float32", FLOAT32), ("bfloat16", BFLOAT16)]
)
def test_the_table_of_steps_is_rounded_down(dtype, eps):
    lines = polar_by_newton_schulz.__doc__.splitlines()
    numbers = {
        name: [float(word) for word in line.split()[1:]]
        for name in ("steps", dtype)
        for line in lines
        if line.split()[:1] == [name]
    }
    assert len(numbers["steps"]) == 9
    for steps, shown in zip(numbers["steps"], numbers[dtype], strict=True):
        _, low = quintics(int(steps) - 1, eps)
        assert 0.5 / low < shown <= 1 / low


def test_no_polynomial_presses_large_values_far_down():
    found, _ = quintics(9, FLOAT32)
    x = np.linspace(0.3, 1, 10_001)
    for coefficients in found:
        x = apply(coefficients, x)
        assert x.min() / x.max() > 0.29
        assert x.max() < 1.3


@pytest.mark.parametrize(("steps", "condition"), [(5, 45), (8, 2e3), (12, 3e5)])
@pytest.mark.parametrize("shape", [(60, 200), (64, 64)])
def test_steps_for_a_condition_number(steps, condition, shape, rng):
    spectrum = log_spaced(min(shape), condition / min(shape) ** (1 / 8))
    x = matrix_with_spectrum(rng, *shape, spectrum)
    bound = 2 * spectral_error(polar_by_svd(x), polar(x))
    assert spectral_error(polar_by_newton_schulz(x, steps=steps), polar(x)) <= bound
    assert spectral_error(polar_by_newton_schulz(x, steps=steps - 2), polar(x)) > bound


def test_the_cheap_mode_is_close(rng):
    cheap = partial(polar_by_newton_schulz, steps=5, dtype=jnp.bfloat16)
    for shape in [(60, 200), (64, 64)]:
        x = matrix_with_spectrum(rng, *shape, log_spaced(min(shape), 10))
        assert spectral_error(cheap(x), polar(x)) < 0.1
        assert cheap(x).dtype == jnp.float32


@pytest.mark.parametrize("small", [0.0, 1e-7, 4.8e-7])
def test_directions_of_the_size_of_rounding_are_dropped(small, rng):
    spectrum = np.where(np.arange(40) < 20, np.logspace(0, -2, 40), small)
    x = matrix_with_spectrum(rng, 40, 90, spectrum)
    assert spectral_error(polar_by_newton_schulz(x), polar(x, 20)) < 2e-4


def test_it_consists_of_products():
    text = jax.jit(polar_by_newton_schulz).lower(jnp.ones((3, 5))).as_text()
    assert "dot_general" in text
    assert "custom_call" not in text
    assert "while" not in text


def test_products_are_of_full_precision():
    text = str(jax.make_jaxpr(polar_by_newton_schulz)(jnp.ones((3, 9))))
    products = text.count("dot_general[")
    assert products > 0
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


def test_works_without_implicit_promotion_and_rematerialized(rng):
    x = jnp.asarray(rng.normal(size=(2, 4, 7)), jnp.bfloat16)
    expected = polar_by_newton_schulz(x)
    with jax.numpy_dtype_promotion("strict"):
        for dtype in (None, jnp.bfloat16):
            fn = partial(polar_by_newton_schulz, steps=6, dtype=dtype)
            result = jax.jit(jax.checkpoint(fn))(x)
            assert result.dtype == jnp.bfloat16
            np.testing.assert_allclose(
                *(np.asarray(y, np.float32) for y in (result, expected)), atol=0.05
            )
    donated = jax.jit(polar_by_newton_schulz, donate_argnums=0)(jnp.copy(x))
    np.testing.assert_array_equal(donated, expected)


def test_serves_as_the_polar_function_of_a_transformation(rng):
    x = {"kernel": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)}
    tx = scale_by_egd(partial(polar_by_newton_schulz, steps=8))
    updates, _ = tx.update(x, tx.init(x))
    np.testing.assert_allclose(updates["kernel"], polar(x["kernel"]), atol=1e-5)


def test_steps_and_dtype_are_checked():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        polar_by_newton_schulz(x, steps=0)
    with pytest.raises(TypeError, match="steps must be a static integer"):
        polar_by_newton_schulz(x, steps=2.5)
    with pytest.raises(TypeError, match="int8"):
        polar_by_newton_schulz(x, dtype=jnp.int8)
    with pytest.raises(TypeError, match="bfloat16"):
        polar_by_newton_schulz(x + 1j, dtype=jnp.bfloat16)
