"""Whitening on a mesh of eight CPU devices; test_sharding.py runs this in a process."""

import contextlib
import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from optax.contrib import MuonDimensionNumbers

from benchmarks.speed._collectives import collectives
from egd_optax import egd, scale_by_egd
from egd_optax.grokking.problems.problem import modular, with_settings
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.search.search import Search
from egd_optax.grokking.training.checkpoints import Checkpoints
from egd_optax.grokking.training.run import train

MESHES = {"line": ((8,), ("a",)), "grid": ((4, 2), ("a", "b"))}
TYPES = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
# For each layout of the matrices of a stack of eight, the collectives that bring it to
# whole matrices on each device, and back.
LAYOUTS = [
    ("line", P(), [], ["all-gather"]),
    ("line", P("a"), ["all-to-all"], ["all-to-all"]),
    ("line", P(None, "a"), ["all-to-all"], ["all-to-all"]),
    ("grid", P(), [], ["all-gather"] * 2),
    ("grid", P("a"), ["all-to-all"], ["all-to-all", "all-gather"]),
    ("grid", P(None, "b"), ["all-to-all"], ["all-to-all", "all-gather"]),
    ("grid", P("a", "b"), ["all-to-all"] * 2, ["all-to-all"] * 2),
    ("grid", P("b", "a"), ["all-to-all"] * 2, ["all-to-all"] * 2),
    ("grid", P(("a", "b")), ["all-to-all"] * 2, ["all-to-all"] * 2),
]
SCANNED = MuonDimensionNumbers(1, 2)


def reshards(compiled):
    """Kinds of the collectives outside and inside of the whitening."""
    found = collectives(compiled)
    outside = sorted(one.kind for one in found if not one.inside)
    return outside, sorted(one.kind for one in found if one.inside)


def make_mesh(name, kind):
    shape, names = MESHES[name]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def newton_schulz(x):
    """A loop of matrix products, which XLA would like to split."""
    x = x / jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)
    return jax.lax.fori_loop(0, 20, lambda _, x: 1.5 * x - 0.5 * x @ x.mT @ x, x)


def matrices(count, shape=(16, 24)):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(count)]


def put(leaves, mesh, *specs):
    shardings = [NamedSharding(mesh, specs[i % len(specs)]) for i in range(len(leaves))]
    return [jax.device_put(leaf, s) for leaf, s in zip(leaves, shardings, strict=True)]


def whiten(tx, grads):
    return tx.update(grads, tx.init(grads))[0]


def assert_as_on_one_device(tx, leaves, placed):
    """Values and shardings; the compiled program."""
    compiled = jax.jit(functools.partial(whiten, tx)).lower(placed).compile()
    assert_same(compiled(placed), whiten(tx, leaves), placed)
    return compiled


def assert_same(updates, expected, placed):
    chex.assert_trees_all_close(updates, expected, atol=1e-5)
    for update, leaf in zip(updates, placed, strict=True):
        assert update.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)


@TYPES
@pytest.mark.parametrize(("mesh", "spec", "there", "back"), LAYOUTS, ids=str)
def test_one_reshard_there_and_one_back(mesh, spec, there, back, kind):
    leaves = matrices(8)
    placed = put(leaves, make_mesh(mesh, kind), spec)
    compiled = assert_as_on_one_device(scale_by_egd(newton_schulz), leaves, placed)
    assert reshards(compiled) == (sorted(there + back), [])


def test_left_to_xla_the_iteration_communicates():
    placed = put(matrices(8), make_mesh("line", AxisType.Auto), P("a"))
    plain = jax.jit(lambda grads: newton_schulz(jnp.stack(grads)))
    assert reshards(plain.lower(placed).compile())[1] != []


def test_the_bytes_of_a_reshard_are_those_of_a_share():
    placed = put(matrices(8), make_mesh("line", AxisType.Auto), P("a"))
    tx = scale_by_egd(newton_schulz)
    compiled = jax.jit(functools.partial(whiten, tx)).lower(placed).compile()
    assert [one.bytes for one in collectives(compiled)] == [4 * 16 * 24] * 2


@pytest.mark.parametrize("spec", [P(), P("a"), P("a", "b")], ids=str)
def test_no_collective_inside_of_the_default_whitening(spec):
    leaves = matrices(3)
    placed = put(leaves, make_mesh("grid", AxisType.Auto), spec)
    compiled = assert_as_on_one_device(scale_by_egd(), leaves, placed)
    outside, inside = reshards(compiled)
    assert len(outside) <= 4
    assert inside == []


@TYPES
def test_the_count_of_fallbacks_is_one_number_that_all_add_up(kind):
    placed = put(matrices(8), make_mesh("line", kind), P("a"))
    tx = scale_by_egd()
    update = jax.jit(tx.update)
    compiled = update.lower(placed, tx.init(placed)).compile()
    added = [one for one in collectives(compiled) if one.kind == "all-reduce"]
    assert [(one.bytes, one.inside) for one in added] == [(4, False)]
    state = tx.init(placed)
    for _ in range(2):
        _, state = update(placed, state)
    assert state.fallbacks == 0


