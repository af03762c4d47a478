"""Measures on cases with a known value, and that they leave a run as it is."""

import dataclasses
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.stats import ortho_group

from egd_optax import (
    condition_numbers,
    effective_ranks,
    egd,
    flax_dimension_numbers,
)
from egd_optax.grokking.cli import arguments
from egd_optax.grokking.measures import MEASURES, measures
from egd_optax.grokking.problems.arithmetic import modular_arithmetic
from egd_optax.grokking.problems.groups import group
from egd_optax.grokking.problems.harmonics import harmonics
from egd_optax.grokking.problems.models import TwoLayerNet
from egd_optax.grokking.problems.problem import mnist_1k, modular, on_group, parity
from egd_optax.grokking.problems.settings import Settings
from egd_optax.grokking.problems.tasks import Split
from egd_optax.grokking.training.run import train
from egd_optax.grokking.training.snapshots import Snapshot

P = 11
TASK = modular_arithmetic("addition", P)
SMALL = Settings(seeds=(0, 1), max_steps=9, batch_size=16, patience=None)


class Given(nnx.Module):
    """Logits and embeddings as they are told."""

    def __init__(self, logits, embedding):
        self.logits, self.table = nnx.Param(logits), nnx.Param(embedding)

    def __call__(self, x):
        a, b = (jnp.argmax(x[:, :P], axis=1), jnp.argmax(x[:, P:], axis=1))
        return self.logits[...][a, b]

    def embeddings(self, symbols):
        return [self.table[...][:symbols]]

    def pre_activations(self, x):
        return [x @ self.table[...]]


def seen(logits=None, embedding=None, *, task=TASK, **changes):
    logits = np.zeros((P, P, P)) if logits is None else logits
    embedding = np.zeros((2 * P, 3)) if embedding is None else embedding
    model = Given(jnp.asarray(logits, jnp.float32), jnp.asarray(embedding, jnp.float32))
    graphdef, params = nnx.split(model)
    order = jnp.arange(P * P)
    empty = order[:0]
    snapshot = Snapshot(
        params=params,
        initial=params,
        grads=params,
        updates=params,
        graphdef=graphdef,
        task=task,
        inputs=jnp.asarray(task.inputs),
        labels=jnp.asarray(task.labels),
        split=Split(order[:50], empty, order[50:]),
        outputs={},
    )._replace(**changes)
    parts = snapshot.split._asdict()
    outputs = {k: snapshot.model(snapshot.inputs[v]) for k, v in parts.items()}
    return snapshot._replace(outputs=outputs)


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)))


def waves(*frequencies):
    """cos and sin of 2πkx/p, ``(p, 2 frequencies)``."""
    x = 2 * np.pi * np.outer(np.arange(P), frequencies) / P
    return np.concatenate([np.cos(x), np.sin(x)], axis=1)


@pytest.mark.parametrize("frequencies", [(2,), (1, 4), (1, 2, 3, 4, 5)])
def test_an_embedding_of_a_few_waves_is_all_theirs(frequencies):
    table = waves(*frequencies) + 0.5  # a constant counts for nothing
    snapshot = seen(embedding=table)
    assert MEASURES["fourier-share"](snapshot) == pytest.approx(1, abs=1e-5)
    components = MEASURES["fourier-components"](snapshot)
    assert components == pytest.approx(len(frequencies), rel=1e-4)
    # A unit for each: then in a basis where each has a part of all.
    assert MEASURES["fourier-share-of-units"](snapshot) == pytest.approx(1, abs=1e-5)
    turned = ortho_group.rvs(table.shape[1], random_state=0)
    snapshot = seen(embedding=table @ turned)
    components = MEASURES["fourier-components"](snapshot)
    assert components == pytest.approx(len(frequencies), rel=1e-4)
    alone = len(frequencies) == 1
    assert (MEASURES["fourier-share-of-units"](snapshot) > 0.999) == alone


