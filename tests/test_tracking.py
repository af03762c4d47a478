import importlib.util
import json
import struct
import sys

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from egd_optax.grokking.cli import commands as cli
from egd_optax.grokking.tracking import Tracker
from egd_optax.grokking.training.history import History

SMALL = ["--modulus", "7", "--batch-size", "8", "--width", "16", "--max-steps", "9"]


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["egd-grok", *map(str, arguments)])
    cli.main()


def test_each_evaluation_is_written_once():
    written = []
    track = Tracker(lambda step, values: written.append((step, values)))
    metric = np.array([[0.5, 0.25], [0.75, np.nan], [1.0, 1.0]])
    for rows in (1, 1, 3):
        track(
            History(
                seeds=(4, 9),
                steps=3 * np.arange(1, rows + 1),
                steps_per_epoch=3,
                metrics={"test_loss": metric[:rows]},
            )
        )
    assert [step for step, _ in written] == [3, 6, 9]
    assert written[0][1] == {"test_loss/seed-4": 0.5, "test_loss/seed-9": 0.25}
    assert np.isnan(written[1][1]["test_loss/seed-9"])


def events_of(path):
    """What an event file holds, a sequence of framed messages."""
    content, position = path.read_bytes(), 0
    while position < len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        yield Event.FromString(content[position + 12 : position + 12 + length])
        position += length + 16


def test_the_command_line_writes_both(tmp_path, monkeypatch):
    call(
        monkeypatch,
        *("train", "addition", *SMALL, "--seeds", 2, "--out", tmp_path),
        *("--track", "tensorboard", "wandb"),
    )
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    (file,) = (tmp_path / "tensorboard" / "egd").iterdir()
    expected = {
        (record["step"], f"{name}/seed-{seed}"): value
        for record in map(json.loads, lines)
        for name, values in record.items()
        if name.endswith(("_loss", "_accuracy"))
        for seed, value in enumerate(values)
    }
    events = list(events_of(file))
    found = {(e.step, v.tag): v.simple_value for e in events for v in e.summary.value}
    assert found == pytest.approx(expected, abs=1e-5)
    # A run that goes on writes all again: TensorBoard forgets earlier files' points.
    (start,) = (e.step for e in events if e.session_log.status == SessionLog.START)
    assert start == 0
    (run,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"train_loss/seed-1" in run.read_bytes()


def test_what_is_missing_or_unknown_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else object()
    )
    for name, message in (
        ("wandb", "pip install 'egd-optax[tracking]'"),
        ("mlflow", "unknown tracker 'mlflow': choose among tensorboard, wandb"),
    ):
        with pytest.raises(SystemExit) as stop:
            call(
                monkeypatch,
                *("train", "addition", "--track", name, "--out", tmp_path / "out"),
            )
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert not (tmp_path / "out").exists()
