"""Phase diagrams: what becomes of runs over two axes."""

import dataclasses
import math
import sys

import numpy as np
import pytest

from egd_optax.grokking import phases
from egd_optax.grokking.cli import commands as cli
from egd_optax.grokking.phases import PHASES, Axis, Grid, phase
from egd_optax.grokking.problems.problem import modular, with_settings
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.search.ledger import LedgerError
from egd_optax.grokking.search.trials import Trial
from egd_optax.grokking.training.run import train

BASE = dict(RECIPES["egd"].settings["modular"])


def problem_of(values):
    problem = modular("addition", 23, width=int(values.get("width", 128)))
    fraction = values.get("train_fraction", 0.8)
    return with_settings(
        problem,
        seeds=(0, 1),
        batch_size=64,
        max_steps=120,
        patience=None,
        threshold=0.8,
        train_fraction=fraction,
    )


def grid(x, y, optimizer="egd", base=BASE, gap=10):
    return Grid(problem_of, optimizer, base, x, y, gap)


X = Axis("corrupted_labels", 0, 0.5, 2)
Y = Axis("weight_decay", 0.01, 0.1, 2)


def run(of, folder):
    return of.run(of.ledger(folder), lambda found: None)


def test_axes_are_spaced_as_their_kind_is():
    assert Axis("weight_decay", 0.01, 10, 4).values == (0.01, 0.1, 1, 10)
    assert Axis("train_fraction", 0.2, 0.8, 4).values == (0.2, 0.4, 0.6, 0.8)
    assert Axis("width", 4, 6, 9).values == (4, 5, 6)  # whole, none twice
    assert Axis("modulus", 97, 97, 1).values == (97,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rate", 0, 1, 2), "unknown axis 'rate': choose among train_fraction"),
        (("width", 0, 8, 2), "positive, got width from 0 to 8"),
        (("train_fraction", 0.5, 1.5, 2), "from 0 to 1, got train_fraction"),
        (("weight_decay", 1, 0.1, 2), "rise"),
        (("weight_decay", 1, math.inf, 2), "rise"),
        (("weight_decay", math.nan, 1, 2), "rise"),
        (("weight_decay", 0.1, 1, 0), "1 to 1000 values, got 0"),
    ],
)
def test_bad_axes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Axis(*arguments)


def test_grids_that_are_none_are_named():
    with pytest.raises(ValueError, match="got weight_decay twice"):
        grid(Y, Y)
    with pytest.raises(ValueError, match="'egd-auto' has no weight_decay to set"):
        grid(X, Y, "egd-auto", None)


@pytest.mark.parametrize(
    ("memorized", "generalized", "kind"),
    [
        (20, 29, "comprehension"),
        (20, 30, "grokking"),
        (20, math.inf, "memorization"),
        (math.inf, math.inf, "confusion"),
    ],
)
def test_phases_are_told_by_medians(memorized, generalized, kind):
    steps = (memorized, memorized, math.inf), (generalized, generalized, math.inf)
    assert phase(Trial("egd", 0, 0, {}, steps, ()), gap=10) == kind
    assert kind in PHASES


@pytest.mark.slow
def test_a_cell_is_the_run_with_its_settings(tmp_path):
    found = run(grid(X, Y), tmp_path)
    assert [trial.settings for trial in found] == [
        {"corrupted_labels": x, "weight_decay": y}
        for y in (0.01, 0.1)
        for x in (0, 0.5)
    ]
    problem = problem_of({})
    for trial in found:
        wrong, decay = trial.settings.values()
        settings = dataclasses.replace(problem.settings, corrupted_labels=wrong)
        chosen = BASE | {"shrinkage": BASE["learning_rate"] * decay}
        optimizer = RECIPES["egd"].build(problem, **chosen)
        history = train(problem.task, problem.make_model, optimizer, settings)
        expected = history.first_crossing(0.8).steps
        memorized = history.first_crossing(0.8, "train_accuracy").steps
        assert trial.steps[1] == pytest.approx(expected)
        # By a sample of the training part, which may differ by an evaluation.
        assert np.all(np.abs(trial.steps[0] - memorized) <= 6)
    # Wrong labels are in the way.
    assert found[2].medians[1] < found[3].medians[1]


