import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers as Numbers

from egd_optax import polar_by_svd, scale_by_egd
from egd_optax.leaves.mapping import map_matrices


def recorded(shapes):
    def fn(stack):
        shapes.append(stack.shape)
        return -stack

    return fn


def test_same_shapes_are_taken_in_one_call():
    tree = {
        "a": jnp.ones((3, 4)),
        "b": [jnp.full((3, 4), 2.0), jnp.ones((4, 3))],
        "c": jnp.full((3, 4), 3.0),
        "d": jnp.ones(3),
    }
    shapes = []
    result = map_matrices(recorded(shapes), tree)
    assert shapes == [(3, 3, 4), (1, 4, 3)]
    for before, after in [(tree["a"], result["a"]), (tree["c"], result["c"])]:
        np.testing.assert_array_equal(after, -before)
    np.testing.assert_array_equal(result["d"], tree["d"])


def test_dtypes_are_not_mixed():
    shapes = []
    tree = [jnp.ones((2, 2)), jnp.ones((2, 2), jnp.bfloat16)]
    result = map_matrices(recorded(shapes), tree)
    assert shapes == [(1, 2, 2), (1, 2, 2)]
    assert [leaf.dtype for leaf in result] == [jnp.float32, jnp.bfloat16]


def transformer(layers, width):
    """Shapes of a GPT-2: matrices of three shapes in the blocks, and an embedding."""
    block = {
        "attention": [(width, width)] * 4,
        "up": (width, 4 * width),
        "down": (4 * width, width),
        "norm": (width,),
    }
    shapes = {"embedding": (5 * width, width), "blocks": [block] * layers}
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def test_the_calls_of_a_transformer_are_as_many_as_its_shapes():
    shapes = []

    def fn(stack):
        shapes.append(stack.shape)
        return jnp.tanh(stack)

    tx = scale_by_egd(fn)
    tree = transformer(layers=24, width=16)
    program = jax.jit(lambda grads: tx.update(grads, tx.init(grads))[0]).trace(tree)
    expected = [(96, 16, 16), (24, 64, 16), (24, 16, 64), (1, 80, 16)]
    assert sorted(shapes) == sorted(expected)
    assert program.lower().as_text().count("stablehlo.tanh") == len(expected)


def newton_schulz(x):
    return jax.lax.fori_loop(0, 3, lambda _, x: 1.5 * x - 0.5 * x @ x.mT @ x, x)


@pytest.mark.parametrize("fn", [lambda x: 2 * x, newton_schulz, polar_by_svd])
def test_copies_are_bounded_by_the_largest_stack(fn):
    def temporary(fn, tree):
        return jax.jit(fn).lower(tree).compile().memory_analysis().temp_size_in_bytes

    tree = transformer(layers=6, width=32)
    stacks = [(24, 32, 32), (6, 128, 32), (6, 32, 128), (1, 160, 32)]
    stacks = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in stacks]
    alone = max(temporary(fn, stack) for stack in stacks)
    largest = max(4 * stack.size for stack in stacks)
    extra = temporary(lambda tree: map_matrices(fn, tree), tree) - alone
    # Some bytes are conditions and addresses.
    assert extra <= 1.02 * largest


def test_axes_are_input_output_and_batch(rng):
    kernel = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32)
    shapes = []
    result = map_matrices(recorded(shapes), kernel, Numbers((0, -1), 2))
    assert shapes == [(3, 10, 4)]
    np.testing.assert_array_equal(result, -kernel)


def test_a_convolution_is_whitened_as_a_matrix(rng):
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 8)), jnp.float32)
    tx = scale_by_egd(weight_dimension_numbers=Numbers((0, 1, 2), 3))
    updates, _ = tx.update(kernel, tx.init(kernel))
    flat = np.reshape(updates, (18, 8))
    np.testing.assert_allclose(flat.T @ flat, np.eye(8), atol=1e-5)


def test_numbers_may_be_a_prefix_a_function_or_none():
    tree = {"skip": jnp.ones((2, 2)), "layers": [jnp.ones((2, 2)), jnp.ones((2, 2))]}
    prefix = {"skip": None, "layers": Numbers()}
    for numbers in (prefix, lambda tree: prefix):
        result = map_matrices(lambda x: -x, tree, numbers)
        assert [float(leaf[0, 0]) for leaf in result["layers"]] == [-1, -1]
        assert float(result["skip"][0, 0]) == 1
    result = map_matrices(lambda x: -x, tree, lambda tree: None)
    assert float(result["skip"][0, 0]) == -1


def test_numbers_of_the_whole_tree_serve_under_a_mask():
    tree = {"a": 2 * jnp.eye(2), "b": 3 * jnp.eye(2)}
    inner = scale_by_egd(weight_dimension_numbers={"a": Numbers(), "b": Numbers()})
    tx = optax.masked(inner, {"a": True, "b": False})
    updates, _ = tx.update(tree, tx.init(tree))
    np.testing.assert_allclose(updates["a"], np.eye(2), atol=1e-6)
    np.testing.assert_allclose(updates["b"], 3 * np.eye(2))


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        (Numbers(0, 2), "does not name axes"),
        (Numbers(0, 0), "names an axis twice"),
        (Numbers((), 1), "does not name axes"),
        (3, "neither"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_by_name(numbers, reason):
    tree = {"dense": {"kernel": jnp.ones((2, 3))}}
    with pytest.raises(ValueError, match=reason) as error:
        map_matrices(lambda x: x, tree, {"dense": {"kernel": numbers}})
    assert "['dense']['kernel'] of shape (2, 3)" in str(error.value)
