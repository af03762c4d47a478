"""Checkpoints and results that are damaged, or a stranger's: found, never misread."""

import ast
import dataclasses
import errno
import gzip
import hashlib
import json
import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_faults import load, refused, save

from egd_optax.grokking.problems.problem import modular
from egd_optax.grokking.training import checkpoints
from egd_optax.grokking.training.checkpoints import CheckpointError, CheckpointWarning
from egd_optax.grokking.training.history import History

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"


def flips(content):
    """The content with a bit flipped, at several positions."""
    for number, position in enumerate(
        sorted({0, 1, len(content) // 3, len(content) // 2, len(content) - 1})
    ):
        flipped = bytearray(content)
        flipped[position] ^= 1 << number
        yield bytes(flipped)


def test_a_flipped_bit_goes_back_to_the_checkpoint_before(tmp_path):
    save(tmp_path, 1, 2, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"2", "3"}
    found = [path for path in (tmp_path / "3").rglob("*") if path.is_file()]
    assert len(found) > 8
    for file in found:
        content = file.read_bytes()
        for flipped in flips(content):
            file.write_bytes(flipped)
            with pytest.warns(CheckpointWarning, match="going on from 2"):
                assert load(tmp_path) == 2
        file.write_bytes(content)
    assert load(tmp_path) == 3
    for step in ("2", "3"):
        (tmp_path / step / "about.json").unlink()
    with pytest.raises(CheckpointError, match="3 is damaged"):
        load(tmp_path)


def test_a_damaged_checkpoint_is_written_anew(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "2" / "about.json").write_text("{}")
    with pytest.warns(CheckpointWarning):
        save(tmp_path, 2)
    assert load(tmp_path) == 2


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """A finished cell of a race: its file, and how to ask for it."""
    from benchmarks.evidence import _cells

    problem = modular("addition", 7, width=16)
    settings = dataclasses.replace(problem.settings, seeds=(0,))
    problem = dataclasses.replace(problem, settings=settings)
    metrics = {
        f"{part}_accuracy": np.linspace(0, 1, 9)[:, None] for part in ("train", "test")
    }
    history = History((0,), np.arange(1, 10), 1, metrics)
    monkeypatch.setattr(_cells, "train", lambda *_, **__: history)

    def ask():
        return _cells.run_cell(tmp_path, "add-97", "egd", problem, lambda history: None)

    ask()
    monkeypatch.delattr(_cells, "train")
    return tmp_path / "add-97" / "egd.json.gz", ask, _cells


def test_a_flipped_bit_in_a_cell_is_found_or_changes_nothing(cell):
    file, ask, _cells = cell
    content, intact = file.read_bytes(), ask()
    found = 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        file.write_bytes(flipped)
        try:
            assert ask() == intact
        except _cells.CellError:
            found += 1
    assert found > 0.9 * len(content)


FOREIGN = (
    *(b"", b"{}", b"[]", b"null", b"7", b"\xff\xfe", b"[" * 100_000, b'{"sha256": 1}'),
    b"9" * 10_000,
    pickle.dumps({"question": {}}),
)


def test_a_cell_that_is_cut_off_or_foreign_is_named(cell):
    file, ask, _cells = cell
    content = file.read_bytes()
    cut = [content[:length] for length in range(0, len(content) - 1, 7)]
    for found in (*cut, *FOREIGN, *map(gzip.compress, FOREIGN)):
        file.write_bytes(found)
        with pytest.raises(_cells.CellError, match=r"json\.gz is damaged"):
            ask()
        with pytest.raises(_cells.CellError):
            _cells.found_cells(file.parent.parent, ["add-97"])
        assert file.read_bytes() == found


def test_a_race_stops_at_a_damaged_cell_before_it_runs_any(cell, capsys, monkeypatch):
    file, _, _cells = cell
    from benchmarks.evidence import race

    (folder := file.parent.parent / "race-test").mkdir()
    file = file.parent.rename(folder / "add-97") / "egd.json.gz"
    file.write_bytes(file.read_bytes()[:-30])
    options = race.Options(quick=True, out=folder.parent)
    line = refused(lambda: race.main(options), capsys, status=2)
    assert line.startswith(f"race: {file} is damaged")
    # And where the disk takes no more, with a line as well.
    file.unlink()

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr(race, "run_cell", refuse)
    line = refused(lambda: race.main(options), capsys, status=1)
    assert line.startswith(f"race: {file}: No space left on device; ")


def test_a_race_refuses_a_plateau_that_does_not_fit_before_it_runs_any(
    cell, capsys, monkeypatch
):
    file, _, _ = cell
    from benchmarks.evidence import race

    (folder := file.parent.parent / "race").mkdir()
    file = file.parent.rename(folder / "add-97-plateau") / file.name
    file = file.rename(file.with_name("sgd.json.gz"))
    monkeypatch.delattr(race, "run_cell")
    line = refused(lambda: race.main(race.Options(out=folder.parent)), capsys, status=2)
    assert line.startswith(
        f"race: {file} was run with other settings, task a + b mod 7"
    )


def test_every_result_of_this_repository_is_intact(cell):
    _, _, _cells = cell
    folder = BENCHMARKS / "evidence" / "results" / "race"
    rows = {path.name.removesuffix("-plateau") for path in folder.iterdir()}
    found = _cells.found_cells(folder, rows)
    assert sum(map(len, found.values())) == len(list(folder.rglob("*.json.gz"))) > 60


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_nothing_of_a_stranger_is_unpickled(tmp_path, cell, monkeypatch):
    # Orbax's threads complain for some time of what they read.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    file, ask, _cells = cell
    marker = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(marker))
    pickle.loads(bomb)
    marker.rmdir()  # it works

    file.write_bytes(bomb)
    with pytest.raises(_cells.CellError):
        ask()
    folder = tmp_path / "state"
    save(folder, 1)
    step = folder / "1"
    for path in [path for path in step.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        path.write_bytes(bomb)
        digests = {
            str(other.relative_to(step)): hashlib.sha256(other.read_bytes()).hexdigest()
            for other in step.rglob("*")
            if other.is_file() and other.name != "sha256.json"
        }
        if path.name != "sha256.json":  # a stranger knows how to make it fit
            (step / "sha256.json").write_text(json.dumps(digests))
        try:
            assert load(folder) == 1
        except CheckpointError as error:
            assert "damaged" in str(error)
        path.write_bytes(content)
    time.sleep(0.3)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shapes", {"[0]['x']": [10**15]}),
        ("shapes", {"[0]['x']": "wide"}),
        ("shapes", []),
        ("dtypes", {"[0]['x']": "object"}),
        ("identity", None),
        ("run_seconds", "long"),
    ],
)
def test_what_a_stranger_says_of_a_checkpoint_is_checked(key, value, tmp_path):
    save(tmp_path, 1)
    step = tmp_path / "1"
    about = json.loads((step / "about.json").read_text())
    if isinstance(value, dict):
        value = about[key] | value
    (step / "about.json").write_text(json.dumps(about | {key: value}))
    (step / "sha256.json").write_text(json.dumps(checkpoints._digests(step)))
    with pytest.raises(CheckpointError, match="1 is damaged"):
        load(tmp_path)


def test_no_module_unpickles_or_evaluates():
    forbidden = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path in [*(ROOT / "egd_optax").rglob("*.py"), *BENCHMARKS.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = set()
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = {node.func.id} & {"eval", "exec", "compile", "__import__"}
                assert not names, (path, names)
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path
            assert not names & forbidden, (path, names)
