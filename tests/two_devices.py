"""Every public function on a mesh of two devices; test_sharding.py runs this."""

import contextlib
import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from optax.contrib import MuonDimensionNumbers
from test_contract import ARGUMENTS, EXTRA, FACTORIES, OTHERS, factory

import egd_optax

LAYOUTS = {"rows": P("d"), "copied": P(), "layers": P("d"), "vector": P("d")}
MATRIX, SCANNED = MuonDimensionNumbers(), MuonDimensionNumbers(1, 2)
NUMBERS = {"rows": MATRIX, "copied": MATRIX, "layers": SCANNED, "vector": None}
POLAR = sorted(n for n in OTHERS if n.startswith("polar_") or n == "unit_columns")
SPECTRA = ["condition_numbers", "effective_ranks", "singular_values"]
KEY = {"polar_by_randomized_svd": {"rank": 2, "key": jax.random.key(0)}}


def numbers(leaves):
    return {name: NUMBERS[name] for name in leaves}


def transformation(name, leaves=LAYOUTS, wrap=lambda made: made):
    make_with = factory(name)
    arguments = dict(ARGUMENTS[name])
    if "weight_dimension_numbers" in inspect.signature(make_with).parameters:
        arguments["weight_dimension_numbers"] = numbers(leaves)
    whitening = egd_optax.scale_by_egd(weight_dimension_numbers=numbers(leaves))
    arguments |= {name: whitening for name in ("inner", "before") if name in arguments}
    return wrap(make_with)(**arguments)


def update(tx, params, state):
    return tx.update(jax.tree.map(jnp.cos, params), state, params, **EXTRA)


def function(name, leaves=LAYOUTS):
    """What is checked of a name: from a tree of arrays to another."""
    public = factory(name)
    if name in POLAR:
        whiten = functools.partial(public, **KEY.get(name, {}))
        return lambda params: {"rows": whiten(params["rows"])}
    if name in SPECTRA:
        return functools.partial(public, weight_dimension_numbers=numbers(leaves))
    tx = transformation(name, leaves)
    return lambda params: update(tx, params, tx.init(params))[0]


def host():
    shapes = {"layers": (2, 4, 6), "vector": (6,)}
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=shapes.get(name, (4, 6))).astype(np.float32)
        for name in LAYOUTS
    }


def two_devices(kind=AxisType.Explicit):
    return jax.make_mesh((2,), ("d",), axis_types=(kind,))


def placed(mesh):
    shardings = {name: NamedSharding(mesh, spec) for name, spec in LAYOUTS.items()}
    return jax.device_put(host(), shardings)


def assert_same(results, expected, arguments, name):
    chex.assert_trees_all_close(results, expected, rtol=1e-4, atol=1e-5)
    for leaf, result in results.items():
        before = arguments[leaf].sharding
        if name in SPECTRA:
            assert result is None or result.sharding.is_fully_replicated
        # On a mesh that is not explicit XLA may split what was copied.
        elif leaf != "copied" or AxisType.Auto not in before.mesh.axis_types:
            assert result.sharding.is_equivalent_to(before, result.ndim), leaf


@pytest.mark.parametrize("name", [*FACTORIES, *POLAR, *SPECTRA])
def test_the_values_of_one_device_in_the_sharding_of_the_input(name):
    fn = function(name)
    expected = jax.jit(fn)(host())
    for kind in (AxisType.Auto, AxisType.Explicit):
        arguments = placed(two_devices(kind))
        assert_same(jax.jit(fn)(arguments), expected, arguments, name)
    # Operation by operation, for one leaf. A sketch is that of a place in a stack, and
    # a step without a rate that of so many matrices.
    alone, fn = {"rows": arguments["rows"]}, function(name, ["rows"])
    if name in ("scale_by_randomized_egd", "egd()"):
        expected = jax.jit(fn)({"rows": host()["rows"]})
    assert_same(fn(alone), {"rows": expected["rows"]}, alone, name)