@pytest.mark.parametrize("count", [1, 2, 11])
def test_stacks_of_any_size_are_padded(count):
    leaves = matrices(count)
    for mesh, spec in [("line", P("a")), ("grid", P("a", "b"))]:
        placed = put(leaves, make_mesh(mesh, AxisType.Auto), spec)
        tx = scale_by_egd(newton_schulz)
        outside, inside = reshards(assert_as_on_one_device(tx, leaves, placed))
        assert len(outside) <= 2 * len(MESHES[mesh][0])
        assert inside == []


@TYPES
def test_leaves_of_one_shape_may_have_different_layouts(kind):
    leaves = [*matrices(4), np.ones(8, np.float32)]
    layouts = [P("a", "b"), P("b"), P(None, ("a", "b")), P("b", "a"), P("a")]
    placed = put(leaves, make_mesh("grid", kind), *layouts)
    assert_as_on_one_device(scale_by_egd(newton_schulz), leaves, placed)


@TYPES
def test_outside_of_jit_it_is_the_same(kind):
    leaves = matrices(3)
    placed = put(leaves, make_mesh("grid", kind), P("a", "b"))
    tx = scale_by_egd(newton_schulz)
    assert_same(whiten(tx, placed), whiten(tx, leaves), placed)


@TYPES
@pytest.mark.parametrize("spec", [P(), P("a"), P(("a", "b")), P(None, "a", "b")])
def test_scanned_layers_in_any_layout(spec, kind):
    leaves = matrices(2, shape=(8, 8, 16))
    placed = put(leaves, make_mesh("grid", kind), spec)
    tx = scale_by_egd(newton_schulz, weight_dimension_numbers=SCANNED)
    compiled = assert_as_on_one_device(tx, leaves, placed)
    assert reshards(compiled)[1] == []


def test_each_device_whitens_its_share_alone():
    shapes = []

    def recorded(x):
        shapes.append(x.shape)
        return x

    for count, share in [(24, 3), (8, 1), (9, 2), (3, 1), (1, 1)]:
        placed = put(matrices(count), make_mesh("line", AxisType.Auto), P("a"))
        whiten(scale_by_egd(recorded), placed)
        assert shapes.pop() == (share, 16, 24)
    # Three matrices: on the four devices of one axis, with copies on the other.
    placed = put(matrices(3), make_mesh("grid", AxisType.Auto), P("a"))
    compiled = jax.jit(functools.partial(whiten, scale_by_egd(recorded))).lower(placed)
    assert shapes.pop() == (1, 16, 24)
    assert "tensor<4x16x24xf32>" in compiled.as_text()


@TYPES
@pytest.mark.parametrize("rate", [0.02, None])
def test_training_keeps_layouts_and_is_not_compiled_again(kind, rate):
    mesh = make_mesh("grid", kind)
    layouts = {"up": P("a", "b"), "down": P("b", "a"), "bias": P("b"), "head": P()}
    shapes = {"up": (16, 32), "down": (32, 16), "bias": (16,), "head": (16, 4)}
    rng = np.random.default_rng(1)
    host = {
        name: rng.normal(size=shape).astype(np.float32) / 4
        for name, shape in shapes.items()
    }
    tx = egd(rate, polar_fn=newton_schulz)

    def loss_fn(params):
        return sum(jnp.sum((p - 1) ** 2) for p in jax.tree.leaves(params))

    def run(params):
        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state):
            updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
            return optax.apply_updates(params, updates), state

        # The counts of a new state lie on no mesh yet.
        params, state = step(params, tx.init(params))
        params, state = step(params, state)
        compiled = step._cache_size()
        for _ in range(3):
            params, state = step(params, state)
        return params, step._cache_size() - compiled

    shardings = {name: NamedSharding(mesh, spec) for name, spec in layouts.items()}
    result, compiled_again = run(jax.device_put(host, shardings))
    assert compiled_again == 0
    expected, _ = run(jax.device_put(host, jax.devices()[0]))
    chex.assert_trees_all_close(result, expected, atol=1e-5)
    for name, leaf in result.items():
        assert leaf.sharding.is_equivalent_to(shardings[name], leaf.ndim)


def test_a_mapped_axis_is_left_where_it_is():
    mesh = make_mesh("line", AxisType.Auto)
    (leaf,) = matrices(1, shape=(8, 6, 4))
    placed = jax.device_put(leaf, NamedSharding(mesh, P("a")))
    tx = scale_by_egd(newton_schulz)
    compiled = jax.jit(jax.vmap(functools.partial(whiten, tx))).lower(placed).compile()
    expected = jax.vmap(functools.partial(whiten, tx))(leaf)
    chex.assert_trees_all_close(compiled(placed), expected, atol=1e-5)
    assert reshards(compiled) == ([], [])


