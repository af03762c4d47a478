"""The cosine of a gradient with the momentum before it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers

from egd_optax import FusedAxis
from egd_optax.transforms.oscillation import mean_cosine


def cosine(x, y):
    x, y = (np.asarray(each, np.complex128).ravel() for each in (x, y))
    return np.vdot(x, y).real / (np.linalg.norm(x) * np.linalg.norm(y))


@pytest.fixture
def pair(rng):
    draw = lambda: jnp.asarray(rng.normal(size=(5, 4, 6)), jnp.float32)  # noqa: E731
    return draw(), draw()


@pytest.mark.parametrize(
    ("numbers", "matrices"),
    [
        (MuonDimensionNumbers(1, 2), lambda x: list(x)),
        (MuonDimensionNumbers((0, 1), 2), lambda x: [x]),
        (MuonDimensionNumbers(0, 1), lambda x: [x[:, :, i] for i in range(6)]),
        (
            MuonDimensionNumbers((0, 1), FusedAxis(2, parts=3)),
            lambda x: [x[..., i : i + 2] for i in (0, 2, 4)],
        ),
    ],
)
def test_every_matrix_counts_alike(pair, numbers, matrices):
    gradient, momentum = pair
    expected = np.mean([cosine(*each) for each in zip(*map(matrices, pair))])  # noqa: B905
    trees = ({"a": gradient, "b": jnp.ones(3)}, {"a": momentum, "b": None})
    found = mean_cosine(*trees, {"a": numbers, "b": None})
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_stacked_matrices_are_those_apart(pair):
    gradient, momentum = pair
    stacked = mean_cosine(gradient, momentum, MuonDimensionNumbers(1, 2))
    assert float(stacked) == pytest.approx(
        float(mean_cosine(list(gradient), list(momentum))), abs=1e-6
    )


@pytest.mark.parametrize("scales", [(1e-30, 1e30), (1e30, 1e30), (1e-36, 1)])
def test_the_sizes_do_not_matter(pair, scales):
    gradient, momentum = (x[0] for x in pair)
    scaled = [x * scale for x, scale in zip((gradient, momentum), scales, strict=True)]
    assert float(mean_cosine(*scaled)) == pytest.approx(
        cosine(gradient, momentum), abs=1e-5
    )


def test_of_complex_matrices_it_is_the_real_part(pair):
    gradient, momentum = (x[0] + 1j * x[1] for x in pair)
    assert float(mean_cosine(gradient, momentum)) == pytest.approx(
        cosine(gradient, momentum), abs=1e-6
    )


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_what_has_no_direction_counts_as_zero(pair, value):
    gradient, momentum = (list(x) for x in pair)
    rest = float(mean_cosine(gradient[1:], momentum[1:]))
    broken = [jnp.full_like(gradient[0], value), *gradient[1:]]
    for trees in ((broken, momentum), (momentum, broken)):
        assert float(mean_cosine(*trees)) == pytest.approx(0.8 * rest)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_axis_is_no_direction(shape):
    assert float(mean_cosine(jnp.ones(shape), jnp.ones(shape))) == 0


def test_without_matrices_it_is_zero():
    assert float(mean_cosine({"bias": jnp.ones(3)}, {"bias": None})) == 0


def test_the_dtype_is_float32_whatever_comes_in(pair):
    narrow = [x[0].astype(jnp.bfloat16) for x in pair]
    found = mean_cosine(*narrow)
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(cosine(*narrow), abs=1e-5)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x[0], np.float64)) for x in pair]
        assert mean_cosine(*wide).dtype == jnp.float32