@pytest.mark.parametrize("name", [*FACTORIES, *POLAR, *SPECTRA])
def test_the_types_are_right_with_the_mesh_around(name):
    mesh = two_devices()
    with jax.set_mesh(mesh):
        arguments = placed(mesh)
        results = jax.eval_shape(jax.jit(function(name)), arguments)
    for leaf, result in results.items():
        if name not in SPECTRA:
            assert jax.typeof(arguments[leaf]).sharding == result.sharding
        elif result is not None:
            assert result.sharding.is_fully_replicated


@pytest.mark.parametrize("with_mesh", [False, True])
@pytest.mark.parametrize("name", FACTORIES)
def test_steps_with_numbers_and_states_on_the_mesh(name, with_mesh):
    mesh = two_devices()
    tx = transformation(name, wrap=optax.inject_hyperparams)

    def on_mesh(leaf):
        return jax.device_put(
            leaf, NamedSharding(mesh, P()) if leaf.ndim == 0 else None
        )

    def step(carry, _):
        updates, state = update(tx, *carry)
        return (optax.apply_updates(carry[0], updates), state), None

    with jax.set_mesh(mesh) if with_mesh else contextlib.nullcontext():
        params = placed(mesh)
        carry = (params, jax.tree.map(on_mesh, tx.init(params)))
        jax.eval_shape(lambda carry: jax.lax.scan(step, carry, length=2), carry)


@pytest.mark.parametrize("name", [*FACTORIES, *POLAR, *SPECTRA])
def test_seeds_lie_on_an_explicit_axis(name):
    mesh = two_devices()
    seeds = jax.tree.map(lambda leaf: np.stack([leaf, 1 + leaf]), host())
    seeds = jax.device_put(seeds, NamedSharding(mesh, P("d")))
    result = jax.eval_shape(jax.vmap(function(name)), seeds)
    for leaf in jax.tree.leaves(result):
        assert leaf.sharding.spec[0] == "d"


def test_the_queue_of_a_checkpoint_is_laid_out_as_the_gradients():
    tx = transformation("grokfast_ma")
    grads, state = placed(two_devices()), tx.init(host())
    _, state = jax.eval_shape(tx.update, grads, jax.tree.map(np.asarray, state))
    for name, leaf in state.queue.items():
        spec = jax.typeof(grads[name]).sharding.spec
        assert leaf.sharding.spec == P(None, *spec)


def test_seeds_on_an_explicit_axis_outside_of_jit():
    seeds = np.stack([host()["rows"]] * 2)
    on_mesh = jax.device_put(seeds, NamedSharding(two_devices(), P("d")))
    fn = function("normalize_by_column_norm", ["rows"])
    result = jax.vmap(fn)({"rows": on_mesh})["rows"]
    np.testing.assert_allclose(
        np.asarray(result)[0], fn({"rows": seeds[0]})["rows"], rtol=1e-5
    )


class Net(nnx.Module):
    def __init__(self, rngs):
        def spread(*axes):
            return nnx.with_partitioning(nnx.initializers.lecun_normal(), axes)

        self.up = nnx.Linear(4, 6, rngs=rngs, kernel_init=spread(None, "d"))
        self.down = nnx.Linear(6, 2, rngs=rngs, kernel_init=spread("d", None))

    def __call__(self, x):
        kernel, bias = self.down.kernel[...], self.down.bias[...]
        hidden = jax.nn.relu(self.up(x))
        return jnp.matmul(hidden, kernel, out_sharding=P()) + bias


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_flax_model_whose_metadata_lays_out_its_parameters(kind):
    def train(devices):
        mesh = jax.make_mesh(
            (devices,), ("d",), (kind,), devices=jax.devices()[:devices]
        )
        with jax.set_mesh(mesh):
            model = Net(nnx.Rngs(0))
            optimizer = nnx.Optimizer(model, egd_optax.egd(0.1), wrt=nnx.Param)
            losses = [float(step(model, optimizer)) for _ in range(2)]
            assert devices == 1 or model.up.kernel[...].sharding.spec == P(None, "d")
        return losses

    def loss(model):
        return jnp.mean(model(jnp.ones((8, 4))) ** 2)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(loss)(model))
        return loss(model)

    np.testing.assert_allclose(train(2), train(1), rtol=1e-4)
