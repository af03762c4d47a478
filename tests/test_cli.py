import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from egd_optax.grokking.cli import commands as cli
from egd_optax.grokking.cli import train as cli_train
from egd_optax.grokking.files import replacing
from egd_optax.grokking.training.history import History

SMALL = ["--modulus", "7", "--batch-size", "8", "--width", "16", "--max-steps", "9"]
FILES = {"config.json", "history.jsonl", "race.png", "report.html", "summary.csv"}


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["egd-grok", *map(str, arguments)])
    cli.main()


def test_a_race_leaves_table_picture_and_data(tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "folder"
    names = ["egd", "sgd"]
    call(
        monkeypatch,
        *("race", "addition", *SMALL, "--seeds", 2, "--out", out),
        *("--optimizers", *names),
    )
    assert {path.name for path in out.iterdir()} == FILES
    printed = capsys.readouterr().out
    assert "a + b mod 7" in printed
    assert all(name in printed for name in names)
    lines = [json.loads(x) for x in (out / "history.jsonl").read_text().splitlines()]
    assert [(line["optimizer"], line["step"]) for line in lines] == [
        (name, step) for name in names for step in (3, 6, 9)
    ]
    assert len(lines[0]["test_accuracy"]) == 2
    rows = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    assert [row["optimizer"] for row in rows] == names
    config = json.loads((out / "config.json").read_text())
    assert config["command"]["modulus"] == 7
    assert (out / "race.png").read_bytes().startswith(b"\x89PNG")


def test_train_runs_one_optimizer(tmp_path, monkeypatch):
    call(
        monkeypatch,
        *("train", "division", *SMALL, "--seeds", 1, "--out", tmp_path),
        *("--optimizer", "adamw"),
    )
    assert {path.name for path in tmp_path.iterdir()} == FILES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["race", "power"], "unknown task 'power'"),
        (["race", "addition", "--optimizers", "egd", "adma"], "optimizer 'adma'"),
        (["train", "addition", "--optimizer", "adma"], "no optimizer 'adma'"),
        (["race", "division", "--modulus", "91"], "91 is divisible by 7"),
        (["race", "group", "--group", "Q8"], "unknown group 'Q8'"),
        (["train", "addition", "--measures", "norm"], "unknown measure 'norm'"),
        (["train", "mnist", "--measures", "key-share"], "needs a task on a group"),
        (["race", "group", "--word", "yx"], "unknown word 'yx'"),
        (["race", "group", "--group", "none.csv"], "No such file"),
        (["race", "table"], "needs --table and a file"),
        (["race", "table", "--table", "none.npy"], "No such file"),
        (["race", "addition", "--corrupted-labels", "1.5"], "--corrupted-labels must"),
        (["race", "addition", "--label-noise", "-1"], "--label-noise must lie in"),
        (
            ["race", "addition", "--full-batch", "--batch-size", "8"],
            "--batch-size must not be given with --full-batch",
        ),
        (["race", "parity", "--modulus", "7"], "--modulus must not be given for the"),
        (["race", "mnist", "--model", "transformer"], "--model must not be given for"),
        (["train", "addition", "--bits", "9"], "--bits must not be given for the task"),
        (["tune", "group", "--table", "t.csv"], "--table must not be given for the"),
        (["race", "addition", "--group", "C7"], "--group must not be given for the"),
        (
            ["race", "table", "--table", "\udcff.csv"],
            r"printable name, got '\udcff.csv",
        ),
        (["race", "group", "--group", "a\nb.csv"], r"printable name, got 'a\nb.csv'"),
        (["race", "addition", "--settings", "a\nb"], r"--settings must be a printable"),
        (["race", "addition", "--train-fraction", "1.5"], "got 1.5"),
        (["race", "addition", "--train-fraction", "0"], "got 0.0"),
        (["race", "parity", "--subset-size", "101"], "got 101"),
        (
            ["race", "addition", "--model", "transformer", "--width", "9"],
            "heads, got 9",
        ),
        (["train", "mnist", "--optimizer", "sgd"], "MNIST has no optimizer 'sgd'"),
        (["race", "addition", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["race", "addition", "--seeds", "-3"], "--seeds must be at least 1, got -3"),
        (["race", "addition", "--width", "0"], "--width must be at least 1, got 0"),
        (["race", "addition", "--batch-size", "9999"], "batch of 9999"),
        (["race", "addition", "--max-steps", "3"], "budget of 3 steps"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(
    arguments, message, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *arguments, "--out", out)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "race", "addition", "--out", blocked / "below")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert str(blocked) in error
    assert len(error.splitlines()) == 1
    assert blocked.read_text() == "in the way"


@pytest.mark.parametrize(
    "name", [r"$\frac$.csv", "[red]a.csv", "a_b^c.csv", ":sun:.csv", "[red]\\.csv"]
)
def test_a_name_is_shown_as_it_is(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("0,1,2\n1,2,0\n2,0,1\n")
    options = ["--width", 8, "--batch-size", 2, "--seeds", 1, "--max-steps", 6]
    call(
        monkeypatch,
        *("train", "table", "--table", name, *options, "--optimizer", "sgd"),
        *("--out", "out"),
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert capsys.readouterr().out.count(name.removesuffix(".csv")) == 2


def test_an_interruption_while_a_problem_is_made_is_one_line(
    tmp_path, monkeypatch, capsys
):
    def interrupted(command):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "prepare", interrupted)
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "race", "addition", "--out", tmp_path / "out")
    assert stop.value.code == 130
    assert capsys.readouterr().err.split() == [
        "egd-grok:",
        "interrupted;",
        "see",
        str(tmp_path / "out"),
    ]


@pytest.mark.slow
def test_an_interruption_while_a_program_runs_ends_in_one_line(tmp_path):
    command = [sys.executable, "-m", "egd_optax.grokking.cli", "race", "addition"]
    with subprocess.Popen(
        [*command, "--seeds", "1", "--max-steps", "100000", "--out", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (tmp_path / "history.jsonl").exists() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()
    assert process.returncode == 130
    assert error == f"\negd-grok: interrupted; see {tmp_path}\n"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode_costs_nothing(encoding, tmp_path):
    command = [sys.executable, "-m", "egd_optax.grokking.cli"]
    run = ["race", "subtraction", *SMALL, "--seeds", "1", "--optimizers", "egd", "sgd"]
    for arguments in (["race", "--help"], [*run, "--out", str(tmp_path)]):
        answer = subprocess.run(
            [*command, *arguments],
            env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            check=True,
        )
        assert b"?" in answer.stdout
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_an_interrupted_race_keeps_what_it_has(tmp_path, monkeypatch, capsys):
    real = cli_train.train

    def interrupted(task, make_model, optimizer, settings, *, report, **_):
        def report_and_stop(history: History):
            report(history)
            raise KeyboardInterrupt

        return real(task, make_model, optimizer, settings, report=report_and_stop)

    monkeypatch.setattr(cli_train, "train", interrupted)
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "race", "addition", *SMALL, "--out", tmp_path)
    assert stop.value.code == 130
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "history.jsonl",
    }
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 9
    assert "interrupted" in capsys.readouterr().err


def test_an_error_in_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with (
        pytest.raises(RuntimeError, match="on the way"),
        replacing(path) as temporary,
    ):
        temporary.write_text("half")
        raise RuntimeError("on the way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_help_names_commands_and_usage_errors_exit_with_2():
    def run(*arguments):
        command = [sys.executable, "-m", "egd_optax.grokking.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    answer = run("--help")
    assert answer.returncode == 0
    assert "race" in answer.stdout
    assert "train" in answer.stdout
    answer = run("race", "addition", "--seeds", "many")
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_compiled_programs_are_kept_unless_told_otherwise(tmp_path):
    (tmp_path / "file").write_text("in the way")

    def run(home, *more):
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JAX_", "XDG_"))
        }
        words = ["train", "addition", *SMALL, "--seeds", "1", "--out", tmp_path / "out"]
        return subprocess.run(
            [sys.executable, "-m", "egd_optax.grokking.cli", *words, *more],
            env=environment | {"HOME": str(home), "MPLCONFIGDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )

    kept = tmp_path / "home" / ".cache" / "egd-optax" / "jax"
    run(tmp_path / "home", "--no-keep-compiled")
    assert not kept.exists()
    run(tmp_path / "home")
    programs = set(kept.iterdir())
    assert programs
    run(tmp_path / "home")
    assert {path for path in kept.iterdir() if "-cache" in path.name} <= programs
    # Nowhere to keep them is no reason to stop, or to say anything.
    assert run(tmp_path / "file").stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "transformer", "one-layer-transformer"])
def test_groups_and_tables_are_tasks_on_the_command_line(
    model, tmp_path, monkeypatch, capsys
):
    shared = ["--model", model, "--width", 16, "--max-steps", 4, "--seeds", 1]
    shared += ["--full-batch", "--optimizer", "egd-auto", "--corrupted-labels", 0.1]
    call(
        monkeypatch,
        *("train", "group", "--group", "S3", "--word", "xyx^-1", *shared),
        *("--out", tmp_path / "group", "--measures", "distance", "fourier-share"),
    )
    line = json.loads((tmp_path / "group/history.jsonl").read_text().split("\n")[-2])
    assert line["distance"][0] > 0
    assert 0 < line["fourier-share"][0] <= 1
    table = tmp_path / "larger.csv"
    table.write_text("0,1,2,3\n1,1,2,3\n2,2,2,3\n3,3,3,3\n")
    call(
        monkeypatch,
        *("train", "table", "--table", table, *shared, "--out", tmp_path / "table"),
    )
    printed = capsys.readouterr().out
    assert "xyx⁻¹ in S3" in printed
    assert "larger, " in printed
    assert "all of these a step" in printed
