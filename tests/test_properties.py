"""What holds for every polar factor and every transformation, whatever comes in.

Whether it holds for a million matrices: ``benchmarks/reliability/million_matrices.py``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import HALF, TREES, graded, matrices, seeds, shapes, trees
from test_contract import EXTRA, FACTORIES, make

import egd_optax

RANK = 2  # of the sketch
POLAR_FUNCTIONS = {
    "eigh": egd_optax.polar_by_eigh,
    "newton_schulz": egd_optax.polar_by_newton_schulz,
    "randomized_svd": functools.partial(
        egd_optax.polar_by_randomized_svd, rank=RANK, key=jax.random.key(0)
    ),
    "svd": egd_optax.polar_by_svd,
}
DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]

every_method = pytest.mark.parametrize("name", POLAR_FUNCTIONS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_factory = pytest.mark.parametrize("name", FACTORIES)


def largest_condition(name, dtype):
    """Up to which singular values come out within 1e-3 of one.

    In half precision the matrix that comes in has been rounded: beyond, its small
    singular values are no longer those that were drawn.
    """
    if dtype in HALF:
        return 10 if dtype == jnp.bfloat16 else 100
    if name == "newton_schulz":
        return 3e4 / 300 ** (1 / 8)  # as its documentation has it
    return 1e12 if dtype == jnp.float64 else 1e6


def polar_of(name, x):
    with jax.enable_x64(x.dtype == np.float64):
        result = POLAR_FUNCTIONS[name](jnp.asarray(x))
        assert (result.shape, result.dtype) == (x.shape, x.dtype)
        assert not result.weak_type
        return np.asarray(result)


def test_every_public_polar_function_is_tested():
    public = {name for name in egd_optax.__all__ if name.startswith("polar_by_")}
    assert public == {f"polar_by_{name}" for name in POLAR_FUNCTIONS}


@every_dtype
@every_method
@settings(max_examples=50)
@given(data=st.data())
def test_finite_stays_finite_zero_zero_and_nan_where_it_was(name, dtype, data):
    shape = data.draw(shapes(dtype))
    stack = np.stack([data.draw(matrices(shape, dtype)) for _ in range(3)])
    result = polar_of(name, stack)
    assert np.all(np.isfinite(result))
    assert not np.any(result[~np.any(stack, axis=(1, 2))])
    if not stack.size:
        return
    spoilt = stack.copy()
    places = [data.draw(st.integers(0, size - 1)) for size in stack.shape]
    spoilt[*places] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    bad = np.arange(3) == places[0]
    after = polar_of(name, spoilt)
    assert np.all(np.isnan(after[bad]))
    np.testing.assert_array_equal(after[~bad], result[~bad])


@st.composite
def well_conditioned(draw, name, dtype):
    """A matrix, its rank and its condition number."""
    # Rounding fills up the null space in half precision, and what a sketch leaves out
    # depends on the sketch.
    most = RANK if name == "randomized_svd" else 5
    largest = RANK if dtype in HALF and most == RANK else 300
    shape = draw(shapes(dtype).filter(lambda shape: 0 < min(shape) <= largest))
    whole = dtype in HALF or (most > RANK and draw(st.booleans()))
    rank = min(shape) if whole else min(draw(st.integers(1, most)), *shape)
    condition = 10 ** draw(st.floats(0, np.log10(largest_condition(name, dtype))))
    rng = np.random.default_rng(draw(seeds))
    return graded(rng, shape, condition, rank).astype(dtype), rank, condition


@every_dtype
@every_method
@settings(max_examples=50)
@given(data=st.data())
def test_singular_values_symmetry_equivariance_and_scale(name, dtype, data):
    x, rank, condition = data.draw(well_conditioned(name, dtype))
    rounding = float(jnp.finfo(dtype).eps)
    wide = x.astype(np.float64)
    rng = np.random.default_rng(data.draw(seeds))
    q, p = (np.linalg.qr(rng.normal(size=(k, k)))[0] for k in x.shape)
    # Powers of two round nothing unless they make numbers subnormal.
    most = 0 if dtype == jnp.float16 else 60
    factor = 2.0 ** data.draw(st.integers(-most, most))
    stack = np.stack([wide, q @ wide @ p, factor * wide]).astype(dtype)
    result, turned, scaled = polar_of(name, stack).astype(np.float64)

    values = np.linalg.svd(result, compute_uv=False)
    assert np.all(abs(values[:rank] - 1) < 1e-3 + rounding), values
    if name == "svd" and rank < min(x.shape) and max(x.shape) >= 300:
        # LAPACK's own errors in so large a matrix are beyond rcond, as documented.
        return
    assert np.all(values[rank:] < 1e-3), values

    # Rounding what is turned changes each entry; beyond that the method's own error,
    # for Newton–Schulz what its docstring has.
    error = max(rounding, 2e-4 if name == "newton_schulz" else 0)
    bound = 4 * np.sqrt(rank) * (error + rounding * condition * np.sqrt(max(x.shape)))
    # Each matrix of a stack has a sketch of its own.
    same = bound if name == "randomized_svd" else 0
    assert np.linalg.norm(scaled - result) <= same
    if bound < 0.5:
        assert np.linalg.norm(turned - q @ result @ p) < bound
        transposed = polar_of(name, stack.mT)[0].T
        assert np.linalg.norm(transposed - result) < bound


@functools.cache
def compiled(name):
    tx = make(name)
    return tx.init, jax.jit(functools.partial(tx.update, **EXTRA))


def update(name, grads, params):
    """The updates, of the structure, shapes and types of the gradients."""
    init, step = compiled(name)
    updates, _ = step(grads, init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    for before, after in zip(*map(jax.tree.leaves, (grads, updates)), strict=True):
        assert after.aval == before.aval
    return updates


def is_finite(tree):
    leaves = jax.tree.leaves(tree)
    return all(np.all(np.isfinite(np.float64(leaf))) for leaf in leaves)


@every_factory
@pytest.mark.parametrize("shapes", TREES)
@settings(max_examples=20)
@given(data=st.data())
def test_trees_keep_their_types_and_stay_finite(name, shapes, data):
    # A filter adds twice what it is given: more than a third of the largest number has
    # no finite result.
    grads, params = (data.draw(trees(shapes, share=0.25)) for _ in range(2))
    assert is_finite(update(name, grads, params))
    zeros = jax.tree.map(jnp.zeros_like, grads)
    still = update(name, zeros, zeros)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(still))


@every_factory
@pytest.mark.parametrize("shapes", TREES[2:])
@settings(max_examples=20)
@given(data=st.data())
def test_nan_stays_in_its_leaf(name, shapes, data):
    grads, params = (data.draw(trees(shapes, share=0.25)) for _ in range(2))
    expected = jax.tree.leaves(update(name, grads, params))
    leaves, structure = jax.tree.flatten(grads)
    filled = [index for index, leaf in enumerate(leaves) if leaf.size]
    spoilt = data.draw(st.sampled_from(filled))
    place = data.draw(st.integers(0, leaves[spoilt].size - 1))
    bad = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    leaves[spoilt] = (
        leaves[spoilt].ravel().at[place].set(bad).reshape(leaves[spoilt].shape)
    )
    result = jax.tree.leaves(
        update(name, jax.tree.unflatten(structure, leaves), params)
    )
    for index, (before, after) in enumerate(zip(expected, result, strict=True)):
        if index == spoilt:
            assert not is_finite(after)
        else:
            np.testing.assert_array_equal(after, before)


@every_factory
@settings(max_examples=20)
@given(data=st.data())
def test_float64_trees_keep_their_types_and_stay_finite(name, data):
    shapes = {"kernel": ((3, 4), jnp.float64), "bias": ((4,), jnp.float64)}
    with jax.enable_x64(True):
        grads, params = (data.draw(trees(shapes, share=0.25)) for _ in range(2))
        assert is_finite(update(name, grads, params))
