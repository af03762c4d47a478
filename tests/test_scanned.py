"""Layers that Flax stacked along any axis, and stacks of stacks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egd_optax import flax_dimension_numbers, polar_by_svd, scale_by_egd
from egd_optax.leaves.layouts import matrix_layouts


class Block(nn.Module):
    bias: bool = True

    @nn.compact
    def __call__(self, x, _):
        attention = nn.MultiHeadDotProductAttention(2, use_bias=self.bias)
        x = attention(nn.LayerNorm()(x))
        hidden = nn.Conv(5, (3,), use_bias=self.bias)(x)
        return nn.Dense(6, use_bias=self.bias)(hidden), None


def scanned(block, axis, length, name):
    return nn.scan(
        block,
        variable_axes={"params": axis},
        split_rngs={"params": True},
        length=length,
    )(name=name)


class Nested(nn.Module):
    inner: int

    @nn.compact
    def __call__(self, x, _):
        return scanned(Block, self.inner, 3, "layers")(x, None)[0], None


def shapes_of(module):
    return jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 4, 6)), None)


def matrices_of(params, numbers):
    """Sizes of each leaf's matrices, and how many there are."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): layout and layout.shape
        for (path, _), layout in zip(
            paths, matrix_layouts(params, numbers), strict=True
        )
    }


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_layers_along_any_axis(axis):
    alone = shapes_of(Block())["params"]
    params = shapes_of(scanned(Block, axis, 3, "layers"))["params"]
    numbers = flax_dimension_numbers({"layers": params}, scanned={"layers": axis})[
        "layers"
    ]
    expected = matrices_of(alone, flax_dimension_numbers)
    assert matrices_of(params, numbers) == {
        path: shape and (3, *shape[1:]) for path, shape in expected.items()
    }


@pytest.mark.parametrize("inner", [0, 1, -1])
@pytest.mark.parametrize("outer", [0, 1, 2, -1])
def test_stacks_of_stacks(outer, inner):
    module = scanned(functools.partial(Nested, inner), outer, 7, "outer")
    params = {"outer": shapes_of(module)["params"]}
    numbers = flax_dimension_numbers(params, scanned={"outer": outer, "layers": inner})
    expected = matrices_of(shapes_of(Block())["params"], flax_dimension_numbers)
    assert matrices_of(params, numbers) == {
        f"outer/layers/{path}": shape and (21, *shape[1:])
        for path, shape in expected.items()
    }


def test_each_layer_along_another_axis_is_whitened_by_itself(rng):
    kernel = jnp.asarray(rng.normal(size=(4, 3, 4)), jnp.float32)
    grads = {"layers": {"up": {"kernel": kernel}}}
    numbers = functools.partial(flax_dimension_numbers, scanned={"layers": 1})
    tx = scale_by_egd(polar_by_svd, weight_dimension_numbers=numbers)
    updates, _ = tx.update(grads, tx.init(grads))
    for layer in range(3):
        values = np.linalg.svd(
            updates["layers"]["up"]["kernel"][:, layer], compute_uv=False
        )
        np.testing.assert_allclose(values, 1, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("actual", "said"), [(0, 1), (1, 0), (0, -1), (-1, 1)])
def test_a_wrong_axis_of_the_layers_is_refused(actual, said, bias):
    block = functools.partial(Block, bias=bias)
    params = {"layers": shapes_of(scanned(block, actual, 3, "layers"))["params"]}
    with pytest.raises(ValueError, match=r"\['layers'\]\['"):
        flax_dimension_numbers(params, scanned={"layers": said})


def test_a_vector_that_cannot_have_that_axis_is_refused():
    params = {"layers": {"scale": jnp.ones(3)}}
    with pytest.raises(ValueError, match=r"\['layers'\]\['scale'\].*no axis 1"):
        flax_dimension_numbers(params, scanned={"layers": 1})


@pytest.mark.parametrize(
    "wrong", ["layers", {"layers": 0.5}, {"layers": None}, {1: 1}, 3, [2]]
)
def test_what_holds_no_names_of_stacks_is_refused(wrong):
    with pytest.raises(ValueError, match="scanned must hold names"):
        flax_dimension_numbers({}, scanned=wrong)
