"""egd() with nothing set."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers
from reference import polar

from egd_optax import ArgumentError, FusedAxis, egd
from egd_optax.grokking.problems.problem import modular, parity, with_settings
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.training.run import train


@pytest.fixture
def tree(rng):
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {"in": draw(3, 12), "out": draw(12, 2), "bias": draw(12)}


def share(steps, matrices=2):
    """After so many steps that lead nowhere."""
    return 1 / (12 * math.sqrt(matrices) + steps / 10)


def radius(fan_in, fan_out):
    return 5 * math.sqrt(max(1, fan_out / fan_in))


def shares(tx, params, steps=2, grads=None):
    grads = params if grads is None else grads
    state, found = tx.init(params), []
    for _ in range(steps):
        _, state = tx.update(grads, state, params)
        found.append(float(optax.tree.get(state, "share")))
    return found


def cosine_of(x, y):
    return np.sum(x * y) / (np.linalg.norm(x) * np.linalg.norm(y))


def test_steps_are_those_of_the_docstring(tree, rng):
    tx = egd()
    params, state = tree, tx.init(tree)
    adam = optax.scale_by_adam()
    adam_state = adam.init(tree["bias"])
    own, trace = {k: np.asarray(v, np.float64) for k, v in tree.items()}, {}
    mean = age = 0.0
    grown = []
    for count in range(24):
        # Back and forth first, so that the share falls, then one way.
        part = (-1) ** count if count < 9 else 0.3
        grads = jax.tree.map(
            lambda x, part=part: jnp.asarray(
                0.3 * rng.normal(size=x.shape) + part * np.asarray(x), jnp.float32
            ),
            tree,
        )
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        matrices = {k: np.asarray(grads[k], np.float64) for k in ("in", "out")}
        cosines = [cosine_of(matrices[k], trace[k]) for k in trace] or [0]
        mean = 0.9 * mean + 0.1 * np.mean(cosines)
        grown.append(0.1 * max(0, min(1, 1 - 20 * mean)))
        grown[-1] += 7 * count / 100 * max(0, -mean - 0.2)
        age += grown[-1]
        expected = 1 / (12 * math.sqrt(2) + age)
        for name, grad in matrices.items():
            trace[name] = 0.8 * trace.get(name, 0) + grad
            direction = polar(grad + 0.8 * trace[name])
            edge = -radius(*grad.shape) * direction
            own[name] += expected * (edge - own[name])
        step, adam_state = adam.update(grads["bias"], adam_state)
        own["bias"] -= 0.6 * expected * np.asarray(step)
        for name, value in [
            ("share", expected),
            ("cosine", mean),
            ("age", age),
        ]:
            found = float(optax.tree.get(state, name))
            assert found == pytest.approx(value, rel=1e-5, abs=1e-7)
    assert max(grown) > 0.12
    assert grown[-1] == 0
    assert any(0 < growth < 0.1 for growth in grown)
    for name, value in own.items():
        np.testing.assert_allclose(params[name], value, atol=2e-5)


def test_the_share_follows_the_angle_of_gradients_that_agree(tree):
    across = jnp.roll(tree["in"], 1) - tree["in"]
    first = tree["in"] / jnp.linalg.norm(tree["in"])
    across -= jnp.vdot(first, across) * first
    across /= jnp.linalg.norm(across)
    tx, params = egd(), {"in": tree["in"]}
    _, state = tx.update({"in": first}, tx.init(params), params)

    def share_at(angle):
        second = jnp.cos(angle) * first + jnp.sin(angle) * across
        _, after = tx.update({"in": second}, state, params)
        return optax.tree.get(after, "share")

    # c is a tenth of the angle's cosine.
    angle = 1.3
    value, slope = jax.value_and_grad(share_at)(angle)
    age = 0.1 + 0.1 * (1 - 2 * math.cos(angle))
    assert value == pytest.approx(1 / (12 + age), rel=1e-6)
    assert slope == pytest.approx(-0.2 * math.sin(angle) / (12 + age) ** 2, rel=1e-4)


def test_after_100_steps_reversals_count_in_full(tree):
    tx = egd()
    _, state = tx.update(tree, tx.init(tree), tree)
    opposite = jax.tree.map(jnp.negative, tree)
    for count, part in ((50, 0.5), (100, 1), (100_000, 1)):
        late = optax.tree.set(
            state, count=jnp.asarray(count, jnp.int32), cosine=jnp.float32(-0.5)
        )
        _, after = tx.update(opposite, late, tree)
        cosine = 0.9 * -0.5 + 0.1 * -1
        grown = float(optax.tree.get(after, "age") - optax.tree.get(late, "age"))
        assert grown == pytest.approx(0.1 + 7 * part * (-cosine - 0.2), rel=1e-5)


def test_vectors_are_drawn_back_to_where_they_began_from_step_1000_on(tree):
    tx = egd()
    flat = jax.tree.map(jnp.zeros_like, tree)
    moved = {**tree, "bias": tree["bias"] + 1}
    state = tx.init(tree)
    counts = optax.tree.get_all_with_path(state, "count")
    assert len(counts) >= 2
    for count, expected in ((999, 0), (1000, -0.3 * share(1001))):
        late = optax.tree.set(
            state, count=jnp.asarray(count, jnp.int32), age=jnp.float32(100)
        )
        updates, _ = tx.update(flat, late, moved)
        np.testing.assert_allclose(updates["bias"], np.full(12, expected), rtol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "shape", "matrices"),
    [
        (None, (4, 6), 1),
        (MuonDimensionNumbers(1, 2), (5, 4, 6), 5),
        (MuonDimensionNumbers(0, FusedAxis(1, parts=3)), (4, 6), 3),
    ],
)
def test_every_matrix_of_a_leaf_counts(numbers, shape, matrices):
    params = {"kernel": jnp.ones(shape), "bias": jnp.ones(3)}
    given = None if numbers is None else {"kernel": numbers, "bias": None}
    tx = egd(weight_dimension_numbers=given)
    # The second step leads where the first did.
    found = shares(tx, params)
    assert found == pytest.approx([share(1, matrices), share(1, matrices)])


def test_a_tree_without_matrices_takes_the_steps_of_one():
    params = {"bias": jnp.ones(3)}
    assert shares(egd(), params) == pytest.approx([share(1, 1), share(2, 1)])


def test_no_singular_value_leaves_the_ball(tree, rng):
    tx = egd(momentum=0.0)
    params = jax.tree.map(jnp.zeros_like, tree)
    state, update = tx.init(params), jax.jit(tx.update)
    drift = jax.tree.map(lambda x: x / jnp.linalg.norm(x), tree)
    for _ in range(200):
        updates, state = update(drift, state, params)
        params = optax.apply_updates(params, updates)
        for name in ("in", "out"):
            edge = radius(*params[name].shape)
            assert np.linalg.norm(params[name], 2) <= edge * (1 + 1e-5)
    assert np.linalg.norm(params["in"], 2) > 0.9 * radius(3, 12)


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({}, lambda m, n: 1),
        ({"width_scaling": True}, lambda m, n: math.sqrt(max(1, n / m))),
        ({"consistent_rms": 0.2}, lambda m, n: 0.2 * math.sqrt(max(m, n))),
    ],
)
def test_with_a_rate_the_decay_keeps_weights_in_the_same_ball(tree, options, factor):
    flat = jax.tree.map(jnp.zeros_like, tree)
    tx = egd(0.5, **options)
    updates, _ = tx.update(flat, tx.init(tree), tree)
    for name in ("in", "out"):
        shape = tree[name].shape
        expected = -0.5 * factor(*shape) / radius(*shape) * tree[name]
        np.testing.assert_allclose(updates[name], expected, rtol=1e-5)
    np.testing.assert_array_equal(updates["bias"], np.zeros(12))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("options", [{}, {"learning_rate": 0.1, "width_scaling": True}])
def test_an_axis_may_be_empty(shape, options):
    params = {"kernel": jnp.ones(shape), "bias": jnp.ones(3)}
    tx = egd(**options)
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["kernel"].shape == shape
    assert bool(jnp.all(jnp.isfinite(updates["bias"])))


def test_parts_can_be_given(tree):
    flat = jax.tree.map(jnp.zeros_like, tree)
    tx = egd(weight_decay=0.5, adam_learning_rate=0.1, adam_weight_decay=2.0)
    updates, _ = tx.update(flat, tx.init(tree), tree)
    edge = share(1) * radius(3, 12)
    np.testing.assert_allclose(updates["in"], -edge * 0.5 * tree["in"], rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], -0.2 * tree["bias"], rtol=1e-5)


@pytest.mark.parametrize("name", ["trace", "count", "start", "inner"])
def test_parameters_may_have_the_names_of_states(tree, name):
    expected = shares(egd(), {"x": tree["in"], **tree})
    assert shares(egd(), {name: tree["in"], **tree}) == expected
    assert shares(egd(), {name: {"x": tree["in"]}, **tree}) == expected


def test_what_it_did_is_found_whatever_parameters_are_called(tree):
    state = egd().init({"share": tree["bias"], "cosine": tree["in"]})
    assert optax.tree.get(state, "AutomaticRatesState").share == share(0, 1)


@pytest.mark.parametrize("frozen", ["in", "bias"])
def test_gradients_that_do_not_fit_are_refused_as_with_a_rate(tree, frozen):
    grads = {**tree, frozen: None}
    for tx in (egd(), egd(0.1)):
        with pytest.raises(ArgumentError, match=r"2 leaves and 3|do not fit"):
            tx.update(grads, tx.init(tree), tree)


def test_steps_can_be_differentiated_where_a_gradient_is_zero(tree):
    # As that of a layer before one that starts at zero.
    grads = {**tree, "in": jnp.zeros_like(tree["in"])}

    def moved(scale):
        params, tx = tree, egd()
        state = tx.init(params)
        for _ in range(2):
            given = jax.tree.map(lambda g: scale * g, grads)
            updates, state = tx.update(given, state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params["out"] ** 2)

    assert bool(jnp.isfinite(jax.grad(moved)(1.0)))


@pytest.mark.parametrize("scaling", [{"width_scaling": True}, {"consistent_rms": 0.2}])
def test_a_scaling_needs_a_rate(scaling):
    (name,) = scaling
    with pytest.raises(ArgumentError, match=f"^{name} needs a learning_rate"):
        egd(**scaling)


def test_under_everything_that_surrounds_an_optimizer(tree):
    grads = jax.tree.map(lambda x: x / 2, tree)
    plain, _ = egd().update(grads, egd().init(tree), tree)
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), tree)

    many = optax.MultiSteps(egd(), 2)
    state = many.init(tree)
    for expected in (jax.tree.map(jnp.zeros_like, plain), plain):
        updates, state = many.update(grads, state, tree)
        for name in tree:
            np.testing.assert_allclose(updates[name], expected[name], atol=1e-6)

    mapped, _ = jax.vmap(egd().update)(
        jax.tree.map(lambda x: jnp.stack([x, x]), grads),
        jax.vmap(egd().init)(twice),
        twice,
    )
    for name in tree:
        np.testing.assert_allclose(mapped[name][1], plain[name], atol=1e-5)

    def body(carry, _):
        params, state = carry
        updates, state = egd().update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(body, (tree, egd().init(tree)), length=2)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(params))

    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)
    updates, state = egd().update(half, egd().init(half), half)
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(updates))
    assert optax.tree.get(state, "share").dtype == jnp.float32


def test_parameters_may_be_donated(tree):
    tx = egd()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = tree, tx.init(tree)
    grads = jax.tree.map(lambda x: x + 1, tree)
    for _ in range(2):
        params, state = step(params, state, grads)
    assert bool(jnp.all(jnp.isfinite(params["bias"])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "within"),
    [(modular("addition", 83), 160), (parity(100, 2, width=50), 310)],
    ids=["addition mod 83", "2 of 100 bits"],
)
def test_problems_of_two_kinds_generalize_soon(problem, within):
    problem = with_settings(problem, seeds=(0, 1, 2), max_steps=2 * within)
    history = train(
        problem.task,
        problem.make_model,
        RECIPES["egd-auto"].make(problem),
        problem.settings,
    )
    sustained = history.sustained_crossing(problem.settings.threshold)
    assert sustained.median <= within
