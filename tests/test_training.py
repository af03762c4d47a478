import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from egd_optax import egd, inverse_time_decay, switch_on_metric
from egd_optax.grokking.problems.arithmetic import modular_arithmetic
from egd_optax.grokking.problems.models import TwoLayerNet
from egd_optax.grokking.problems.problem import modular, parity
from egd_optax.grokking.problems.settings import Settings
from egd_optax.grokking.recipes import RECIPES, recipes_for
from egd_optax.grokking.training import devices
from egd_optax.grokking.training import run as training
from egd_optax.grokking.training.program import Examples, Program
from egd_optax.grokking.training.run import train

TASK = modular_arithmetic("addition", 7)
PROBLEM = modular("addition", 7, width=16)
SMALL = Settings(seeds=(0, 1), max_steps=10, batch_size=8, patience=None)


def small_net(rngs):
    return TwoLayerNet(14, 7, width=16, rngs=rngs)


def test_the_net_is_the_papers():
    net = TwoLayerNet(200, 97, width=512, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (3, 200))
    hidden, output = net.hidden, net.output
    expected = np.maximum(x @ hidden.kernel[...] + hidden.bias[...], 0)
    np.testing.assert_allclose(
        net(x), expected @ output.kernel[...], rtol=2e-4, atol=1e-5
    )
    assert np.std(hidden.kernel[...]) == pytest.approx(np.sqrt(2 / 200), rel=0.02)
    assert np.std(output.kernel[...]) == pytest.approx(np.sqrt(2 / 512), rel=0.02)
    assert not np.any(hidden.bias[...])
    assert output.bias is None


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_step_is_the_one_written_by_hand(backend, monkeypatch):
    # The seeds are mapped on a CPU, vmapped elsewhere.
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    settings = dataclasses.replace(SMALL, batch_size=24, max_steps=2)
    history = train(TASK, small_net, optax.sgd(0.5), settings)

    for column, seed in enumerate(settings.seeds):
        init_key, split_key, _ = jax.random.split(jax.random.key(seed), 3)
        net = small_net(nnx.Rngs(init_key))
        w1, w2 = np.float64(net.hidden.kernel[...]), np.float64(net.output.kernel[...])
        b1 = np.zeros(16)
        order = np.asarray(jax.random.permutation(split_key, 49))
        train_part, test_part = order[:24], order[24:]
        for row in range(2):
            # One batch holds the whole training part, so its order does not matter.
            x, y = TASK.inputs[train_part], TASK.labels[train_part]
            z = x @ w1 + b1
            h = np.maximum(z, 0)
            p = np.exp(h @ w2)
            p /= p.sum(axis=1, keepdims=True)
            d = (p - np.eye(7)[y]) / 24
            dz = d @ w2.T * (z > 0)
            w1, b1, w2 = (
                w1 - 0.5 * x.T @ dz,
                b1 - 0.5 * dz.sum(axis=0),
                w2 - 0.5 * h.T @ d,
            )
            for name, part in (("train", train_part), ("test", test_part)):
                logits = np.maximum(TASK.inputs[part] @ w1 + b1, 0) @ w2
                labels = TASK.labels[part]
                chosen = logits[np.arange(len(part)), labels]
                loss = np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen)
                accuracy = np.mean(logits.argmax(axis=1) == labels)
                measured = history.metrics
                assert measured[f"{name}_loss"][row, column] == pytest.approx(
                    loss, 1e-4
                )
                assert measured[f"{name}_accuracy"][row, column] == pytest.approx(
                    accuracy
                )


def test_runs_repeat_and_do_not_depend_on_their_company():
    first = train(TASK, small_net, optax.sgd(0.1), SMALL)
    again = train(TASK, small_net, optax.sgd(0.1), SMALL)
    alone = train(
        TASK, small_net, optax.sgd(0.1), dataclasses.replace(SMALL, seeds=(1,))
    )
    for name, values in first.metrics.items():
        np.testing.assert_array_equal(values, again.metrics[name])
        np.testing.assert_array_equal(values[:, 1:], alone.metrics[name])
    assert np.any(
        first.metrics["train_loss"][:, 0] != first.metrics["train_loss"][:, 1]
    )


def test_chunks_leave_no_seam(monkeypatch):
    settings = dataclasses.replace(SMALL, max_steps=21)
    whole = train(TASK, small_net, optax.adam(0.01), settings)
    monkeypatch.setattr(training, "_STEPS_PER_CHUNK", 6)
    reports = []
    pieces = train(TASK, small_net, optax.adam(0.01), settings, report=reports.append)
    assert [len(h.steps) for h in reports] == [2, 4, 6, 7]
    assert list(pieces.steps) == [3, 6, 9, 12, 15, 18, 21]
    for name, values in whole.metrics.items():
        np.testing.assert_allclose(values, pieces.metrics[name], rtol=1e-5)


