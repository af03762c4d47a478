"""Dtypes stay, whatever the numbers are given as; what adds up has float32 at least.

Nearly all of it is read off updates that are traced, not compiled.
"""

import functools
import inspect
import typing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_contract import ARGUMENTS, EXTRA, FACTORIES, factory, make

from egd_optax import ArgumentError, delayed_onset, egd, inverse_time_decay

# What a number can be given as.
INTEGERS = {"int": int, "np.int64": np.int64, "jnp.int32": jnp.int32}
NUMBERS = INTEGERS | {
    "float": float,
    "np.float16": np.float16,
    "np.float32": np.float32,
    "np.float64": np.float64,
    "np.array": functools.partial(np.array, dtype=np.float32),
    "jnp.float32": jnp.float32,
    "jnp.bfloat16": jnp.bfloat16,
    "weak": lambda number: jnp.asarray(float(number)),
}
SCHEDULES = {
    f"schedule of {name}": lambda number, kind=kind: lambda step: kind(number)
    for name, kind in NUMBERS.items()
} | {
    "delayed_onset": lambda number: delayed_onset(number, 10),
    "inverse_time_decay": lambda number: inverse_time_decay(number, 10),
    "optax.linear_schedule": lambda number: optax.linear_schedule(number, 0.0, 10),
}


def numeric_arguments():
    """Every argument that takes a number, and what it can be given as."""
    for name in FACTORIES:
        signature = inspect.signature(factory(name))
        for argument, parameter in signature.parameters.items():
            if (name, argument) == ("egd()", "consistent_rms"):
                continue  # it scales a rate
            if argument in ("seed", "power_iterations"):
                yield name, argument, INTEGERS
            elif parameter.annotation == optax.ScalarOrSchedule:
                yield name, argument, NUMBERS | SCHEDULES
            elif float in typing.get_args(parameter.annotation):
                yield name, argument, NUMBERS


def with_argument(name, argument, given):
    """The transformation with the number 1 there, or 1/2, or 0 of an integer kind."""
    for number in (1, 0.5):
        try:
            arguments = ARGUMENTS[name] | {argument: given(number)}
            return factory(name)(**arguments)
        except ArgumentError as error:
            refused = error
    raise refused


def leaves_of(*dtypes):
    shapes = {"kernel": (3, 2), "again": (3, 2), "bias": (2,)}
    return {
        jnp.dtype(dtype).name: {k: jnp.ones(s, dtype) for k, s in shapes.items()}
        for dtype in dtypes
    }


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(("name", "argument", "kinds"), list(numeric_arguments()))
def test_no_number_changes_a_dtype(name, argument, kinds, x64):
    def dtypes(tree):
        return jax.tree.map(lambda leaf: leaf.dtype, tree)

    with jax.enable_x64(x64):
        params = leaves_of(jnp.bfloat16, jnp.float32)
        extra = EXTRA | {"train_accuracy": jnp.float32(1)}
        for kind, given in kinds.items():
            tx = with_argument(name, argument, given)
            state = jax.eval_shape(tx.init, params)
            new = jax.eval_shape(tx.update, params, state, params, **extra)
            assert dtypes(new) == dtypes((params, state)), kind


@pytest.mark.parametrize("name", FACTORIES)
def test_gradients_of_another_dtype_leave_the_state_alone(name):
    params, grads = leaves_of(jnp.bfloat16), leaves_of(jnp.bfloat16)
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    tx = make(name)
    state = jax.eval_shape(tx.init, params)
    # A warning is an error.
    updates, new = jax.eval_shape(tx.update, grads, state, params, **EXTRA)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)


@pytest.mark.parametrize("name", FACTORIES)
def test_arrays_of_numpy_in_float64_are_those_of_jax_in_float32(name):
    leaves = {"kernel": np.ones((3, 2)), "bias": np.ones(2)}
    tx, wanted = make(name), jax.tree.map(jnp.asarray, leaves)
    state = jax.eval_shape(tx.init, wanted)
    # A warning is an error; traced arguments would have JAX's dtypes already.
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(leaves), state)
    for grads in (leaves, wanted):

        def update(state, grads=grads):
            return tx.update(grads, state, leaves, **EXTRA)[0]

        updates = jax.eval_shape(update, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, wanted)


def trained(tx, params, gradients):
    """Parameters and state after gradients of these sizes, in one compiled loop."""

    def step(carry, size):
        params, state = carry
        grads = jax.tree.map(lambda p: jnp.full_like(p, size), params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, tx.init(params))
    return jax.jit(lambda: jax.lax.scan(step, carry, jnp.asarray(gradients))[0])()


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": np.float32(0.9)},
        {"adam_weight_decay": delayed_onset(0.7, 1000)},
    ],
)
def test_half_precision_in_a_scan_and_in_apply_if_finite(options):
    params = leaves_of(jnp.bfloat16)
    tx = optax.apply_if_finite(egd(0.1, **options), 3)
    after, state = trained(tx, params, [1.0, 1.0])
    chex.assert_trees_all_equal_shapes_and_dtypes(after, params)
    assert state.last_finite


# From a plateau down to a slope: half precision would never leave the plateau.
FALLING = np.repeat([1.0, 0.05], [1000, 2000])


def test_states_of_half_precision_follow_the_gradient():
    def moments(dtype, **options):
        tx = egd(0.0, weight_decay=0.0, adam_learning_rate=0.0, **options)
        _, state = trained(tx, leaves_of(dtype), FALLING)
        found = {name: optax.tree.get(state, name) for name in ("mu", "nu", "trace")}
        return {name: jax.tree.leaves(tree)[0] for name, tree in found.items()}

    ours, reference = moments(jnp.bfloat16), moments(jnp.float32)
    for name, moment in ours.items():
        assert moment.dtype == jnp.float32
        # The gradient itself, 0.05, is rounded.
        np.testing.assert_allclose(moment, reference[name], rtol=4e-3)
    np.testing.assert_allclose(ours["nu"], 0.088, atol=5e-4)

    small = moments(jnp.bfloat16, mu_dtype=jnp.bfloat16)
    dtypes = {name: moment.dtype for name, moment in small.items()}
    assert dtypes == {"mu": jnp.bfloat16, "nu": jnp.float32, "trace": jnp.bfloat16}


def test_updates_of_half_precision_are_those_of_float32_rounded():
    """The decay too, which half precision used to lose beside a larger step."""
    rng = np.random.default_rng(0)
    params, grads = (
        jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), tree)
        for tree in [leaves_of(jnp.bfloat16)] * 2
    )
    tx = egd(0.1, momentum=0.9, weight_decay=0.003, adam_weight_decay=0.003)
    updates, _ = tx.update(grads, tx.init(params), params)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (params, grads))
    expected, _ = tx.update(wide[1], tx.init(wide[0]), wide[0])
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), expected)
    chex.assert_trees_all_equal(updates, rounded)


def test_a_complex_leaf_has_no_real_momentum():
    with pytest.raises(ArgumentError, match="mu_dtype must be None for complex"):
        egd(0.1, mu_dtype=jnp.float32).init({"w": jnp.ones((2, 2), jnp.complex64)})