def test_inside_of_shard_map_each_device_whitens_what_it_has():
    mesh = make_mesh("line", AxisType.Auto)
    (leaf,) = matrices(1, shape=(16, 4))
    placed = jax.device_put(leaf, NamedSharding(mesh, P("a")))
    tx = scale_by_egd(newton_schulz)
    local = jax.shard_map(
        functools.partial(whiten, tx), mesh=mesh, in_specs=P("a"), out_specs=P("a")
    )
    expected = np.concatenate([newton_schulz(part) for part in np.split(leaf, 8)])
    chex.assert_trees_all_close(jax.jit(local)(placed), expected, atol=1e-5)


def test_the_mesh_of_the_context_serves():
    leaves = matrices(8)
    with jax.set_mesh(make_mesh("line", AxisType.Auto)):
        tx = scale_by_egd(newton_schulz)
        compiled = jax.jit(functools.partial(whiten, tx)).lower(leaves).compile()
    outside, inside = reshards(compiled)
    assert outside == ["all-gather"]
    assert inside == []


@TYPES
def test_gradients_go_through_the_whitening(kind):
    leaves = matrices(3, shape=(4, 6))
    weights = [np.stack([leaf[::-1], leaf**2]) for leaf in leaves]
    tx = scale_by_egd()

    def gradient(leaves, weights):
        def loss(leaves):
            products = zip(whiten(tx, leaves), weights, strict=True)
            return sum(jnp.sum(u * w) for u, w in products)

        return jax.grad(loss)(leaves)

    def mapped(leaves, weights):
        return jax.vmap(gradient, in_axes=(None, 0))(leaves, weights)

    expected = mapped(leaves, weights)
    mesh = make_mesh("grid", kind)
    with jax.set_mesh(mesh):
        placed = put(leaves, mesh, P("a")), put(weights, mesh, P(None, "a"))
        chex.assert_trees_all_close(jax.jit(mapped)(*placed), expected, atol=1e-5)


def test_memory_of_a_device_stays_under_its_share():
    size = 128
    leaves = matrices(16, shape=(size, size))
    placed = put(leaves, make_mesh("line", AxisType.Auto), P("a"))
    whitening = jax.jit(functools.partial(whiten, scale_by_egd(lambda x: 2 * x)))
    compiled = whitening.lower(placed).compile()
    share = 4 * math.prod((16, size, size)) // 8
    assert compiled.memory_analysis().temp_size_in_bytes <= 4 * share


@TYPES
def test_a_second_update_outside_of_jit_compiles_nothing(kind):
    programs = []

    def listen(event, duration, **about):
        if event.endswith("jaxpr_to_mlir_module_duration"):
            programs.append(about.get("fun_name"))

    placed = put(matrices(2), make_mesh("line", kind), *[P("a")] * 2)
    tx = scale_by_egd(newton_schulz)
    state = tx.init(placed)
    jax.monitoring.register_event_duration_secs_listener(listen)
    for _ in range(2):
        del programs[:]
        tx.update(placed, state)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert programs == []


SMALL = with_settings(
    modular("addition", 7, width=16),
    **{"batch_size": 8, "max_steps": 30, "threshold": 0.15},
)


@pytest.fixture
def one_device(monkeypatch):
    """A context in which the workbench knows the first device alone."""

    @contextlib.contextmanager
    def context():
        with monkeypatch.context() as patch:
            patch.setattr(jax, "device_count", lambda: 1)
            yield

    return context


def test_a_search_over_all_devices_finds_what_one_finds(one_device):
    problem = with_settings(SMALL, seeds=(0, 1))
    # Fewer runs than devices, and more: both are filled up.
    for trials in (3, 11):
        search = Search([problem], trials=trials)
        found = search.run("columns", None, lambda name, trials: None)
        with one_device():
            alone = search.run("columns", None, lambda name, trials: None)
        assert found == alone
    assert any(trial.is_solved for trial in found)


@pytest.mark.parametrize("seeds", [3, 9])
def test_seeds_over_all_devices_train_as_on_one(seeds, one_device, tmp_path):
    problem = with_settings(SMALL, seeds=tuple(range(seeds)))
    optimizer = RECIPES["egd"].make(problem)

    def run(**how):
        return train(
            problem.task, problem.make_model, optimizer, problem.settings, **how
        )

    found = run()
    with one_device():
        alone = run()
    for name, values in alone.metrics.items():
        assert values.shape == (10, seeds)
        np.testing.assert_allclose(found.metrics[name], values, atol=1e-5)
    if seeds != 3:
        return

    # What was saved on eight devices goes on, there and on one.
    for context in (contextlib.nullcontext, one_device):
        folder = tmp_path / context.__name__
        short = dataclasses.replace(problem.settings, max_steps=15)
        train(
            *(problem.task, problem.make_model, optimizer, short),
            checkpoints=Checkpoints(folder, 15, {}, resume=False),
        )
        with context():
            again = run(checkpoints=Checkpoints(folder, 15, {}, resume=True))
        for name, values in found.metrics.items():
            np.testing.assert_allclose(again.metrics[name], values, atol=1e-5)
