import dataclasses
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from benchmarks.evidence import _cells
from benchmarks.shared import read_table
from egd_optax.grokking.problems.problem import modular, with_settings
from egd_optax.leaves.layouts import matrix_layouts

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    sorted(str(path.relative_to(BENCHMARKS)) for path in BENCHMARKS.glob("*/[!_]*.py")),
)
def test_every_benchmark_runs_quickly(script, tmp_path):
    command = [sys.executable, BENCHMARKS / script, "--quick", "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (result,) = tmp_path.glob("*.csv")
    assert len(result.read_text().splitlines()) > 2


@pytest.mark.slow
def test_seeds_are_swept_over_devices(tmp_path):
    command = [sys.executable, BENCHMARKS / "speed" / "sweep.py", "--devices", "1", "2"]
    subprocess.run([*command, "--quick", "--out", tmp_path], check=True)
    _, head, *rows = (tmp_path / "sweep-devices-quick.csv").read_text().splitlines()
    assert head.startswith("devices,seeds,")
    assert [row.split(",")[:2] for row in rows] == [["1", "2"], ["2", "2"]]


@pytest.mark.slow
def test_every_method_of_whitening_is_compared(tmp_path):
    command = [sys.executable, BENCHMARKS / "speed" / "whitening.py", "--every-method"]
    subprocess.run(
        [*command, "--quick", "--out", tmp_path], check=True, capture_output=True
    )
    rows = (tmp_path / "whitening-methods-quick.csv").read_text().splitlines()
    assert len(rows) == 2 + 2 * 2 * 9
    assert (tmp_path / "whitening-methods-quick.png").exists()


def test_steps_take_turns_and_slow_ones_are_left_out(monkeypatch):
    from benchmarks.speed import _steps

    calls = []
    steps = {
        "quick": lambda batch: calls.append(batch),
        "slow": lambda batch: time.sleep(0.1),
    }
    times = _steps.milliseconds(steps, ["a", "b"], repeats=2, max_seconds=0.15)
    assert times.keys() == {"quick"}
    assert calls == ["a", "b", "a"]


def test_the_tree_like_gpt2_has_as_many_parameters(monkeypatch):
    from benchmarks.speed import _gpt2

    assert _gpt2.size(768, 12) == 124_439_808
    params = _gpt2.parameters(8, 2)
    assert sum(x.size for x in jax.tree.leaves(params)) == _gpt2.size(8, 2)
    # The four matrices of each block are whitened.
    layouts = matrix_layouts(params, _gpt2.matrices)
    assert sum(layout is not None for layout in layouts) == 8


@pytest.mark.parametrize("recipe", ["sgd", "columns"])
def test_cells_without_a_number_are_json_as_all_languages_read_it(recipe, tmp_path):
    # Losses that became none, and a constant rate, which halves after infinite steps.
    net = modular("addition", 7, width=16)
    problem = dataclasses.replace(
        with_settings(net, seeds=(0,), max_steps=9, batch_size=8), learning_rate=1e30
    )
    asked = tmp_path, "row", recipe, problem
    found = _cells.run_cell(*asked, lambda history: None, ["distance"])
    text = gzip.decompress((tmp_path / "row" / f"{recipe}.json.gz").read_bytes())
    json.loads(text, parse_constant=pytest.fail)
    assert b"null" in text
    assert _cells.finished_cell(*asked) == found
    assert found.history().metrics["train_loss"].dtype == float


def test_a_finished_cell_is_read_and_not_run_again(tmp_path, monkeypatch):
    problem = modular("addition", 7, width=16)
    settings = dataclasses.replace(
        problem.settings, seeds=(0, 1), max_steps=9, batch_size=8
    )
    problem = dataclasses.replace(problem, settings=settings)

    def cell(problem):
        return _cells.run_cell(tmp_path, "row", "sgd", problem, lambda history: None)

    first = cell(problem)
    assert [path.name for path in (tmp_path / "row").iterdir()] == ["sgd.json.gz"]

    def refuse(*arguments, **keywords):
        raise AssertionError("run again")

    monkeypatch.setattr(_cells, "train", refuse)
    again = cell(problem)
    assert again == first
    assert again.record["steps_run"] == 9
    assert again.history().metrics["test_accuracy"].shape == (3, 2)
    # What was run with other settings is not lost.
    other = dataclasses.replace(
        problem, settings=dataclasses.replace(settings, max_steps=6)
    )
    with pytest.raises(
        _cells.CellError, match=r"sgd\.json\.gz was run with .* max_steps 9 and not 6: "
    ):
        cell(other)
    assert cell(problem) == first
    # A setting that is newer than the cell, whatever its value.
    question = first.record["question"]
    del question["settings"]["relabel_every"]
    there = _cells.Cell("row", "sgd", first.record)
    monkeypatch.setattr(_cells, "_read", lambda path, row: there)
    with pytest.raises(_cells.CellError, match="relabel_every unknown and not None"):
        cell(problem)


class KilledError(Exception):
    pass


def test_a_cell_that_was_killed_goes_on(tmp_path, monkeypatch):
    from benchmarks.evidence import _cells

    monkeypatch.setattr(_cells, "_CHECKPOINT_EVERY", 6)
    problem = with_settings(
        modular("addition", 7, width=16),
        **{"seeds": (0,), "max_steps": 18, "batch_size": 8},
    )

    def cell(folder, report, problem=problem):
        return _cells.run_cell(folder, "row", "sgd", problem, report)

    def stop(history):
        if history.steps[-1] == 12:
            raise KilledError

    with pytest.raises(KilledError):
        cell(tmp_path / "killed", stop)
    longer = with_settings(problem, max_steps=24)
    with pytest.raises(_cells.CellError, match=r"of another run: .* or delete .*sgd"):
        cell(tmp_path / "killed", stop, longer)
    seen = []
    again = cell(tmp_path / "killed", lambda history: seen.append(history.steps[-1]))
    whole = cell(tmp_path / "whole", lambda history: None)
    assert seen == [12, 18]
    for name in ("first", "curves", "final_test_accuracy"):
        assert again.record[name] == whole.record[name]


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"rows": ("add-97", "add-98")}, "unknown row 'add-98': choose among add-79, "),
        ({"recipes": ("egdd",)}, "unknown recipe 'egdd': choose among sgd, "),
        ({"rows": ("mul-97",), "suite": "quick"}, "unknown row 'mul-97': choose among"),
    ],
)
def test_a_race_of_what_there_is_not_says_what_there_is(
    asked, line, tmp_path, monkeypatch, capsys
):
    from benchmarks.evidence import race

    with pytest.raises(SystemExit, match="2"):
        race.main(race.Options(out=tmp_path / "out", **asked))
    error = capsys.readouterr().err
    assert error.startswith(f"race: {line}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"families": ("one-hots",)}, "unknown family 'one-hots': choose among mod"),
        ({"optimizers": ("sgd",)}, "unknown optimizer 'sgd': choose among egd, "),
    ],
)
def test_a_search_of_what_there_is_not_says_what_there_is(
    asked, line, tmp_path, capsys
):
    from benchmarks.evidence import search

    with pytest.raises(SystemExit, match="2"):
        search.main(search.Options(out=tmp_path / "out", **asked))
    error = capsys.readouterr().err
    assert error.startswith(f"search: {line}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_search_of_one_method_keeps_the_lines_of_the_others(tmp_path):
    from benchmarks.evidence import search

    for name in ("columns", "frobenius"):
        search.main(search.Options(optimizers=(name,), quick=True, out=tmp_path))
    table = read_table(tmp_path / "search-modular-quick.csv")
    assert sorted(line["optimizer"] for line in table) == ["columns", "frobenius"]


def test_what_is_no_race_is_made_where_it_is_missing(tmp_path, monkeypatch):
    from benchmarks.evidence import race

    made = []
    for script in race.NO_RACES:
        monkeypatch.setattr(script, "main", made.append)
    (tmp_path / "toy-quick.csv").touch()
    race.no_races("quick", tmp_path)
    assert [type(options).__module__.split(".")[-1] for options in made] == [
        "spectrum",
        "nonstationary",
        "clock",
    ]
    assert all(options.quick and options.out == tmp_path for options in made)
    made.clear()
    race.no_races("full", tmp_path)
    assert len(made) == 4
    assert not any(options.quick for options in made)


def test_plateaus_alone_have_pictures_too(tmp_path, monkeypatch):
    from benchmarks.evidence import _cells, _tables

    found = _cells.found_cells(BENCHMARKS / "evidence" / "results" / "race", ["add-97"])
    label = "add-97" + _cells.PLATEAU
    (tmp_path / label).mkdir()
    _tables.write_pictures({label: found[label]}, tmp_path)
    assert [file.name for file in tmp_path.rglob("*.png")] == ["race.png"]


def test_the_pages_are_what_the_results_say():
    from benchmarks.evidence import _results_page
    from benchmarks.speed import _performance_page

    pages = _results_page.written_pages(BENCHMARKS.parent)
    for path, text in pages.items():
        assert path.read_text() == text, HOW_TO.format("evidence/_results_page")
    how = HOW_TO.format("speed/_performance_page")
    assert _performance_page.PAGE.read_text() == _performance_page.written_page(), how


HOW_TO = "run: python benchmarks/{}.py"
