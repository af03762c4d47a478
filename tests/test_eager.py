"""Outside of jit: nothing is compiled twice, and arrays of NumPy serve as well."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_contract import ARGUMENTS, FACTORIES, factory, make

import egd_optax

METRICS = ({"train_accuracy": 0.1}, {"train_accuracy": 0.9})


def two_of_a_shape(dtype):
    """Parameters, two of them alike, and gradients."""
    matrix = jnp.array([[1.0, 0.0], [-1.0, 0.5]], dtype)
    params = {"one": matrix, "two": matrix + 1, "bias": jnp.ones(2, dtype)}
    return params, jax.tree.map(lambda leaf: leaf + 1, params)


def plain(name):
    return make(name)


def injected(name):
    arguments = ARGUMENTS[name]
    return optax.inject_hyperparams(factory(name))(**arguments)


@pytest.fixture
def compiled():
    """The names of the programs that are compiled from here on."""
    names = []

    def listen(event, duration, **about):
        if event.endswith("jaxpr_to_mlir_module_duration"):
            names.append(about.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("wrapped", [plain, injected])
@pytest.mark.parametrize("name", FACTORIES)
def test_a_second_update_compiles_nothing(name, wrapped, compiled):
    params, grads = two_of_a_shape(jnp.float32)
    tx = wrapped(name)
    state = tx.init(params)
    for extra in METRICS:
        _, state = tx.update(grads, state, params, **extra)
        del compiled[:]
        _, state = tx.update(grads, state, params, **extra)
        assert compiled == []


@pytest.mark.parametrize("name", FACTORIES)
def test_a_second_update_under_vmap_compiles_nothing(name, compiled):
    params, grads = two_of_a_shape(jnp.float32)
    tx = make(name)
    state = tx.init(params)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (grads, params))

    def update(grads, params):
        return tx.update(grads, state, params, train_accuracy=0.1)

    for _ in range(2):
        del compiled[:]
        jax.vmap(update)(*stacked)
    assert compiled == []


@pytest.mark.parametrize(
    "function",
    [
        egd_optax.singular_values,
        egd_optax.condition_numbers,
        egd_optax.effective_ranks,
        egd_optax.polar_by_eigh,
        egd_optax.polar_by_svd,
        egd_optax.polar_by_newton_schulz,
        lambda x: egd_optax.polar_by_randomized_svd(x, 1, key=jax.random.key(0)),
    ],
)
def test_a_second_call_compiles_nothing(function, compiled):
    x = jnp.ones((2, 2))
    for _ in range(2):
        del compiled[:]
        function(x)
    assert compiled == []


def test_what_is_compiled_anew_is_counted(compiled):
    for _ in range(2):
        jax.jit(lambda x: x + 1)(jnp.ones(2))
    assert compiled.count("jit(<lambda>)") == 2, compiled


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", FACTORIES)
def test_arrays_of_numpy_are_taken(name, dtype):
    params, grads = two_of_a_shape(dtype)
    tx = make(name)
    state = tx.init(params)
    for extra in METRICS:
        expected = tx.update(grads, state, params, **extra)
        given = jax.tree.map(np.array, (grads, state, params))
        result = tx.update(*given, **extra)
        chex.assert_trees_all_equal_shapes_and_dtypes(result, expected)
        chex.assert_trees_all_close(result, expected, rtol=1e-6)
        _, state = expected
    chex.assert_trees_all_close(tx.init(given[-1]), tx.init(params))


def test_a_switch_has_agreed_types_outside_of_jit_too():
    """The side that does not run is looked at, and only once."""
    looked = []

    def other(updates, params=None):
        looked.append(params)
        return updates

    tx = egd_optax.switch_on_metric(
        "train_accuracy", 0.5, optax.identity(), optax.stateless(other)
    )
    grads = jnp.ones(2)
    state = tx.init(grads)
    for _ in range(3):
        _, state = tx.update(grads, state, **METRICS[0])
    assert len(looked) == 1
    tx.update(jnp.ones(3), state, **METRICS[0])
    assert len(looked) == 2
    tx.update(grads, state, **METRICS[1])
    assert len(looked) == 3
