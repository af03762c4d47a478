"""The table of what is seen as matrices."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax_models import linen_params
from optax.contrib import MuonDimensionNumbers

from egd_optax import (
    FusedAxis,
    equinox_dimension_numbers,
    flax_dimension_numbers,
    tabulate_matrices,
)


def test_every_leaf_of_a_model_has_a_line():
    numbers = functools.partial(flax_dimension_numbers, scanned=("blocks",))
    params = linen_params()
    lines = tabulate_matrices(params, numbers).splitlines()
    rows = {line.split()[0]: line for line in lines[1:-1]}
    assert lines[0].split() == ["path", "shape", "matrices"]
    assert rows["Embed_0/embedding"].split() == [
        *("Embed_0/embedding", "(5,", "6)", "none", "(Adam)")
    ]
    query = "MultiHeadDotProductAttention_0/query/kernel"
    assert rows[f"blocks/{query}"].endswith("(3, 6, 2, 3)  3 of 6 × 6")
    assert rows["Conv_0/kernel"].endswith("(3, 6, 4)     1 of 18 × 4")
    # Six kernels in each of 3 + 1 blocks, convolution and head.
    share = (4 * (4 * 36 + 2 * 48) + 18 * 4 + 4 * 5) / 1286
    assert lines[-1] == (
        f"matrices: 26, in 14 of 32 leaves, with {share:.1%} of 1286 parameters"
    )


def test_the_default_rule_is_shown_and_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = tabulate_matrices({"conv": jnp.ones((3, 3, 2)), "w": np.ones((2, 3))})
    assert table.splitlines() == [
        "path  shape      matrices",
        "conv  (3, 3, 2)  none (Adam)",
        "w     (2, 3)     1 of 2 × 3",
        "matrices: 1, in 1 of 2 leaves, with 25.0% of 24 parameters",
    ]


def test_fused_matrices_count_one_by_one():
    numbers = {"qkv": MuonDimensionNumbers(0, FusedAxis(1, 3))}
    table = tabulate_matrices({"qkv": jnp.ones((4, 12))}, numbers)
    assert "3 of 4 × 4" in table
    assert "matrices: 3, in 1 of 1 leaves, with 100.0%" in table


def test_functions_of_a_whole_model_are_no_parameters():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    arrays = eqx.filter(model, eqx.is_array)
    table = tabulate_matrices(model, equinox_dimension_numbers)
    assert table == tabulate_matrices(arrays, equinox_dimension_numbers)
    assert table.endswith("in 2 of 4 leaves, with 74.1% of 27 parameters")


def test_an_empty_tree():
    assert "matrices: 0, in 0 of 0 leaves, with 0.0%" in tabulate_matrices({})


def test_what_is_no_numbers_is_refused():
    with pytest.raises(ValueError, match="weight_dimension_numbers must be"):
        tabulate_matrices({}, 3)
