import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers
from reference import polar

from egd_optax import ArgumentError, FusedAxis, egd, polar_by_svd, scale_by_egd


@pytest.fixture
def tree(rng):
    return {
        "kernel": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=3), jnp.float32),
    }


@pytest.mark.parametrize("polar_fn", [None, polar_by_svd])
def test_mapping_are_whitened_and_vectors_pass(tree, polar_fn):
    tx = scale_by_egd(polar_fn)
    updates, _ = tx.update(tree, tx.init(tree))
    np.testing.assert_allclose(updates["kernel"], polar(tree["kernel"]), atol=1e-5)
    np.testing.assert_array_equal(updates["bias"], tree["bias"])


def test_a_layer_is_whitened_in_one_call_whatever_the_depth():
    calls = []

    def counted(x):
        calls.append(x.shape)
        return x

    layers = [{"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)} for _ in range(12)]
    tx = scale_by_egd(counted)
    jax.eval_shape(tx.update, layers, tx.init(layers))
    assert calls == [(12, 4, 4)]


def test_egd_is_the_formula_of_its_docstring(tree, rng):
    grads = [jax.tree.map(lambda x: x * s, tree) for s in (1.0, -0.3, 2.0)]
    grads[1]["kernel"] += jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    tx = egd(0.1, momentum=0.8, weight_decay=0.3, adam_learning_rate=0.01)
    params, state = tree, tx.init(tree)
    adam = optax.adam(0.01)
    adam_state = adam.init(tree["bias"])
    weights, trace = np.asarray(tree["kernel"], np.float64), 0.0
    bias = tree["bias"]
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        gradient = np.asarray(grad["kernel"], np.float64)
        trace = 0.8 * trace + gradient
        weights = weights - 0.1 * (polar(gradient + 0.8 * trace) + 0.3 * weights)
        step, adam_state = adam.update(grad["bias"], adam_state)
        bias = bias + step
    np.testing.assert_allclose(params["kernel"], weights, atol=1e-5)
    np.testing.assert_allclose(params["bias"], bias, atol=1e-6)


def test_egd_sees_other_axes_and_skips_what_it_is_told(rng):
    params = {
        "attention": jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32),
        "embedding": jnp.asarray(rng.normal(size=(7, 4)), jnp.float32),
    }
    numbers = {"attention": MuonDimensionNumbers(0, (1, 2)), "embedding": None}
    tx = egd(1.0, weight_decay=0.0, momentum=0.0, weight_dimension_numbers=numbers)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(
        -updates["attention"].reshape(4, 6),
        polar(params["attention"].reshape(4, 6)),
        atol=1e-5,
    )
    np.testing.assert_allclose(jnp.abs(updates["embedding"]), 1e-3, rtol=1e-3)


def test_schedules_drive_learning_rate_and_decay():
    params = {"kernel": jnp.eye(2)}
    tx = egd(
        optax.piecewise_constant_schedule(1.0, {1: 0.5}),
        momentum=0.0,
        weight_decay=optax.piecewise_constant_schedule(0.0, {}),
    )
    state = tx.init(params)
    for expected in (-1.0, -0.5):
        updates, state = tx.update(params, state, params)
        np.testing.assert_allclose(updates["kernel"], expected * np.eye(2), atol=1e-6)


SHAPES = {
    "wide": ((4, 9), MuonDimensionNumbers(), (4, 9)),
    "tall": ((9, 4), MuonDimensionNumbers(), (9, 4)),
    "turned": ((9, 4), MuonDimensionNumbers(1, 0), (4, 9)),
    "window": ((2, 2, 3, 5), MuonDimensionNumbers((0, 1, 2), 3), (12, 5)),
    "layers": ((2, 4, 3), MuonDimensionNumbers(1, 2), (4, 3)),
    "fused": ((4, 12), MuonDimensionNumbers(0, FusedAxis(1, parts=3)), (4, 4)),
}


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"width_scaling": True}, lambda m, n: max(1, n / m) ** 0.5),
        ({"consistent_rms": 0.2}, lambda m, n: 0.2 * max(m, n) ** 0.5),
    ],
)
def test_steps_in_proportion_to_the_shape(rng, options, factor):
    params = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32)
        for name, (shape, _, _) in SHAPES.items()
    } | {"bias": jnp.ones(3)}
    numbers = {name: number for name, (_, number, _) in SHAPES.items()} | {"bias": None}

    def update(**options):
        tx = egd(0.1, weight_decay=0.0, weight_dimension_numbers=numbers, **options)
        return tx.update(params, tx.init(params), params)[0]

    plain, scaled = update(), update(**options)
    for name, (_, _, (fan_in, fan_out)) in SHAPES.items():
        expected = factor(fan_in, fan_out) * plain[name]
        np.testing.assert_allclose(scaled[name], expected, rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(scaled["bias"], plain["bias"])
    if "consistent_rms" in options:
        for name in ("wide", "tall", "turned", "window", "fused"):
            rms = jnp.sqrt(jnp.mean(scaled[name] ** 2))
            np.testing.assert_allclose(rms, 0.1 * 0.2, rtol=1e-4, err_msg=name)


def test_the_scaling_is_that_of_muon(rng):
    # An orthogonal gradient comes out of Muon's rough steps as a multiple of itself.
    for shape in ((4, 16), (16, 4)):
        q = np.linalg.qr(rng.normal(size=(16, 4)))[0]
        params = {"kernel": jnp.asarray(q.T if shape[0] < shape[1] else q, jnp.float32)}
        for ours, theirs in (
            ({"width_scaling": True}, {}),
            ({"consistent_rms": 0.2}, {"consistent_rms": 0.2}),
        ):
            steps = [
                tx.update(params, tx.init(params), params)[0]["kernel"]
                for tx in (
                    egd(1.0, momentum=0.0, weight_decay=0.0, **ours),
                    optax.contrib.muon(1.0, beta=0.0, **theirs),
                )
            ]
            share = jnp.linalg.norm(steps[1]) / jnp.linalg.norm(steps[0])
            # All four singular values as far as five rough steps take them from one.
            assert 0.68 < share < 1.2


@pytest.mark.parametrize(
    "mask",
    [
        {"kernel": True, "embedding": False, "bias": True, "scale": False},
        lambda params: {name: name in ("kernel", "bias") for name in params},
        # As optax.adamw has it: the whole tree, not the matrices alone.
        lambda params: {name: params[name].size % 3 > 0 for name in params},
    ],
)
def test_a_mask_says_where_either_decay_applies(mask):
    params = {"kernel": jnp.ones((2, 4)), "embedding": jnp.ones((3, 2))}
    params |= {"bias": jnp.ones(2), "scale": jnp.ones(3)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = egd(
        0.1,
        weight_decay=0.3,
        adam_learning_rate=0.01,
        adam_weight_decay=0.5,
        weight_decay_mask=mask,
    )
    updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params)
    found = {name: float(jnp.mean(update)) for name, update in updates.items()}
    expected = {"kernel": -0.03, "embedding": 0.0, "bias": -0.005, "scale": 0.0}
    assert found == pytest.approx(expected)


def test_one_scaling_and_a_mask_of_the_tree():
    with pytest.raises(ArgumentError, match="width_scaling must be False beside"):
        egd(0.1, consistent_rms=0.2, width_scaling=True)
    params = {"kernel": jnp.eye(2)}
    with pytest.raises(ArgumentError, match="mask is no prefix"):
        egd(0.1, weight_decay_mask={"other": True}).init(params)
