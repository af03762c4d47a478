import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from reference import polar

from egd_optax.grokking.problems.problem import modular, parity
from egd_optax.grokking.recipes import RECIPES, baseline, recipes_for

MODULAR = modular("addition", 7)
TRANSFORMER = modular("addition", 7, model="transformer", width=16)


@pytest.fixture
def params(rng):
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {
        "hidden": {"kernel": draw(6, 5), "bias": draw(5)},
        "output": {"kernel": draw(5, 4)},
    }


@pytest.mark.parametrize("name", ["sgd", "column-norm-paper", "egd-paper"])
def test_the_release_is_run_as_released(name, params, rng):
    grads = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params
    )
    # One direction below the absolute clamp of 1e-6.
    u, s, vt = np.linalg.svd(np.asarray(grads["hidden"]["kernel"]), False)
    s[-1] = 2e-7
    grads["hidden"]["kernel"] = jnp.asarray((u * s) @ vt)
    params["hidden"]["kernel"] = jnp.zeros((6, 5))

    def first(g):
        if name == "sgd":
            return g
        if name == "column-norm-paper":
            return g / np.maximum(np.linalg.norm(g, axis=0), 0.01)
        return polar(g, 4) + 0.2 * (polar(g) - polar(g, 4))

    tx = RECIPES[name].make(MODULAR)
    updates, _ = tx.update(grads, tx.init(params), params)
    expected = {
        "hidden": {
            "kernel": -0.7 * first(np.asarray(grads["hidden"]["kernel"])),
            "bias": -0.7 * grads["hidden"]["bias"],
        },
        "output": {
            "kernel": -0.7
            * (grads["output"]["kernel"] + 1e-4 * params["output"]["kernel"])
        },
    }
    tolerance = 0.05 if name == "egd-paper" else 1e-5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), updates, expected
    )


def test_decay_is_whitened_with_the_gradient(params):
    # With a zero gradient, the coupled decay alone is whitened to full size.
    tx = RECIPES["egd-paper"].make(MODULAR)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(
        updates["hidden"]["kernel"], -0.7 * polar(params["hidden"]["kernel"]), atol=1e-4
    )


@pytest.mark.parametrize("problem", [MODULAR, parity(6, 2), TRANSFORMER])
def test_every_recipe_is_an_optimizer(problem):
    params = nnx.state(problem.make_model(nnx.Rngs(0)), nnx.Param)
    for name in recipes_for(problem):
        tx = optax.with_extra_args_support(RECIPES[name].make(problem))

        # Traced, not run: the values are the tests of training.
        def step(params, tx=tx):
            state = tx.init(params)
            return tx.update(params, state, params, train_accuracy=1.0)

        updates, _ = jax.eval_shape(step, params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert RECIPES[name].source


def test_each_family_has_a_baseline():
    assert baseline(MODULAR) == recipes_for(MODULAR)[0] == "sgd"
    assert baseline(TRANSFORMER) == recipes_for(TRANSFORMER)[0] == "adam"


def test_the_paper_transforms_the_mlps_of_a_transformer():
    params = nnx.state(TRANSFORMER.make_model(nnx.Rngs(0)), nnx.Param)
    tx = RECIPES["egd-paper"].make(TRANSFORMER)
    # Adam's first step is the sign of what it gets, whatever its size; its second
    # moment tells what it got.
    _, state = tx.update(params, tx.init(params), params)
    seen = nnx.to_pure_dict(optax.tree.get(state, "mu"))
    given = nnx.to_pure_dict(params)
    block, before = seen["blocks"][0], given["blocks"][0]
    up = 10 * np.asarray(block["up"]["kernel"])
    np.testing.assert_allclose(up, polar(before["up"]["kernel"]), atol=1e-4)
    out = 10 * np.asarray(block["attention"]["out"]["kernel"])
    np.testing.assert_allclose(out, before["attention"]["out"]["kernel"], rtol=1e-4)
