"""Gradients, parameters and results of user functions that do not fit are refused."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import egd_optax
from egd_optax import ArgumentError

PARAMS = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}


def update(tx, grads=PARAMS, params=PARAMS, start=PARAMS, **extra):
    return tx.update(grads, tx.init(start), params, **extra)


NEEDS_PARAMS = {
    "add_frobenius_penalty": egd_optax.add_frobenius_penalty(0.1),
    "add_log_det_penalty": egd_optax.add_log_det_penalty(0.1, eps=0.1),
    "add_nuclear_norm_penalty": egd_optax.add_nuclear_norm_penalty(0.1),
    "clip_weight_row_norms": egd_optax.clip_weight_row_norms(1.0),
    "egd": egd_optax.egd(0.1),
    "orthogonal_gradient": egd_optax.orthogonal_gradient(),
}
OTHER_KEYS = {"kernel": jnp.ones((3, 2)), "bent": jnp.ones(2)}
OTHER_SHAPES = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(1)}
INTEGERS = {"kernel": jnp.ones((3, 2), int), "bias": jnp.ones(2)}


@pytest.mark.parametrize("name", NEEDS_PARAMS)
@pytest.mark.parametrize(
    ("params", "words"),
    [
        (None, "tx.update(grads, state, params)"),
        (OTHER_KEYS, "['bent']"),
        (OTHER_SHAPES, "shape (2,), and params there shape (1,)"),
        (INTEGERS, "the parameter at ['kernel']"),
        ({"kernel": 1.0, "bias": "x"}, "the parameter at ['bias']"),
        (list(PARAMS.values()), "do not fit params"),
        (collections.OrderedDict(PARAMS), "the same leaves in other containers"),
    ],
)
def test_params_that_do_not_fit_are_refused(name, params, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        update(NEEDS_PARAMS[name], params=params)


@pytest.mark.parametrize(
    ("tx", "others"),
    [
        # It keeps vectors of numbers, which know of no keys.
        (egd_optax.apply_unless_vanished(optax.identity()), []),
        (egd_optax.grokfast_ema(), [OTHER_KEYS]),
        (egd_optax.grokfast_ma(np.int64(2)), [OTHER_KEYS]),
    ],
)
def test_gradients_that_do_not_fit_init_are_refused(tx, others):
    for grads in (*others, INTEGERS, [jnp.ones(2)]):
        with pytest.raises(ArgumentError, match="gradient"):
            update(tx, grads)
    with pytest.raises(ArgumentError, match=r"the parameter at \['kernel'\]"):
        tx.init(INTEGERS)


@pytest.mark.parametrize(
    "tx",
    [
        *(egd_optax.scale_by_egd(), egd_optax.scale_by_randomized_egd(1)),
        *(egd_optax.normalize_by_column_norm(), *NEEDS_PARAMS.values()),
    ],
)
def test_integers_are_no_gradients(tx):
    with pytest.raises(ArgumentError, match=r"\['kernel'\].* floating .*, got int32"):
        update(tx, INTEGERS)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (MuonDimensionNumbers(0, 2), "does not name axes of an array of 2"),
        (MuonDimensionNumbers((), 1), "does not name axes"),
        (MuonDimensionNumbers((0, 1), 1), "names an axis twice"),
        (MuonDimensionNumbers(0, -2), "names an axis twice"),
        ({"kernel": MuonDimensionNumbers()}, "do not fit the tree"),
        (lambda _: (0, 1), "do not fit the tree"),
        (lambda _: 3, "3 is neither MuonDimensionNumbers nor None"),
    ],
)
@pytest.mark.parametrize("make", [egd_optax.scale_by_egd, egd_optax.singular_values])
def test_dimension_numbers_that_do_not_fit_are_refused(make, numbers, words):
    if isinstance(numbers, MuonDimensionNumbers):
        numbers = {"kernel": numbers, "bias": None}
    with pytest.raises(ArgumentError, match=words):
        if make is egd_optax.scale_by_egd:
            update(make(weight_dimension_numbers=numbers))
        else:
            make(PARAMS, weight_dimension_numbers=numbers)


@pytest.mark.parametrize(
    "make",
    [
        egd_optax.scale_by_egd,
        functools.partial(egd_optax.egd, 0.1),
        functools.partial(egd_optax.add_nuclear_norm_penalty, 0.1),
    ],
)
def test_a_polar_fn_keeps_the_shape(make):
    for polar_fn in (lambda x: x[..., 0], lambda x: x.mT, lambda x: (x, x)):
        with pytest.raises(ArgumentError, match="polar_fn must return an array of"):
            update(make(polar_fn=polar_fn))


def test_a_mask_that_does_not_fit_is_refused():
    for mask in ({"kernel": True}, lambda _: {"kernel": True}, lambda _: "all"):
        tx = egd_optax.add_frobenius_penalty(0.1, mask)
        with pytest.raises(ArgumentError, match="mask"):
            update(tx)


def test_a_schedule_that_gives_no_number_is_refused():
    for wrong in (lambda _: None, lambda _: "0.1", lambda _: jnp.ones(2)):
        for make in (egd_optax.egd, egd_optax.add_frobenius_penalty):
            with pytest.raises(ArgumentError, match="what the schedule"):
                update(make(wrong))


def test_a_metric_that_is_no_real_scalar_is_refused():
    tx = egd_optax.delayed_frobenius_penalty(metric="accuracy")
    for value in ("high", None, 1j, jnp.ones(2), [0.1, 0.2], object()):
        with pytest.raises(ArgumentError, match="accuracy must be a real scalar, got "):
            update(tx, accuracy=value)
    with pytest.raises(ArgumentError, match="which update was not given"):
        update(tx, loss=0.1)


def test_branches_of_a_switch_must_agree():
    def half(updates, params):
        return jax.tree.map(lambda u: u.astype(jnp.float16), updates)

    for other in (optax.stateless(half), optax.stateless(lambda u, _: [u])):
        tx = egd_optax.switch_on_metric("loss", 1.0, optax.identity(), other)
        with pytest.raises(ArgumentError, match="before and after must give"):
            update(tx, loss=0.1)


def test_numbers_are_checked_under_jit_by_type_alone():
    def step(momentum):
        return update(egd_optax.egd(0.1, momentum=momentum))[0]["bias"]

    assert jax.eval_shape(step, 1.5).shape == (2,)
    with pytest.raises(ArgumentError, match=r"momentum must be .* got .*float32\[2\]"):
        jax.eval_shape(step, jnp.ones(2))
    injected = optax.inject_hyperparams(egd_optax.egd)(lambda step: 0.1 * step)
    jax.eval_shape(injected.update, PARAMS, injected.init(PARAMS), PARAMS)
