"""The programs that accelerators get, as far as a machine without one can see them."""

import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax import export

from egd_optax import (
    add_log_det_penalty,
    add_nuclear_norm_penalty,
    egd,
    flax_dimension_numbers,
    polar_by_eigh,
    polar_by_newton_schulz,
    polar_by_svd,
    scale_by_egd,
    scale_by_randomized_egd,
)

PLATFORMS = "cuda", "rocm", "tpu"
TREE = {str(i): jnp.ones((24, 40)) for i in range(3)} | {"bias": jnp.ones(3)}
TRANSFORMATIONS = {
    "egd": egd(0.1),
    "newton_schulz": scale_by_egd(polar_by_newton_schulz),
    "svd": scale_by_egd(polar_by_svd),
    "randomized": scale_by_randomized_egd(4),
    "nuclear norm": add_nuclear_norm_penalty(1e-3),
    "log det": add_log_det_penalty(1e-3, eps=0.1),
}


def program(fn, platform, *args):
    exported = export.export(jax.jit(fn), platforms=[platform])(*args)
    # Without the places in the sources, which may be called anything.
    return re.sub(r"#loc.*", "", exported.mlir_module())


def update(tx, tree, platform):
    return program(
        lambda grads: tx.update(grads, tx.init(grads), grads)[0], platform, tree
    )


def operations(text, name):
    return [line for line in text.splitlines() if f"stablehlo.{name}" in line]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_they_compute_in_float32_at_full_precision(name, platform):
    text = update(TRANSFORMATIONS[name], TREE, platform)
    # A GPU has float64 at a small share of its speed, a TPU not at all; by default both
    # round the factors of a product to fewer bits than float32 has.
    assert "f64" not in text
    products = operations(text, "dot_general")
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_newton_schulz_takes_products_alone(platform):
    text = update(TRANSFORMATIONS["newton_schulz"], TREE, platform)
    assert not operations(text, "custom_call")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_decomposition_gets_the_whole_stack(platform):
    alone = {"0": TREE["0"]}
    stack, one = (
        operations(update(scale_by_egd(polar_by_eigh), tree, platform), "custom_call")
        for tree in (TREE, alone)
    )
    assert len(stack) == len(one) > 0
    assert all("tensor<3x" in line for line in stack)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(("rows", "small"), [(33, False), (32, True)])
def test_by_default_only_small_matrices_are_decomposed_and_only_on_a_gpu(
    rows, small, platform
):
    for count in (1, 3):
        tree = {str(i): jnp.ones((40, rows)) for i in range(count)}
        found = operations(update(scale_by_egd(), tree, platform), "custom_call")
        assert bool(found) == (small and platform != "tpu")
    assert all("tensor<3x" in line for line in found)


WIDTH = 64


class Blocks(nnx.Module):
    """Layers of the same shapes."""

    def __init__(self, count, width, rngs):
        self.layers = nnx.List(
            nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
            for _ in range(count)
        )

    def __call__(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


def step_over_seeds(model, platform):
    """The program of a training step of two seeds, its arguments donated."""
    graphdef, params = nnx.split(model, nnx.Param)
    tx = egd(0.1, weight_dimension_numbers=flax_dimension_numbers)

    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    def step(params, state, x):
        loss, grads = jax.value_and_grad(
            lambda params: jnp.mean(nnx.merge(graphdef, params)(x) ** 2)
        )(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    seeds = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    state = jax.vmap(tx.init)(seeds)
    x = jnp.ones((3, 4, WIDTH))
    fn = jax.jit(step, donate_argnums=(0, 1))
    text = export.export(fn, platforms=[platform])(seeds, state, x).mlir_module()
    return re.sub(r"#loc.*", "", text)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_flax_model_trains_with_them(platform):
    texts = []
    for count in (1, 3):
        model = Blocks(count, WIDTH, nnx.Rngs(0))
        text = step_over_seeds(model, platform)
        assert "f64" not in text
        assert "callback" not in text
        assert not operations(text, "custom_call")
        # Every array of parameters and state goes where it was; the batch stays.
        (arguments,) = re.findall(r"@main\((.*?)\) ->", text, re.DOTALL)
        kept = [a for a in re.split(r", (?=%arg)", arguments) if "aliasing" not in a]
        assert len(kept) == 1 and "x4x64xf32" in kept[0]
        texts.append(text)
    # Each shape is whitened once, however many layers have it.
    pair = r"\(tensor<(\d+)x64x64xf32>, tensor<\1x64x64xf32>\)"
    one, three = (re.findall(pair, text) for text in texts)
    assert len(one) == len(three) > 0
    # Four matrices a layer, of two seeds.
    assert {*one, *three} == {"8", "24"}
