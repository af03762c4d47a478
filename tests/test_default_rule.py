"""What the default rule passes over, it says."""

import warnings

import jax
import jax.numpy as jnp
import pytest
from optax.contrib import MuonDimensionNumbers

from egd_optax import (
    egd,
    flax_dimension_numbers,
    normalize_by_column_norm,
    polar_by_svd,
    scale_by_egd,
    scale_by_randomized_egd,
    singular_values,
)

KEPT = {"bias": jnp.ones(3), "offset": jnp.ones((1, 1, 3)), "dense": jnp.ones((3, 2))}


def tree(name, count=1):
    """Trees of names of their own: each is warned of once a process."""
    return KEPT | {f"{name}{i}": jnp.ones((2, 3, 4)) for i in range(count)}


def whole_step(tx):
    return lambda tree: tx.update(tree, tx.init(tree), tree)


@pytest.mark.parametrize(
    "call",
    [
        whole_step(scale_by_egd(polar_by_svd)),
        whole_step(egd(0.1, polar_fn=polar_by_svd)),
        whole_step(scale_by_randomized_egd(1)),
        whole_step(normalize_by_column_norm()),
        singular_values,
    ],
)
def test_leaves_of_three_axes_are_named_at_every_call_if_that_is_an_error(call):
    for _ in range(2):
        with pytest.raises(UserWarning, match=r"\['conv0'\] \(2, 3, 4\).*to Adam"):
            jax.eval_shape(call, tree("conv"))


def test_a_tree_is_warned_of_once():
    with pytest.warns(UserWarning) as caught:
        jax.eval_shape(singular_values, tree("once", 5))
        jax.eval_shape(singular_values, tree("once", 5))
        jax.eval_shape(singular_values, tree("other"))
    assert len(caught) == 2
    message = str(caught[0].message)
    assert "['once0'] (2, 3, 4), ['once1'] (2, 3, 4), ['once2'] (2, 3, 4)" in message
    assert "and 2 more" in message
    assert "once3" not in message
    assert "offset" not in message
    assert "flax_dimension_numbers" in message


@pytest.mark.parametrize(
    "numbers",
    [
        lambda tree: None,
        lambda tree: jax.tree.map(lambda leaf: None, tree),
        {**dict.fromkeys(KEPT), "said0": MuonDimensionNumbers((0, 1), 2)},
        lambda tree: flax_dimension_numbers(
            tree, named={"dense": MuonDimensionNumbers(), "said0": None, "offset": None}
        ),
    ],
)
def test_dimension_numbers_of_any_kind_say_that_it_is_meant(numbers):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step = whole_step(scale_by_egd(weight_dimension_numbers=numbers))
        jax.eval_shape(step, tree("said"))
        jax.eval_shape(whole_step(scale_by_egd()), KEPT)