def test_a_random_embedding_is_spread_over_all_components():
    p = 97
    net = TwoLayerNet(2 * p, p, width=256, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(net)
    task = modular_arithmetic("addition", p)
    snapshot = seen(params=params, graphdef=graphdef, task=task)
    assert MEASURES["fourier-components"](snapshot) > 0.95 * 48
    assert MEASURES["fourier-share"](snapshot) < 0.16
    assert MEASURES["fourier-share-of-units"](snapshot) < 0.16


@pytest.mark.parametrize("frequencies", [(3,), (1, 2, 3, 4, 5)])
def test_the_fourier_circuit_is_all_restricted_loss(frequencies):
    a, b, c = np.meshgrid(*3 * [np.arange(P)], indexing="ij")
    logits = sum(20 * np.cos(2 * np.pi * k * (a + b - c) / P) for k in frequencies)
    # What no loss sees counts for nothing.
    snapshot = seen(logits + 100 * a[..., :1])
    assert MEASURES["key-share"](snapshot) == pytest.approx(1, abs=1e-4)
    assert MEASURES["answer-share"](snapshot) == pytest.approx(1, abs=1e-4)
    components = MEASURES["logit-components"](snapshot)
    assert components == pytest.approx(len(frequencies), rel=1e-3)
    assert MEASURES["restricted-loss"](snapshot) < 0.1
    assert MEASURES["excluded-loss"](snapshot) == pytest.approx(np.log(P), rel=1e-4)


def test_what_was_learned_by_heart_is_all_excluded_loss():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((P, P, P))
    rows, columns = np.divmod(np.arange(50), P)
    # Their mean by answer is right for every answer: in one of all examples this were
    # the circuit of all frequencies.
    logits[rows, columns, TASK.labels[:50]] += 30
    snapshot = seen(logits)
    assert MEASURES["excluded-loss"](snapshot) < 0.01
    restricted = MEASURES["restricted-loss"](snapshot)
    assert restricted == pytest.approx(np.log(P), abs=0.3)
    assert MEASURES["answer-share"](snapshot) < 2 * P / (P * P - 50)


def test_a_unit_of_two_frequencies_has_half_of_its_energy_in_each():
    class Halves(Given):
        def embeddings(self, symbols):
            table = self.table[...]
            return [table[:symbols], table[symbols:]]

    same, others = (np.concatenate([waves(2), waves(second)]) for second in (2, 4))
    found = []
    for table in same, others:
        model = Halves(jnp.zeros((P, P, P)), jnp.asarray(table, jnp.float32))
        graphdef, params = nnx.split(model)
        snapshot = seen(graphdef=graphdef, params=params)
        found.append(float(MEASURES["fourier-share-of-units"](snapshot)))
    assert found == pytest.approx([1, 0.5], abs=1e-5)


def test_norms_distance_and_alignment():
    rng = np.random.default_rng(0)
    w, start = rng.standard_normal((2, 2 * P, 3))
    moved = seen(embedding=w, initial=seen(embedding=start).params)
    norms = MEASURES["weight-norm"](moved)
    assert norms["table"] == pytest.approx(np.linalg.norm(w), rel=1e-5)
    assert norms["logits"] == 0
    assert norms["all"] == pytest.approx(np.linalg.norm(w), rel=1e-5)
    expected = np.linalg.norm(w - start)
    assert MEASURES["distance"](moved) == pytest.approx(expected, rel=1e-5)

    shrunk = jax.tree.map(lambda x: -0.1 * x, moved.params)
    cosines = MEASURES["alignment"](moved._replace(updates=shrunk))
    assert cosines["table"] == pytest.approx(-1, rel=1e-5)
    assert cosines["logits"] == 0


def test_dead_units_are_positive_for_no_training_example():
    table = np.ones((2 * P, 3))
    table[:, 1] = -1  # never
    table[:, 2] = -1
    table[50 // P + 1, 2] = 5  # for examples of the test part alone
    assert MEASURES["dead-units"](seen(embedding=table)) == pytest.approx(2 / 3)
    assert MEASURES["dead-units"](seen()) == 1


def test_ranks_and_condition_numbers_are_those_of_weights_and_gradient():
    rng = np.random.default_rng(0)
    net = TwoLayerNet(2 * P, P, width=8, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(net)
    grads = jax.tree.map(
        lambda x: jnp.asarray(np.float32(rng.normal(size=x.shape))), params
    )
    snapshot = seen(graphdef=graphdef, params=params, grads=grads)
    for name, fn in (
        ("effective-rank", effective_ranks),
        ("condition-number", condition_numbers),
    ):
        found = MEASURES[name](snapshot)
        assert found.keys() == {
            f"{kind}/{layer}.kernel"
            for kind in ("weights", "gradient")
            for layer in ("hidden", "output")
        }
        for kind, tree in ("weights", params), ("gradient", grads):
            expected = float(fn({"x": tree["hidden"]["kernel"][...]})["x"])
            assert found[f"{kind}/hidden.kernel"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "transformer", "one-layer-transformer"])
def test_measures_leave_every_bit_as_it_is(model):
    problem = modular("addition", 7, model=model, width=16)
    optimizer = egd(0.05, weight_dimension_numbers=flax_dimension_numbers)
    plain = train(problem.task, problem.make_model, optimizer, SMALL)
    measured = train(
        problem.task, problem.make_model, optimizer, SMALL, measures=MEASURES
    )
    for name, values in plain.metrics.items():
        np.testing.assert_array_equal(values, measured.metrics[name])
    names = measured.metrics.keys() - plain.metrics.keys()
    assert {name.partition("/")[0] for name in names} == MEASURES.keys()
    for name in names:
        assert measured.metrics[name].shape == (len(plain.steps), 2), name
        if not name.startswith("condition"):
            assert np.all(np.isfinite(measured.metrics[name])), name


def test_a_measure_is_evaluated_after_the_last_step_on_what_it_names():
    settings = dataclasses.replace(SMALL, seeds=(3,), max_steps=3, batch_size=None)
    history = train(
        TASK,
        lambda rngs: TwoLayerNet(2 * P, P, width=8, rngs=rngs),
        optax.sgd(0.5),
        settings,
        measures={
            "distance": MEASURES["distance"],
            "mine": lambda snapshot: {
                "step": norm(snapshot.updates),
                "slope": norm(snapshot.grads),
                # Blocks of examples and all at once round otherwise.
                "apart": jnp.max(
                    jnp.abs(
                        snapshot.model(snapshot.inputs[snapshot.split.test])
                        - snapshot.outputs["test"]
                    )
                ),
            },
        },
    )
    found = history.metrics
    np.testing.assert_allclose(found["mine/step"], 0.5 * found["mine/slope"], rtol=1e-5)
    # The whole training part is the batch: what it would do next, it does.
    steps = found["mine/step"][:, 0]
    assert np.all(np.diff(found["distance"][:, 0]) <= steps[:-1] * 1.001)
    assert found["distance"][0] > 0
    assert np.max(found["mine/apart"]) < 1e-6


def test_the_command_line_and_the_page_name_every_measure():
    page = Path(__file__).parent.parent / "docs" / "laboratory.md"
    for text in (inspect.getsource(arguments), page.read_text(encoding="utf-8")):
        assert [name for name in MEASURES if name not in text] == []


def test_measures_that_a_task_or_model_does_not_have_are_named():
    with pytest.raises(ValueError, match="unknown measure 'norm': choose among weight"):
        measures(["norm"])
    for problem, name, message in (
        (parity(8, 2, width=8), "fourier-share", "needs a model|needs a task"),
        (parity(8, 2, width=8), "key-share", "needs a task on a group, and parity"),
        (mnist_1k(width=8), "fourier-share", "needs a model with embeddings, and MLP"),
    ):
        settings = dataclasses.replace(problem.settings, max_steps=100)
        with pytest.raises(ValueError, match=message):
            train(
                problem.task,
                problem.make_model,
                optax.sgd(0.1),
                settings,
                measures=measures([name]),
            )
    for name, measure, message in (
        ("mine", lambda s: s.labels, r"mine must be a number, got an array of shape"),
        ("test_mine", lambda s: 1.0, "must not begin with"),
    ):
        with pytest.raises(ValueError, match=message):
            train(
                TASK,
                lambda rngs: TwoLayerNet(2 * P, P, width=8, rngs=rngs),
                optax.sgd(0.1),
                SMALL,
                measures={name: measure},
            )


def test_a_hand_built_embedding_of_a_group_is_one_representation():
    task = group("S3", encoding="three-tokens")
    basis, component = harmonics(task.translations())
    problem = on_group("S3", model="one-layer-transformer", width=8)
    graphdef, params = nnx.split(problem.make_model(nnx.Rngs(0)))
    table = np.zeros((7, 8))
    table[:6, :4] = basis[:, component == 2]
    params["tokens"]["embedding"] = nnx.Param(jnp.asarray(table, jnp.float32))
    snapshot = seen(graphdef=graphdef, params=params, task=task)
    components = MEASURES["fourier-components"](snapshot)
    assert components == pytest.approx(1, rel=1e-4)
