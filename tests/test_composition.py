"""Every transformation inside of optax's own wrappers, with the values it must give."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers
from test_contract import ARGUMENTS, EXTRA, FACTORIES, factory, make

import egd_optax

WITH_NUMBERS = [
    "add_nuclear_norm_penalty",
    "egd",
    "normalize_by_column_norm",
    "scale_by_egd",
]
# lookahead does not pass extra arguments on, so that no metric reaches a switch.
WATCHES_A_METRIC = ["delayed_frobenius_penalty", "switch_on_metric"]


def tree(seed):
    rng = np.random.default_rng(seed)
    shapes = {"matrix": (3, 2), "twin": (3, 2), "vector": (4,)}
    return {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }


PARAMS, GRADS = tree(0), [tree(seed) for seed in (1, 2, 3)]


def run(tx, grads=GRADS, params=PARAMS, **extra):
    """Updates of some steps at the same parameters."""
    tx = optax.with_extra_args_support(tx)
    state, results = tx.init(params), []
    for grad in grads:
        updates, state = tx.update(grad, state, params, **(EXTRA | extra))
        results.append(updates)
    return results


@pytest.mark.parametrize("name", FACTORIES)
def test_chain_passes_updates_and_extra_arguments_through(name):
    before, after = optax.scale(0.5), optax.scale(-2.0)
    halves = [jax.tree.map(lambda g: 0.5 * g, grad) for grad in GRADS]
    expected = [
        jax.tree.map(lambda u: -2.0 * u, updates) for updates in run(make(name), halves)
    ]
    chex.assert_trees_all_close(run(optax.chain(before, make(name), after)), expected)
    named = optax.named_chain(("a", before), ("b", make(name)), ("c", after))
    chex.assert_trees_all_close(run(named), expected)


def pick(trees, names):
    return [{name: tree[name] for name in names} for tree in trees]


@pytest.mark.parametrize("wrapper", [optax.partition, optax.multi_transform])
@pytest.mark.parametrize("name", FACTORIES)
def test_partition_gives_each_its_own_leaves(name, wrapper):
    labels = {"matrix": "one", "twin": "other", "vector": "one"}
    tx = wrapper({"one": make(name), "other": optax.scale(3.0)}, labels)
    results = run(tx)
    mine = ("matrix", "vector")
    (params,) = pick([PARAMS], mine)
    chex.assert_trees_all_close(
        pick(results, mine), run(make(name), pick(GRADS, mine), params), rtol=1e-6
    )
    for result, grad in zip(results, GRADS, strict=True):
        np.testing.assert_allclose(result["twin"], 3 * grad["twin"], rtol=1e-6)


@pytest.mark.parametrize("name", FACTORIES)
def test_masked_leaves_the_others_alone(name):
    mask = {"matrix": True, "twin": False, "vector": False}
    results = run(optax.masked(make(name), mask))
    (params,) = pick([PARAMS], ["matrix"])
    chex.assert_trees_all_close(
        pick(results, ["matrix"]), run(make(name), pick(GRADS, ["matrix"]), params)
    )
    rest = ["twin", "vector"]
    chex.assert_trees_all_equal(pick(results, rest), pick(GRADS, rest))


@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_a_tree_of_numbers_for_all_leaves_fits_under_a_mask(name):
    numbers = {"matrix": MuonDimensionNumbers(1, 0), "twin": None, "vector": None}
    make_with = functools.partial(factory(name), **ARGUMENTS[name])
    mask = {"matrix": True, "twin": False, "vector": True}
    results = run(optax.masked(make_with(weight_dimension_numbers=numbers), mask))
    mine = ("matrix", "vector")
    (params,) = pick([PARAMS], mine)
    (mine_numbers,) = pick([numbers], mine)
    alone = make_with(weight_dimension_numbers=mine_numbers)
    chex.assert_trees_all_close(
        pick(results, mine), run(alone, pick(GRADS, mine), params), rtol=1e-6
    )


NUMBERS = MuonDimensionNumbers(0, 1)
# What must be named in static_args, where it is given.
STATIC = {
    "add_nuclear_norm_penalty": {
        "polar_fn": egd_optax.polar_by_svd,
        "weight_dimension_numbers": lambda tree: jax.tree.map(
            lambda x: NUMBERS if x.ndim == 2 else None, tree
        ),
        "mask": lambda params: jax.tree.map(lambda p: p.ndim == 2, params),
    },
    "add_frobenius_penalty": {
        "mask": lambda params: jax.tree.map(lambda p: p.ndim == 2, params)
    },
    "egd": {
        "polar_fn": egd_optax.polar_by_svd,
        "weight_dimension_numbers": lambda tree: jax.tree.map(
            lambda x: NUMBERS if x.ndim == 2 else None, tree
        ),
    },
    "grokfast_ma": {"window_size": 2, "filter_type": "sum", "warmup": False},
    "normalize_by_column_norm": {
        "weight_dimension_numbers": {"matrix": NUMBERS, "twin": None, "vector": None}
    },
    "scale_by_egd": {
        "polar_fn": egd_optax.polar_by_svd,
        "weight_dimension_numbers": {"matrix": NUMBERS, "twin": None, "vector": None},
    },
    "delayed_frobenius_penalty": {"metric": "validation_accuracy"},
    "switch_on_metric": {"metric": "validation_accuracy"},
}


@pytest.mark.parametrize("name", sorted(STATIC))
def test_inject_hyperparams_with_static_arguments(name):
    arguments = ARGUMENTS[name] | STATIC[name]
    make_with = factory(name)
    injected = optax.inject_hyperparams(make_with, static_args=tuple(STATIC[name]))
    extra = {"validation_accuracy": 1.0}
    chex.assert_trees_all_close(
        run(injected(**arguments), **extra), run(make_with(**arguments), **extra)
    )


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("add_frobenius_penalty", "strength"),
        ("add_nuclear_norm_penalty", "strength"),
        ("delayed_frobenius_penalty", "strength"),
        ("delayed_frobenius_penalty", "threshold"),
        ("egd", "learning_rate"),
        ("egd", "momentum"),
        ("egd", "weight_decay"),
        ("grokfast_ema", "alpha"),
        ("grokfast_ema", "lamb"),
        ("grokfast_ma", "lamb"),
        ("normalize_by_column_norm", "floor"),
        ("switch_on_metric", "threshold"),
    ],
)
def test_an_injected_number_can_be_set_between_steps(name, argument):
    make_with = factory(name)
    arguments = dict(ARGUMENTS[name])
    if name == "grokfast_ma":
        arguments["window_size"] = np.int64(1)
    tx = optax.inject_hyperparams(make_with)(**(arguments | {argument: 0.75}))
    # A switch with a threshold of 0.75 has switched, one with 0.9 has not.
    accuracy = 0.8 if argument == "threshold" else 1.0
    extra = EXTRA | {"train_accuracy": accuracy}
    # Below the floors of column normalization.
    grads = jax.tree.map(lambda g: 0.1 * g, GRADS)
    state = optax.tree.set(tx.init(PARAMS), **{argument: 0.9})
    updates, state = tx.update(grads[0], state, PARAMS, **extra)
    updates, _ = tx.update(grads[1], state, PARAMS, **extra)
    expected = run(make_with(**(arguments | {argument: 0.9})), grads[:2], **extra)
    chex.assert_trees_all_close(updates, expected[-1], rtol=1e-5)
    other = run(make_with(**(arguments | {argument: 0.75})), grads[:2], **extra)
    assert not np.allclose(other[-1]["matrix"], updates["matrix"])


@pytest.mark.parametrize("name", FACTORIES)
def test_multi_steps_gives_the_update_of_the_mean_gradient(name):
    tx = optax.MultiSteps(make(name), every_k_schedule=3)
    # tx.gradient_transformation() would drop the metric that a switch watches.
    tx = optax.GradientTransformationExtraArgs(tx.init, tx.update)
    mean = jax.tree.map(lambda *g: sum(g) / 3, *GRADS)
    *pauses, last = run(tx)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    chex.assert_trees_all_equal(pauses, [zeros, zeros])
    (expected,) = run(make(name), [mean])
    chex.assert_trees_all_close(last, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("name", FACTORIES)
def test_a_step_that_is_not_finite_never_happened(name, bad):
    poisoned = dict(GRADS[1], matrix=GRADS[1]["matrix"].at[0, 1].set(bad))
    tx = optax.apply_if_finite(make(name), max_consecutive_errors=2)
    first, skipped, last = run(tx, [GRADS[0], poisoned, GRADS[2]])
    chex.assert_trees_all_equal(skipped, jax.tree.map(jnp.zeros_like, PARAMS))
    expected = run(make(name), [GRADS[0], GRADS[2]])
    chex.assert_trees_all_close([first, last], expected)


def descent(name):
    if name in ("egd", "egd()"):
        return make(name)
    return optax.chain(make(name), optax.sgd(1e-2))


@pytest.mark.parametrize("name", sorted(set(FACTORIES) - set(WATCHES_A_METRIC)))
def test_lookahead_meets_its_slow_parameters(name):
    tx = optax.lookahead(descent(name), sync_period=2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(PARAMS)
    state = tx.init(params)
    plain, plain_state = PARAMS, descent(name).init(PARAMS)
    for grad in GRADS[:2]:
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        updates, plain_state = descent(name).update(grad, plain_state, plain)
        plain = optax.apply_updates(plain, updates)
    expected = jax.tree.map(lambda a, b: a + 0.5 * (b - a), PARAMS, plain)
    chex.assert_trees_all_close(params.slow, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(params.fast, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", WATCHES_A_METRIC)
def test_a_switch_within_lookahead_says_what_it_misses(name):
    tx = optax.lookahead(descent(name), sync_period=2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(PARAMS)
    with pytest.raises(ValueError, match="watches 'train_accuracy'"):
        tx.update(GRADS[0], tx.init(params), params)


@pytest.mark.parametrize("name", FACTORIES)
def test_schedule_free_averages_the_iterates(name):
    base = optax.with_extra_args_support(descent(name))
    tx = optax.contrib.schedule_free(base, learning_rate=1e-2, b1=0.9)
    y, state = PARAMS, tx.init(PARAMS)
    z, base_state, iterates = PARAMS, base.init(PARAMS), []
    for grad in GRADS:
        step, base_state = base.update(grad, base_state, y, **EXTRA)
        z = optax.apply_updates(z, step)
        iterates.append(z)
        updates, state = tx.update(grad, state, y, **EXTRA)
        y = optax.apply_updates(y, updates)
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *iterates)
    x = optax.contrib.schedule_free_eval_params(state, y)
    chex.assert_trees_all_close(x, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WITH_NUMBERS)
@pytest.mark.parametrize("form", ["tree", "prefix", "callable"])
def test_dimension_numbers_come_in_all_forms_that_muon_takes(name, form):
    swapped = MuonDimensionNumbers((1,), (0,))
    numbers = {"matrix": swapped, "twin": swapped, "vector": None}
    given = {
        "tree": numbers,
        "prefix": {"matrix": {"inner": swapped}, "twin": swapped, "vector": None},
        "callable": lambda tree: numbers,
    }[form]

    def transposed(tree):
        return jax.tree.map(lambda x: x.T, tree)

    def nested(tree):
        return tree | {"matrix": {"inner": tree["matrix"]}}

    arguments = ARGUMENTS[name] | {"weight_dimension_numbers": given}
    expected = [transposed(updates) for updates in run(make(name))]
    params, grads = transposed(PARAMS), [transposed(grad) for grad in GRADS]
    if form == "prefix":
        params, grads = nested(params), [nested(grad) for grad in grads]
        expected = [nested(updates) for updates in expected]
    results = run(factory(name)(**arguments), grads, params)
    chex.assert_trees_all_close(results, expected, rtol=1e-5, atol=1e-6)
    muon = optax.contrib.muon(0.1, muon_weight_dimension_numbers=given)
    run(muon, grads, params)


CHAIN = optax.chain(
    egd_optax.grokfast_ema(alpha=0.5),
    egd_optax.grokfast_ma(window_size=2),
    egd_optax.delayed_frobenius_penalty(),
    egd_optax.add_nuclear_norm_penalty(egd_optax.delayed_onset(1e-3, 5)),
    optax.ema(0.9),
    optax.adam(optax.constant_schedule(1e-3)),
)


@pytest.mark.parametrize(
    "name",
    [
        "GrokfastEMAState",
        "GrokfastMAState",
        "SwitchOnMetricState",
        "WeightPenaltyState",
    ],
)
def test_each_state_is_found_by_its_name_in_a_long_chain(name):
    state = CHAIN.init(PARAMS)
    found = optax.tree.get(state, name)
    assert type(found) is getattr(egd_optax, name)
    marked = jax.tree.map(lambda leaf: jnp.ones_like(leaf), found)
    state = optax.tree.set(state, **{name: marked})
    chex.assert_trees_all_equal(optax.tree.get(state, name), marked)
    CHAIN.update(GRADS[0], state, PARAMS, train_accuracy=0.0)


def test_the_latch_of_a_switch_can_be_read_and_set():
    tx = optax.chain(egd_optax.delayed_frobenius_penalty(0.5), optax.adam(0.1))
    state = tx.init(PARAMS)
    assert not optax.tree.get(state, "switched")
    state = optax.tree.set(state, switched=jnp.array(True))
    _, state = tx.update(GRADS[0], state, PARAMS, train_accuracy=0.0)
    assert optax.tree.get(state, "switched")


SPECTRA = [
    (egd_optax.singular_values, 1.0),
    (egd_optax.condition_numbers, 1.0),
    (egd_optax.effective_ranks, 2.0),
]


@pytest.mark.parametrize(("measure", "whitened"), SPECTRA)
def test_snapshot_keeps_spectra_in_the_state(measure, whitened):
    tx = optax.chain(
        optax.snapshot("before", measure),
        egd_optax.scale_by_egd(),
        optax.snapshot("after", measure),
    )

    def step(state, grad):
        _, state = tx.update(grad, state, PARAMS)
        return state, [optax.tree.get(state, name) for name in ("before", "after")]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *GRADS)
    _, (before, after) = jax.jit(lambda s, g: jax.lax.scan(step, s, g))(
        tx.init(PARAMS), stacked
    )
    for row, grad in enumerate(GRADS):
        here = jax.tree.map(lambda leaf, row=row: leaf[row], before)
        chex.assert_trees_all_close(here, measure(grad), rtol=1e-4)
    for leaf in jax.tree.leaves(after):
        np.testing.assert_allclose(leaf, whitened, rtol=1e-4)


@pytest.mark.parametrize(("measure", "whitened"), SPECTRA)
def test_monitor_keeps_spectra_in_the_state(measure, whitened):
    tx = optax.chain(
        egd_optax.scale_by_egd(),
        optax.monitor({"now": measure, "smooth": optax.measure_with_ema(measure, 0.5)}),
    )
    state = tx.init(PARAMS)
    for grad in GRADS:
        _, state = tx.update(grad, state, PARAMS)
    for leaf in jax.tree.leaves(optax.tree.get(state, "now")):
        np.testing.assert_allclose(leaf, whitened, rtol=1e-4)
    assert len(jax.tree.leaves(optax.tree.get(state, "smooth"))) == 2
