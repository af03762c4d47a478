"""Every argument of every public function is refused, by name, if it is wrong."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import egd_optax
from egd_optax import ArgumentError

MATRIX = jnp.eye(3)
PARAMS = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
KEY = jax.random.key(0)
# What each function needs to be called at all.
NEEDED = {
    "add_frobenius_penalty": {"strength": 0.1},
    "add_log_det_penalty": {"strength": 0.1, "eps": 0.1},
    "add_nuclear_norm_penalty": {"strength": 0.1},
    "apply_unless_vanished": {"inner": optax.identity()},
    "clip_weight_row_norms": {"max_norm": 1.0},
    "condition_numbers": {"tree": PARAMS},
    "delayed_onset": {"value": 1.0, "onset_step": 3},
    "effective_ranks": {"tree": PARAMS},
    "egd": {"learning_rate": 0.1},
    "equinox_dimension_numbers": {"params": PARAMS["bias"]},
    "flax_dimension_numbers": {"params": PARAMS},
    "haiku_dimension_numbers": {"params": PARAMS["bias"]},
    "inverse_time_decay": {"init_value": 1.0, "halving_steps": 3},
    "polar_by_eigh": {"x": MATRIX},
    "polar_by_newton_schulz": {"x": MATRIX},
    "polar_by_randomized_svd": {"x": MATRIX, "rank": 1, "key": KEY},
    "polar_by_svd": {"x": MATRIX},
    "polar_factor": {"x": MATRIX},
    "scale_by_randomized_egd": {"rank": 1},
    "singular_values": {"tree": PARAMS},
    "switch_on_metric": {
        "metric": "accuracy",
        "threshold": 0.5,
        "before": optax.identity(),
        "after": optax.identity(),
    },
    "tabulate_matrices": {"params": PARAMS},
    "unit_columns": {"x": MATRIX},
}
PUBLIC = {
    name: getattr(egd_optax, name)
    for name in egd_optax.__all__
    if inspect.isfunction(getattr(egd_optax, name))
}


def two_axes_of_three(path, leaf):
    return MuonDimensionNumbers(0, 2)


def schedule(step):
    return 0.1 * step


NO_NUMBERS = ("0.1", None, True, 1j, math.nan, [0.1], np.ones(2), 10**400, object())
INFINITE = (math.inf, -math.inf, np.float32("nan"), jnp.float32(jnp.inf))
NUMBER = (*NO_NUMBERS, schedule, *INFINITE)
SHARE = (*NUMBER, -0.1, 1, 1.5, jnp.float32(2))
RATE = (*NO_NUMBERS, *INFINITE)
COUNT = (0, -1, 1.5, "3", None, jnp.ones(2), schedule, 2**31, 10**5000, True)
DTYPE = ("nonsense", jnp.int8, 3, jnp.complex64, jnp.ones(2), jnp.float8_e4m3fn)
MATRICES = ("x", None, [[1.0], [1.0, 2.0]], jnp.ones(3), 1.0, jnp.ones((2, 2), int))
NUMBERS = (
    *(3, "kernel", (0, 1), {"kernel": (0, 1)}, MuonDimensionNumbers("a", 1)),
    *(MuonDimensionNumbers(0, 0.5), MuonDimensionNumbers(None, 1)),
)
TREES = ({"kernel": jnp.ones((2, 2), int)}, {"kernel": "not an array"})
POLAR = (3, "svd", MATRIX)
MASK = (3, "kernel", {"kernel": 0.5}, {"kernel": np.array([True, False])})
TRANSFORMATION = (None, 0.1, "adam", optax.sgd, PARAMS)
OF_NAMES = {
    "scanned": (
        *("blocks", None, 3, (3,), {"blocks": 0.5}, ([1],), ({},)),
        *(jnp.ones(2), jnp.bfloat16(0.1)),
    ),
    "named": (None, ("kernel",), {"kernel": (0, 1)}, {3: None}),
    "fused": (None, ("kernel",), {"kernel": 0}, {3: 3}, {"kernel": None}),
}
OPTIONAL_SHARE = tuple(value for value in SHARE if value is not None)
OPTIONAL_RATE = tuple(value for value in RATE if value is not None)

WRONG = {
    "add_frobenius_penalty": {"strength": RATE, "mask": MASK},
    "add_log_det_penalty": {
        "strength": RATE,
        "eps": (*NUMBER, 0, -1.0),
        "weight_dimension_numbers": NUMBERS,
        "mask": MASK,
    },
    "add_nuclear_norm_penalty": {
        "strength": RATE,
        "polar_fn": POLAR,
        "weight_dimension_numbers": NUMBERS,
        "mask": MASK,
    },
    "apply_unless_vanished": {"inner": TRANSFORMATION, "threshold": OPTIONAL_SHARE},
    "clip_weight_row_norms": {
        "max_norm": (*NO_NUMBERS, schedule, 0, -1.0, -math.inf),
        "weight_dimension_numbers": NUMBERS,
    },
    "condition_numbers": {"tree": TREES, "weight_dimension_numbers": NUMBERS},
    "delayed_frobenius_penalty": {
        "strength": RATE,
        "metric": (None, 3, schedule),
        "threshold": (*NO_NUMBERS, schedule),
    },
    "delayed_onset": {
        "value": NUMBER,
        "onset_step": (*NO_NUMBERS, schedule, -1),
        "ramp_steps": (*NUMBER, -1),
    },
    "effective_ranks": {"tree": TREES, "weight_dimension_numbers": NUMBERS},
    "egd": {
        "learning_rate": OPTIONAL_RATE,
        "momentum": SHARE,
        "weight_decay": (*OPTIONAL_RATE, -0.1),
        "weight_decay_mask": MASK,
        "consistent_rms": (*(x for x in NUMBER if x is not None), 0, -0.2),
        "width_scaling": ("yes", None, 1),
        "adam_learning_rate": OPTIONAL_RATE,
        "adam_weight_decay": (*OPTIONAL_RATE, -0.1),
        "vanishing_threshold": OPTIONAL_SHARE,
        "mu_dtype": (*DTYPE, object()),
        "polar_fn": POLAR,
        "weight_dimension_numbers": NUMBERS,
    },
    # A whole model has leaves that are no arrays.
    "equinox_dimension_numbers": {"params": ({"kernel": jnp.ones((2, 2))},)} | OF_NAMES,
    "flax_dimension_numbers": {
        "params": ({"kernel": "not an array"}, {"kernel": jnp.ones((2, 2, 2))}),
    }
    | OF_NAMES,
    "grokfast_ema": {"alpha": SHARE, "lamb": NUMBER},
    "grokfast_ma": {
        "window_size": COUNT,
        "lamb": NUMBER,
        "filter_type": ("median", None, 3),
        "warmup": ("yes", None, 1),
    },
    "haiku_dimension_numbers": {
        "params": ({"kernel": "not an array"}, {"kernel": jnp.ones((2, 2))}),
    }
    | OF_NAMES,
    "inverse_time_decay": {
        "init_value": NUMBER,
        "halving_steps": (*NO_NUMBERS, schedule, 0, -1.0),
    },
    "normalize_by_column_norm": {
        "floor": (*NUMBER, -0.1),
        "weight_dimension_numbers": NUMBERS,
    },
    "polar_by_eigh": {"x": MATRICES, "rcond": OPTIONAL_SHARE},
    "polar_by_newton_schulz": {
        "x": MATRICES,
        "steps": (*COUNT, 101),
        "dtype": DTYPE,
    },
    "polar_by_randomized_svd": {
        "x": MATRICES,
        "rank": COUNT,
        "key": (None, 0, "key", jnp.ones(2), jax.random.split(KEY)),
        "power_iterations": (*NUMBER, 1.5, -1),
    },
    "polar_by_svd": {"x": MATRICES, "rcond": OPTIONAL_SHARE},
    "polar_factor": {"x": MATRICES},
    "scale_by_egd": {"polar_fn": POLAR, "weight_dimension_numbers": NUMBERS},
    "scale_by_randomized_egd": {
        "rank": COUNT,
        "seed": (None, "0", 0.5, 2**70, jax.random.split(KEY), jnp.ones(2)),
        "power_iterations": (*NUMBER, 1.5, -1),
        "weight_dimension_numbers": NUMBERS,
    },
    "singular_values": {"tree": TREES, "weight_dimension_numbers": NUMBERS},
    "switch_on_metric": {
        "metric": (None, 3, schedule),
        "threshold": (*NO_NUMBERS, schedule),
        "before": TRANSFORMATION,
        "after": TRANSFORMATION,
    },
    "tabulate_matrices": {
        "params": ({"kernel": jnp.ones((2, 2), int)}, {"kernel": "not an array"}),
        "weight_dimension_numbers": NUMBERS,
    },
    "unit_columns": {"x": MATRICES},
}
# In place of the argument's own name, where the message names what is in it.
SAYS = {
    "tree": "leaf ['kernel']",
    "params": "['kernel']",
}


def test_every_argument_of_every_public_function_is_here():
    expected = {
        name: set(inspect.signature(function).parameters)
        for name, function in PUBLIC.items()
        if inspect.signature(function).parameters
    }
    assert {name: set(cases) for name, cases in WRONG.items()} == expected


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, argument) for name, cases in WRONG.items() for argument in cases],
)
def test_a_wrong_argument_is_named(name, argument):
    for value in WRONG[name][argument]:
        arguments = NEEDED.get(name, {}) | {argument: value}
        with pytest.raises(ArgumentError) as error:
            PUBLIC[name](**arguments)
        message = str(error.value)
        assert SAYS.get(argument, argument) in message
        assert "\n" not in message
        assert len(message) < 600


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("clip_weight_row_norms", "max_norm", math.inf),
        ("switch_on_metric", "threshold", math.inf),
        ("delayed_onset", "onset_step", math.inf),
        ("inverse_time_decay", "halving_steps", math.inf),
        ("egd", "learning_rate", -0.1),
        ("egd", "learning_rate", np.float64(0.1)),
        ("egd", "momentum", jnp.bfloat16(0.5)),
        ("add_frobenius_penalty", "strength", -1),
        ("add_frobenius_penalty", "mask", True),
        ("add_frobenius_penalty", "mask", {"kernel": np.bool_(True), "bias": False}),
        ("grokfast_ma", "lamb", -2.0),
        ("grokfast_ma", "window_size", np.int64(3)),
        ("scale_by_randomized_egd", "seed", -1),
        ("scale_by_randomized_egd", "seed", KEY),
        ("normalize_by_column_norm", "weight_dimension_numbers", two_axes_of_three),
        ("polar_by_randomized_svd", "key", jax.random.PRNGKey(0)),
    ],
)
def test_an_unusual_argument_is_taken(name, argument, value):
    PUBLIC[name](**(NEEDED.get(name, {}) | {argument: value}))


def test_the_exception_is_what_callers_already_catch():
    for kind in (ValueError, TypeError):
        with pytest.raises(kind, match=r"momentum must be .* got 1.5"):
            egd_optax.egd(0.1, momentum=1.5)
