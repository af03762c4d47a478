"""Trees that can be called, as modules of Equinox are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from egd_optax import (
    add_frobenius_penalty,
    egd,
    polar_by_svd,
    scale_by_egd,
    singular_values,
    tabulate_matrices,
)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["weight", "bias", "activation"],
    meta_fields=[],
)
@dataclasses.dataclass
class Layer:
    weight: object
    bias: object
    activation: object = None

    def __call__(self, x):
        return self.weight @ x + self.bias


LAYER = Layer(2 * jnp.eye(2), jnp.ones(2))
NUMBERS = Layer(MuonDimensionNumbers(1, 0), None)


@pytest.mark.parametrize(
    "numbers",
    [
        NUMBERS,
        lambda tree: NUMBERS,
        # A function that is a tree: its arguments are leaves.
        jax.tree_util.Partial(lambda numbers, tree: numbers, NUMBERS),
        jax.tree_util.Partial(lambda tree: NUMBERS),
    ],
)
def test_a_callable_tree_of_numbers_is_a_tree(numbers):
    tx = scale_by_egd(polar_by_svd, weight_dimension_numbers=numbers)
    updates, _ = tx.update(LAYER, tx.init(LAYER), LAYER)
    np.testing.assert_allclose(updates.weight, jnp.eye(2), atol=1e-6)
    np.testing.assert_array_equal(updates.bias, LAYER.bias)
    values = singular_values(LAYER, weight_dimension_numbers=numbers)
    np.testing.assert_allclose(values.weight, [2.0, 2.0])
    assert "1 of 2 × 2" in tabulate_matrices(LAYER, numbers)


def test_a_callable_tree_trains():
    tx = egd(0.1, polar_fn=polar_by_svd, weight_dimension_numbers=NUMBERS)
    tx = optax.chain(add_frobenius_penalty(0.1, mask=Layer(True, False)), tx)
    state = jax.jit(tx.init)(LAYER)
    updates, _ = jax.jit(tx.update)(LAYER, state, LAYER)
    assert isinstance(updates, Layer)
    assert jax.tree.all(jax.tree.map(lambda u: bool(jnp.any(u != 0)), updates))


def test_what_is_no_number_in_a_callable_tree_is_named():
    numbers = Layer(MuonDimensionNumbers(1, 0), None, jnp.tanh)
    with pytest.raises(ValueError, match=r"numbers must be a tree.*at \.activation"):
        scale_by_egd(weight_dimension_numbers=numbers)
