"""Matrices side by side in one array are as if each were an array of its own."""

import copy
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers
from reference import polar

from egd_optax import (
    FusedAxis,
    add_nuclear_norm_penalty,
    clip_weight_row_norms,
    egd,
    flax_dimension_numbers,
    normalize_by_column_norm,
    polar_by_svd,
    scale_by_egd,
    singular_values,
)
from egd_optax.leaves.layouts import from_matrices, matrix_layouts, to_matrices

D = 4
QKV = MuonDimensionNumbers(0, FusedAxis(1, parts=3))


def three(rng):
    return [jnp.asarray(rng.normal(size=(D, D)), jnp.float32) for _ in range(3)]


def updates_of(tx, grads, params):
    return tx.update(grads, tx.init(params), params)[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda numbers: scale_by_egd(polar_by_svd, weight_dimension_numbers=numbers),
        lambda numbers: egd(
            0.1, polar_fn=polar_by_svd, weight_dimension_numbers=numbers
        ),
        lambda numbers: normalize_by_column_norm(weight_dimension_numbers=numbers),
        lambda numbers: clip_weight_row_norms(1.0, weight_dimension_numbers=numbers),
        lambda numbers: add_nuclear_norm_penalty(
            0.1, polar_fn=polar_by_svd, weight_dimension_numbers=numbers
        ),
    ],
)
# The second layout is that of PyTorch: (fan_out, fan_in).
@pytest.mark.parametrize("axis", [1, 0])
def test_a_fused_kernel_moves_as_its_parts_would(make, axis, rng):
    grads, params = three(rng), three(rng)
    alone = MuonDimensionNumbers(1 - axis, axis)
    fused = MuonDimensionNumbers(1 - axis, FusedAxis(axis, 3))
    expected = updates_of(make([alone] * 3), grads, params)
    together = updates_of(
        make({"qkv": fused, "bias": None}),
        *(
            {"qkv": jnp.concatenate(parts, axis), "bias": jnp.ones(3 * D)}
            for parts in (grads, params)
        ),
    )
    np.testing.assert_allclose(
        together["qkv"], jnp.concatenate(expected, axis), atol=1e-6
    )


def test_singular_values_of_each_part(rng):
    parts = three(rng)
    values = singular_values(jnp.concatenate(parts, 1), weight_dimension_numbers=QKV)
    expected = [np.linalg.svd(part, compute_uv=False) for part in parts]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_flax_kernels_are_fused_where_it_is_said(rng):
    attention = nn.Dense(3 * D, name="qkv")
    params = {
        "qkv": attention.init(jax.random.key(0), jnp.ones((1, D)))["params"],
        # The parts are the slowest of the output axes.
        "wide": {
            "qkv": {"kernel": jnp.ones((D, 3, 2, 2)), "bias": jnp.ones((3, 2, 2))}
        },
        "up": {"kernel": jnp.ones((D, 3))},
    }
    numbers = flax_dimension_numbers(params, fused={"qkv/kernel": 3})
    layouts = matrix_layouts(params, numbers)
    found = dict(
        zip(
            [
                jax.tree_util.keystr(p, simple=True, separator="/")
                for p, _ in jax.tree_util.tree_leaves_with_path(params)
            ],
            layouts,
            strict=True,
        )
    )
    assert found["qkv/kernel"].shape == (3, D, D)
    assert found["wide/qkv/kernel"].shape == (3, D, D)
    assert found["up/kernel"].shape == (1, D, 3)
    kernel = rng.normal(size=(D, 3, 2, 2)).astype(np.float32)
    parts = to_matrices(kernel, found["wide/qkv/kernel"])
    np.testing.assert_array_equal(parts, np.moveaxis(kernel, 1, 0).reshape(3, D, D))
    np.testing.assert_array_equal(
        from_matrices(parts, kernel.shape, found["wide/qkv/kernel"]), kernel
    )


def test_stacked_layers_of_fused_kernels():
    params = {"layers": {"qkv": {"kernel": jnp.ones((D, 5, 3 * D))}}}
    numbers = flax_dimension_numbers(
        params, scanned={"layers": 1}, fused={"qkv/kernel": 3}
    )
    (layout,) = matrix_layouts(params, numbers)
    assert layout.shape == (15, D, D)


def test_the_gates_of_a_cell_are_whitened_one_by_one(rng):
    # What Flax stacks in NNX it keeps apart in Linen.
    params = nnx.state(
        nnx.eval_shape(lambda: nnx.OptimizedLSTMCell(3, D, rngs=nnx.Rngs(0))),
        nnx.Param,
    )
    grads = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params
    )
    tx = scale_by_egd(polar_by_svd, weight_dimension_numbers=flax_dimension_numbers)
    updates = nnx.as_pure(tx.update(grads, tx.init(grads))[0])
    grads = nnx.as_pure(grads)
    for layer in ("dense_h", "dense_i"):
        gates = np.split(np.asarray(grads[layer]["kernel"]), 4, axis=1)
        np.testing.assert_allclose(
            updates[layer]["kernel"],
            np.concatenate([polar(gate) for gate in gates], axis=1),
            atol=1e-5,
        )


def test_to_muon_it_is_the_axis_that_it_is(rng):
    params = {"qkv": jnp.asarray(rng.normal(size=(D, 3 * D)), jnp.float32)}
    fused, plain = (
        updates_of(
            optax.contrib.muon(0.1, muon_weight_dimension_numbers={"qkv": number}),
            params,
            params,
        )
        for number in (QKV, MuonDimensionNumbers(0, 1))
    )
    np.testing.assert_array_equal(fused["qkv"], plain["qkv"])


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_an_axis_and_its_parts_stay_together(again):
    axis = FusedAxis(1, parts=3)
    assert again(axis) == axis
    assert again(axis).parts == 3
    assert axis != FusedAxis(1, parts=2)
    assert axis != 1 and MuonDimensionNumbers(0, 1) != QKV  # either on the left
    assert jax.tree.map(lambda leaf: leaf, QKV) == QKV


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FusedAxis(1, parts=0), "parts must be at least 1"),
        (lambda: FusedAxis("1", parts=3), "axis must be an integer"),
        (
            lambda: matrix_layouts({"qkv": jnp.ones((D, 8))}, {"qkv": QKV}),
            r"\['qkv'\] of shape \(4, 8\).*8 is no multiple of 3",
        ),
        (lambda: flax_dimension_numbers({}, fused={"qkv": 0}), "at least 1, got 0"),
        (lambda: flax_dimension_numbers({}, fused=("qkv",)), "fused must map ends"),
        (lambda: flax_dimension_numbers({}, fused={3: 3}), "fused must map ends"),
    ],
)
def test_what_cannot_be_fused_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