def test_a_switch_sees_validation_but_no_test_metrics():
    seen = []

    def spy(updates, state, params=None, **extra_args):
        seen.append(set(extra_args))
        return updates, state

    tx = optax.GradientTransformationExtraArgs(optax.init_empty_state, spy)
    train(
        TASK,
        small_net,
        optax.chain(tx, optax.sgd(0.1)),
        dataclasses.replace(SMALL, validation_fraction=0.25),
    )
    assert set.union(*seen) == {
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
    }


def test_a_switch_changes_the_run():
    frozen = switch_on_metric(
        "train_accuracy", 0.5, optax.sgd(0.3), optax.set_to_zero()
    )
    settings = dataclasses.replace(SMALL, max_steps=600)
    history = train(TASK, small_net, frozen, settings)
    for seed in range(2):
        losses = history.metrics["train_loss"][:, seed]
        crossed = np.argmax(history.metrics["train_accuracy"][:, seed] >= 0.5)
        assert 0 < crossed < len(losses) - 1
        assert len(np.unique(losses[:crossed])) > 1
        np.testing.assert_array_equal(losses[crossed:], losses[crossed])


@pytest.mark.parametrize("steps_per_chunk", [1, 7, 100])
def test_a_seed_rests_when_it_has_grokked(steps_per_chunk, monkeypatch, easy):
    monkeypatch.setattr(training, "_STEPS_PER_CHUNK", steps_per_chunk)
    settings = dataclasses.replace(
        SMALL, batch_size=100, max_steps=200, threshold=0.6, patience=4
    )
    whole = dataclasses.replace(settings, patience=None)
    history, to_the_end = (
        train(easy, small_net, optax.adam(0.01), each) for each in (settings, whole)
    )
    ends = []
    for seed in range(2):
        accuracy = to_the_end.metrics["test_accuracy"][:, seed]
        above = np.convolve(accuracy >= 0.6, np.ones(4), "valid") == 4
        ends.append(int(np.argmax(above)) + 4)
    assert ends[0] != ends[1]
    assert len(history.steps) == max(ends) < len(to_the_end.steps)
    for name, values in history.metrics.items():
        for seed, end in enumerate(ends):
            expected = to_the_end.metrics[name][:end, seed]
            np.testing.assert_array_equal(values[:end, seed], expected)
            np.testing.assert_array_equal(values[end:, seed], expected[-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, "at least one seed"),
        ({"batch_size": 25}, "batch of 25 .* of 24 examples"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_steps": 2}, "budget of 2 steps"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"threshold": 95.0}, r"threshold must lie in \(0, 1\], got 95.0"),
        ({"train_fraction": 1.0}, "train_fraction .* got 1.0"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        train(TASK, small_net, optax.sgd(0.1), dataclasses.replace(SMALL, **change))


@pytest.mark.parametrize("name", recipes_for(PROBLEM))
def test_every_recipe_learns(name):
    settings = dataclasses.replace(SMALL, max_steps=60, seeds=(0,))
    recipe = RECIPES[name]
    chosen = dict(recipe.settings[PROBLEM.family])
    if name in ("frobenius", "momentum"):
        # Steps whose length is of the whole gradient, and not of its directions or
        # entries: those that suit a net of width 512 throw one so small off.
        chosen["learning_rate"] /= 10
    history = train(TASK, small_net, recipe.build(PROBLEM, **chosen), settings)
    losses = history.metrics["train_loss"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_egd_groks():
    task = modular_arithmetic("multiplication", 59)
    settings = Settings(seeds=(0, 1), max_steps=210, batch_size=512, patience=5)
    history = train(
        task,
        lambda rngs: TwoLayerNet(118, 59, width=256, rngs=rngs),
        egd(inverse_time_decay(1.0, 100)),
        settings,
    )
    assert np.isfinite(history.sustained_crossing(0.95).median)
    memorized = history.first_crossing(0.95, "train_accuracy").median
    assert memorized < history.first_crossing(0.95).median


@pytest.mark.slow
def test_egd_groks_a_parity():
    problem = parity(400, 2)
    settings = dataclasses.replace(
        problem.settings, seeds=(0,), max_steps=930, patience=2
    )
    optimizer = RECIPES["egd"].make(problem)
    history = train(problem.task, problem.make_model, optimizer, settings)
    assert history.first_crossing().median <= 930
    assert history.final()[0] >= 0.95


def test_rare_evaluations_change_nothing_else():
    often = train(
        TASK, small_net, optax.sgd(0.5), dataclasses.replace(SMALL, max_steps=12)
    )
    settings = dataclasses.replace(SMALL, max_steps=12, epochs_per_evaluation=2)
    rarely = train(TASK, small_net, optax.sgd(0.5), settings)
    np.testing.assert_array_equal(rarely.steps, often.steps[1::2])
    for name, values in rarely.metrics.items():
        np.testing.assert_allclose(values, often.metrics[name][1::2], rtol=1e-5)


@pytest.mark.parametrize("count", [0, 7, 8, 24, 27])
def test_blocks_of_examples_are_answered_as_all_at_once(count, monkeypatch):
    monkeypatch.setattr(devices, "_BLOCK", 8)
    kernel = np.random.default_rng(0).standard_normal((3, 2), np.float32)
    examples = np.random.default_rng(1).standard_normal((count, 3), np.float32)
    seen = []

    def answers(x):
        seen.append(len(x))
        return x @ kernel

    found = jax.jit(lambda x: devices.over_examples(answers, x))(examples)
    np.testing.assert_allclose(found, examples @ kernel, rtol=1e-5, atol=1e-6)
    assert max(seen) <= 8


def test_a_model_may_note_down_what_it_sees_in_blocks_too(monkeypatch):
    class Noting(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(14, 7, rngs=rngs)
            self.seen = 0

        def __call__(self, x):
            self.seen += len(x)
            return self.layer(x)

    monkeypatch.setattr(devices, "_BLOCK", 8)
    settings = dataclasses.replace(SMALL, max_steps=9, seeds=(0,))
    history = train(TASK, Noting, optax.sgd(0.1), settings)
    assert np.isfinite(history.metrics["test_loss"]).all()


def test_labels_are_shuffled_at_intervals_in_the_training_part_alone():
    settings = dataclasses.replace(SMALL, max_steps=18, relabel_every=2)
    history = train(TASK, small_net, optax.sgd(0.0), settings)
    loss = history.metrics["train_loss"]
    # The net stands still, so that only new labels can change its loss.
    changes = np.abs(np.diff(loss, axis=0)) > 1e-6
    assert changes.tolist() == [[i % 2 == 1] * 2 for i in range(5)]
    assert np.ptp(history.metrics["test_loss"], axis=0).max() == 0


def test_a_full_batch_is_every_training_example():
    every = dataclasses.replace(SMALL, batch_size=None, max_steps=3)
    history = train(TASK, small_net, optax.sgd(0.5), every)
    assert history.steps_per_epoch == 1
    same = dataclasses.replace(every, batch_size=24)
    expected = train(TASK, small_net, optax.sgd(0.5), same).metrics
    for name, values in history.metrics.items():
        np.testing.assert_array_equal(values, expected[name])


def labels_of(settings, *, seed=0, epoch=0):
    """What an epoch's training part is given, and which examples are in it."""
    program = Program(TASK, small_net, optax.identity(), settings, 3, 1)
    data = Examples(jax.numpy.asarray(TASK.inputs), jax.numpy.asarray(TASK.labels))
    member = program.begin(seed, data)
    return np.asarray(program.as_given(member, epoch, data).labels), member.split


def test_corrupted_labels_are_wrong_for_good_and_only_in_the_training_part():
    settings = dataclasses.replace(SMALL, corrupted_labels=0.25)
    labels, parts = labels_of(settings)
    wrong = np.nonzero(labels != TASK.labels)[0]
    assert len(wrong) == 6  # of 24
    assert set(wrong) <= set(np.asarray(parts.train))
    assert np.array_equal(labels, labels_of(settings, epoch=5)[0])
    assert not np.array_equal(labels, labels_of(settings, seed=1)[0])
    assert np.all((labels >= 0) & (labels < TASK.classes))
    # Accuracy on the training part is that on the labels as they are given.
    whole = dataclasses.replace(
        SMALL, corrupted_labels=1.0, batch_size=None, max_steps=200
    )
    history = train(TASK, small_net, egd(), whole)
    assert np.all(history.final("train_accuracy") == 1)
    assert np.all(history.final() < 0.5)


def test_label_noise_is_drawn_anew_in_each_step_with_its_probability():
    program = Program(TASK, small_net, optax.identity(), SMALL, 3, 1)
    labels = np.arange(7000) % 7
    first, second = (
        np.asarray(program.some_wrong(jax.random.key(seed), labels, 0.3))
        for seed in (0, 1)
    )
    assert np.mean(first != labels) == pytest.approx(0.3, abs=0.02)
    assert not np.array_equal(first, second)
    others = np.bincount((first - labels)[first != labels] % 7, minlength=7)
    assert others[0] == 0
    assert np.all(abs(others[1:] - 350) < 100)

    # With all labels wrong, the right one becomes the least likely.
    noisy = dataclasses.replace(SMALL, label_noise=1.0, max_steps=300)
    history = train(TASK, small_net, optax.adam(0.01), noisy)
    assert np.all(history.final("train_accuracy") < 0.1)


@pytest.mark.parametrize("name", ["corrupted_labels", "label_noise"])
def test_shares_of_wrong_labels_are_checked_and_told(name):
    for share in -0.1, 1.5, float("nan"):
        settings = dataclasses.replace(SMALL, **{name: share})
        with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\], got"):
            train(TASK, small_net, optax.sgd(0.5), settings)
    # Files of before they could be asked for stay those of the same run.
    assert name not in SMALL.described()
    assert dataclasses.replace(SMALL, **{name: 0.5}).described()[name] == 0.5
