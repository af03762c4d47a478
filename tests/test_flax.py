"""Inside of Flax's own training loops, NNX and Linen."""

import functools
import importlib.util
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from flax_models import TOKENS, LinenModel, NNXModel

from egd_optax import (
    delayed_frobenius_penalty,
    egd,
    flax_dimension_numbers,
    polar_by_svd,
    switch_on_metric,
)

EXAMPLES = Path(__file__).parent.parent / "examples"
LABELS = jnp.array([0, 1])
NUMBERS = functools.partial(flax_dimension_numbers, scanned=("blocks",))


def whitening():
    return egd(
        0.05,
        adam_learning_rate=0.05,
        # Compiles sooner than the default for each of the many shapes.
        polar_fn=polar_by_svd,
        weight_dimension_numbers=NUMBERS,
    )


def optimizer():
    return optax.chain(delayed_frobenius_penalty(1e-3), whitening())


def loss_of(logits):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
    return losses.mean()


def test_nnx_optimizer_forwards_the_metric_and_trains_every_kind_of_layer():
    model = nnx.jit(lambda: NNXModel(nnx.Rngs(0)))()
    state = nnx.Optimizer(model, optimizer(), wrt=nnx.Param)

    @nnx.jit
    def step(model, state, accuracy):
        loss, grads = nnx.value_and_grad(lambda m: loss_of(m(TOKENS)))(model)
        state.update(model, grads, train_accuracy=accuracy)
        return loss

    before = jax.tree.map(jnp.copy, nnx.as_pure(nnx.state(model, nnx.Param)))
    losses = [step(model, state, 0.5 if i < 10 else 1.0) for i in range(20)]
    assert losses[-1] < 0.1 * losses[0]
    after = nnx.as_pure(nnx.state(model, nnx.Param))
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.all(np.isfinite(new))
        assert np.any(old != new)
    assert optax.tree.get(nnx.as_pure(state.opt_state), "switched")


def test_nnx_optimizer_is_optax_on_the_pure_state():
    model = nnx.jit(lambda: NNXModel(nnx.Rngs(0)))()
    tx = optimizer()
    state = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    grads = jax.tree.map(lambda p: jnp.sin(7 * p), nnx.state(model, nnx.Param))

    @jax.jit
    def by_hand(params):
        updates, _ = tx.update(
            nnx.as_pure(grads), tx.init(params), params, train_accuracy=1.0
        )
        return optax.apply_updates(params, updates)

    expected = by_hand(params)
    nnx.jit(lambda s, m: s.update(m, grads, train_accuracy=1.0))(state, model)
    chex.assert_trees_all_close(
        nnx.as_pure(nnx.state(model, nnx.Param)), expected, rtol=1e-5, atol=1e-6
    )


def linen_state(kind):
    model = LinenModel()
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)["params"]
    return kind.create(apply_fn=model.apply, params=params, tx=optimizer())


def linen_grads(state):
    return jax.value_and_grad(
        lambda params: loss_of(state.apply_fn({"params": params}, TOKENS))
    )(state.params)


def test_linen_with_the_few_lines_of_the_example():
    path = EXAMPLES / "03_flax_linen.py"
    spec = importlib.util.spec_from_file_location("flax_linen_example", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    state = linen_state(example.MetricTrainState)

    @jax.jit
    def step(state, accuracy):
        loss, grads = linen_grads(state)
        return state.apply_gradients(grads=grads, train_accuracy=accuracy), loss

    losses, switched = [], []
    for i in range(20):
        state, loss = step(state, 0.5 if i < 10 else 1.0)
        losses.append(loss)
        switched.append(bool(optax.tree.get(state.opt_state, "switched")))
    assert state.step == 20
    assert losses[-1] < 0.1 * losses[0]
    assert switched == [False] * 10 + [True] * 10


def test_plain_train_state_says_what_it_does_not_forward():
    state = linen_state(TrainState)
    with pytest.raises(ValueError, match="watches 'train_accuracy'"):
        jax.eval_shape(lambda: state.apply_gradients(grads=state.params))


def test_plain_train_state_serves_without_metrics():
    model = LinenModel()
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=whitening())

    @jax.jit
    def step(state):
        loss, grads = linen_grads(state)
        return state.apply_gradients(grads=grads), loss

    losses = []
    for _ in range(20):
        state, loss = step(state)
        losses.append(loss)
    assert losses[-1] < 0.2 * losses[0]


def test_a_metric_held_in_an_nnx_variable_reaches_the_switch():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    tx = switch_on_metric("accuracy", 0.5, optax.sgd(0.0), optax.sgd(1.0))
    state = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = nnx.grad(lambda m: jnp.sum(m(jnp.ones((1, 2)))))(model)
    kernel = jnp.copy(model.kernel[...])
    state.update(model, grads, accuracy=nnx.Variable(jnp.array(0.0)))
    np.testing.assert_array_equal(model.kernel[...], kernel)
    state.update(model, grads, accuracy=nnx.Variable(jnp.array(1.0)))
    np.testing.assert_allclose(model.kernel[...], kernel - 1.0, rtol=1e-6)
