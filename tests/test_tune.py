"""``egd-grok tune`` and what it leaves, and races of the settings that it found."""

import csv
import json
import subprocess
import sys
import time

import pytest
from test_cli import call

from egd_optax.grokking.cli import commands as cli
from egd_optax.grokking.recipes import RECIPES, settings_to_json
from egd_optax.grokking.search import search
from egd_optax.grokking.search.trials import settings_at

TINY = ["--modulus", "7", "--batch-size", "8", "--width", "16", "--max-steps", "20"]
TINY += ["--seeds", "1", "--threshold", "0.2"]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    # What a process sets for good.
    monkeypatch.setattr(cli, "side_by_side", lambda: None)


def tune(monkeypatch, out, *more, trials=3):
    names = ["--optimizers", "columns", "adamw"]
    words = ["tune", "addition", *TINY, *names, "--trials", trials, "--out", out, *more]
    call(monkeypatch, *words)


def fails(monkeypatch, capsys, *arguments, status=2):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *arguments)
    error = capsys.readouterr().err
    assert stop.value.code == status, error
    assert error.startswith("egd-grok: ") and error.count("\n") == 1, error
    return error


def table(out):
    head, *lines = (out / "trials.csv").read_text().splitlines()
    assert head.startswith("# sha256")
    return list(csv.DictReader(lines))


def test_a_search_leaves_what_a_race_takes(tmp_path, monkeypatch, capsys):
    out, raced = tmp_path / "tuned", tmp_path / "raced"
    tune(monkeypatch, out)
    assert {path.name for path in out.iterdir()} == {
        *("trials.csv", "best.json", "tune.png", "search.json", "config.json")
    }
    printed = capsys.readouterr().out
    assert "columns" in printed and "solved" in printed and str(out) in printed
    rows = table(out)
    assert [(row["optimizer"], row["trial"]) for row in rows] == [
        (name, str(k)) for name in ("columns", "adamw") for k in range(3)
    ]
    # The same places of what they share.
    assert [row["momentum"] for row in rows[:3]] == [
        row["momentum"] for row in rows[3:]
    ]
    best = json.loads((out / "best.json").read_text())
    # Judged by a validation part: the test part is a race's.
    assert best["problems"][0]["validation_fraction"] == 0.2
    scores = {row["score"] for row in rows if row["optimizer"] == "columns"}
    assert best["optimizers"]["columns"]["score"] == min(map(float, scores))
    assert (out / "tune.png").read_bytes().startswith(b"\x89PNG")

    race = ["race", "addition", *TINY, "--settings", out / "best.json", "--out", raced]
    call(monkeypatch, *race)
    lines = (raced / "summary.csv").read_text().splitlines()
    assert [row["optimizer"] for row in csv.DictReader(lines)] == ["columns", "adamw"]
    call(monkeypatch, *race, "--optimizers", "sgd", "adamw")
    lines = (raced / "summary.csv").read_text().splitlines()
    assert [row["optimizer"] for row in csv.DictReader(lines)] == ["sgd", "adamw"]


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    tune(monkeypatch, tmp_path / "whole", trials=5)
    ran = []
    real = search.Runner.__call__

    def interrupted(self, settings, seeds, at_most):
        if ran:
            raise KeyboardInterrupt
        ran.append(len(settings))
        return real(self, settings, seeds, at_most)

    monkeypatch.setattr(search.Runner, "__call__", interrupted)
    words = ["tune", "addition", *TINY, "--optimizers", "columns", "adamw"]
    words += ["--trials", "5", "--out", tmp_path / "killed"]
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *words)
    assert stop.value.code == 130
    kept = table(tmp_path / "killed")
    assert 0 < len(kept) < 10
    monkeypatch.setattr(search.Runner, "__call__", real)
    call(monkeypatch, *words)
    assert (tmp_path / "killed" / "trials.csv").read_text() == (
        tmp_path / "whole" / "trials.csv"
    ).read_text()
    # More of the same, refined ones, and another method; nothing is lost.
    whole = tmp_path / "whole"
    tune(monkeypatch, whole, "--refined", "1", trials=6)
    assert len(table(whole)) == 14
    call(
        monkeypatch,
        *("tune", "addition", *TINY, "--trials", 1, "--optimizers", "rows"),
        *("--out", whole),
    )
    rows = table(whole)
    assert len(rows) == 15
    best = json.loads((whole / "best.json").read_text())["optimizers"]
    for name in ("columns", "adamw", "rows"):
        scores = [float(row["score"]) for row in rows if row["optimizer"] == name]
        assert best[name]["score"] == min(scores)