def test_cells_of_one_shape_share_a_program_and_are_run_once(tmp_path, monkeypatch):
    made = []

    class Counted(phases.Runner):
        def __init__(self, problem, *others):
            made.append(problem.settings.train_fraction)
            super().__init__(problem, *others)

    monkeypatch.setattr(phases, "Runner", Counted)
    of = grid(Axis("train_fraction", 0.5, 0.7, 2), Axis("learning_rate", 0.1, 1, 3))
    assert of.problems == [{"train_fraction": 0.5}, {"train_fraction": 0.7}]
    first = run(of, tmp_path)
    assert made == [0.5, 0.7]
    assert run(of, tmp_path) == first
    assert made == [0.5, 0.7]
    # A part of it was killed.
    ledger = of.ledger(tmp_path)
    ledger.trials = ledger.trials[:-1]
    ledger.add([])
    assert run(of, tmp_path) == first
    assert made == [0.5, 0.7, 0.7]
    with pytest.raises(LedgerError, match="another search"):
        grid(X, Y).ledger(tmp_path)


def test_a_recipe_without_settings_has_axes_of_the_problem(tmp_path):
    of = grid(Axis("width", 16, 64, 2), X, "egd-auto", None)
    assert len(run(of, tmp_path)) == 4


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["egd-grok", *map(str, arguments)])
    cli.main()


SMALL = ["--modulus", 7, "--batch-size", 8, "--width", 16, "--max-steps", 12]
SMALL += ["--seeds", 1, "--x", "train-fraction", 0.4, 0.6, 2, "--optimizers", "egd"]


def test_the_command_leaves_cells_picture_and_table(tmp_path, monkeypatch, capsys):
    arguments = ["phase", "addition", *SMALL, "--y", "weight-decay", 0.1, 1, 2]
    for _ in range(2):  # the second time all is there
        call(monkeypatch, *arguments, "--out", tmp_path)
        printed = capsys.readouterr().out
        assert "train fraction" in printed
        assert "Rows: weight decay" in printed
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"cells.csv", "cells.json", "config.json", "phase.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--y", "weight-decay", "1"], "--y must be an axis, its least"),
        (["--y", "weight-decay", "a", "1", "2"], "--y must be an axis, its least"),
        (["--y"], "got nothing"),
        (["--y", "depth", "1", "2", "2"], "--y: unknown axis 'depth'"),
        (["--y", "train-fraction", "0.1", "0.9", "2"], "--train-fraction twice"),
        (["--gap", "0"], "--gap must be at least 1, got 0"),
        (["--optimizers", "adam"], "no optimizer 'adam'"),
        (["--optimizers", "sgd"], "'sgd' has no weight_decay to set"),
        (["--x", "modulus", "1", "7", "2"], "--modulus must be at least 2, got 1"),
        (["--x", "train-fraction", "0.5", "1", "2"], "--train-fraction must lie"),
        (["--x", "modulus", "5", "11", "2"], "--modulus must not be given beside an"),
        (["--train-fraction", "0.4"], "--train-fraction must not be given beside an"),
        (["--y", "bogus", "1", "2", "2"], "choose among train-fraction, corrupted-"),
        (["--y", "weight_decay", "1", "0.1", "2"], "got weight-decay from 1 to 0.1"),
    ],
)
def test_bad_grids_get_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        call(
            monkeypatch,
            *("phase", "addition", *SMALL, *arguments, "--out", tmp_path / "out"),
        )
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out/config.json").exists()


@pytest.mark.parametrize("task", ["parity", "mnist", "group"])
def test_an_axis_that_a_task_does_not_have_is_refused(
    task, tmp_path, monkeypatch, capsys
):
    axes = ["--x", "modulus", 5, 7, 2, "--y", "weight-decay", 0.1, 1, 2]
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "phase", task, *axes, "--out", tmp_path / "out")
    assert stop.value.code == 2
    assert f"the task {task} has no modulus" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_grid_stays_as_it_is(tmp_path, monkeypatch, capsys):
    grid = ["--x", "train-fraction", 0.5, 0.8, 2, "--y", "weight-decay", 0.1, 1, 2]
    other = [0.6 if word == 0.5 else word for word in grid]
    command = ["phase", "addition", *SMALL, "--optimizers", "adamw"]
    call(monkeypatch, *command, *grid, "--out", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *command, *other, "--out", tmp_path)
    assert stop.value.code == 2
    assert "choose another --out" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