def test_settings_of_another_problem_or_without_success_are_remarked_upon(
    tmp_path, monkeypatch, capsys
):
    path = tmp_path / "best.json"
    about = {"settings": settings(), "solved": False}
    problem = {"task": "a + b mod 7", "model": "two-layer net of width 16"}
    path.write_text(
        json.dumps({"problems": [problem], "optimizers": {"columns": about}})
    )
    out = ("--out", tmp_path / "out")
    call(monkeypatch, "race", "subtraction", *TINY, "--settings", path, *out)
    assert capsys.readouterr().err.splitlines() == [
        f"egd-grok: {path} is of another problem, {problem['task']}, "
        f"{problem['model']}",
        f"egd-grok: {path}: no trial of columns got there",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--trials", "0"], "--trials must be at least 1, got 0"),
        (["--trials", "x"], "--trials must be a whole number, got 'x'"),
        (["--refined", "-1"], "--refined must be at least 0, got -1"),
        (
            ["--optimizers", "sgd"],
            "'sgd' has no settings to search: choose among egd, ",
        ),
        (["--optimizers", "egdd"], "no optimizer 'egdd': choose among egd, "),
        (["--optimizers"], "no optimizers: choose among egd, "),
        (["--validation-fraction", "1"], "--validation-fraction must lie in [0, 1)"),
        (["--patience", "3"], "unknown option '--patience'"),
    ],
)
def test_bad_input_is_named(more, message, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ["tune", "addition", *TINY, *more, "--out", out]
    assert message in fails(monkeypatch, capsys, *words)
    assert not out.exists()


def test_a_folder_of_another_search_loses_nothing(tmp_path, monkeypatch, capsys):
    tune(monkeypatch, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    words = ["tune", "addition", *TINY, "--optimizers", "columns", "--trials", "3"]
    error = fails(monkeypatch, capsys, *words, "--draw", "1", "--out", tmp_path)
    assert "has another search: draw is 0 there and 1 here" in error
    path = tmp_path / "trials.csv"
    path.write_bytes(before[path][:-2])
    error = fails(monkeypatch, capsys, *words, "--out", tmp_path)
    assert "trials.csv is damaged" in error
    path.write_bytes(before[path])
    assert {path: path.read_bytes() for path in before} == before


def settings(name="columns", **changes):
    space = RECIPES[name].space
    found = settings_to_json(settings_at(space, [0.9] * len(space))) | changes
    return {name: value for name, value in found.items() if value != "gone"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "and {path} is none"),
        ("[]", "and {path} is none"),
        ('{"optimizers": {"egd": 3}}', "and {path} is none"),
        ('{"optimizers": {}}', "{path} names none"),
        ('{"optimizers": {}, "problems": 3}', "and {path} is none"),
        ({"sgd": {}}, "settings of 'sgd', which has none to set: choose among egd"),
        ({"who": {}}, "settings of 'who', which has none to set"),
        ({"columns": settings(rank=3)}, "columns does not take the setting 'rank'"),
        ({"columns": settings(momentum="gone")}, "columns has no setting 'momentum'"),
        *(
            ({name: settings(name, **{setting: value})}, f"{setting} must be {wanted}")
            for name, setting, value, wanted in [
                ("columns", "momentum", "x", "0 or a number in [0, 1), got 'x'"),
                ("columns", "momentum", True, "0 or a number in [0, 1), got True"),
                ("adamw", "momentum", 1.5, "0 or a number in [0, 1), got 1.5"),
                ("adamw", "shrinkage", -1, "0 or a number above 0, got -1"),
                ("muon", "coupled_decay", None, "0 or a number above 0, got null"),
                ("lion", "learning_rate", 0.0, "a number above 0, got 0.0"),
                ("lion", "learning_rate", 10**400, "a number above 0, got 1000"),
                ("lion", "learning_rate", None, "a number above 0, got null"),
                ("grokfast-ma", "window_size", None, "a whole number from 1 to 100"),
                ("grokfast-ma", "window_size", 250, "a whole number from 1 to 100"),
                ("randomized", "rank", 5, "one of 4, 16, 48, 128, got 5"),
                ("egd", "biases_as_rows", 0.5, "one of 0, 1, got 0.5"),
            ]
        ),
    ],
)
def test_settings_that_are_none_are_named(text, message, tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "best.json", tmp_path / "out"
    if isinstance(text, dict):
        named = {name: {"settings": found} for name, found in text.items()}
        text = json.dumps({"optimizers": named})
    path.write_text(text)
    words = ["race", "addition", *TINY, "--settings", path, "--out", out]
    assert message.format(path=path) in fails(monkeypatch, capsys, *words)
    assert not out.exists()


def test_settings_that_are_not_there_are_named(tmp_path, monkeypatch, capsys):
    path = tmp_path / "best.json"
    error = fails(monkeypatch, capsys, "race", "addition", "--settings", path)
    assert f"--settings must be a file, got {path}: No such file" in error
    error = fails(monkeypatch, capsys, "race", "addition", "--settings", tmp_path)
    assert "Is a directory" in error


@pytest.mark.slow
def test_two_methods_of_eight_trials_take_less_than_a_minute(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "empty"))
    words = ["tune", "addition", "--modulus", "23", "--optimizers", "egd", "muon"]
    words += [
        "--batch-size",
        "64",
        "--trials",
        "8",
        "--seeds",
        "1",
        "--max-steps",
        "300",
    ]
    command = [sys.executable, "-m", "egd_optax.grokking.cli", *words]
    start = time.perf_counter()
    subprocess.run([*command, "--out", tmp_path / "out"], check=True)
    assert time.perf_counter() - start < 60
    assert len(table(tmp_path / "out")) == 16
