"""Disks, clocks and other processes at their worst: nothing finished is lost."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_checkpoints import COMMAND, call, contents, whole_run

from egd_optax.grokking import files
from egd_optax.grokking.files import replacing, reserved
from egd_optax.grokking.training import checkpoints
from egd_optax.grokking.training.checkpoints import (
    Checkpoints,
)
from egd_optax.grokking.training.history import History

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("undisturbed"))


def refused(run, capsys, status):
    """The one line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    return line


def same_history(out, undisturbed):
    name = "history.jsonl"
    return (out / name).read_bytes() == (undisturbed / name).read_bytes()


# A disk that takes no more


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("config.json", errno.EACCES),
        ("history.jsonl", errno.EROFS),
        ("summary.csv", errno.ENOSPC),
        ("race.png", errno.ENOSPC),
        ("checkpoints/18", errno.ENOSPC),
    ],
)
def test_a_disk_that_takes_no_more(
    name, number, undisturbed, tmp_path, monkeypatch, capsys
):
    def refuse(path):
        if name in str(path):
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        for module in (files, checkpoints):
            patch.setattr(module, "sync", refuse)
        line = refused(
            lambda: call(patch, *COMMAND, "--out", tmp_path), capsys, status=1
        )
    # Of a half-written file, the line names the one that was to be.
    assert line.startswith(f"egd-grok: {tmp_path / name}: {os.strerror(number)}; ")
    assert "choose another --out" in line
    assert not list(tmp_path.rglob("*.unfinished"))
    assert not (tmp_path / name).exists()
    # With room again, the run goes on from the last whole checkpoint.
    call(monkeypatch, *COMMAND, "--out", tmp_path)
    assert same_history(tmp_path, undisturbed)
    assert capsys.readouterr().err == ""


def small_history(steps):
    return History(
        (0,), np.arange(1, steps + 1), 1, {"train_loss": np.ones((steps, 1))}
    )


def save(folder, *steps):
    """Checkpoints after so many steps, each of other numbers."""
    saved = Checkpoints(folder, 1, {"run": "a"}, resume=True)
    for step in steps:
        saved.save({"x": np.full(999, step)}, small_history(step))


def load(folder):
    """The step of the checkpoint that is gone on from, whose numbers are its own."""
    saved = Checkpoints(folder, 1, {"run": "a"}, resume=True)
    members, (metrics,), _ = saved.restore({"x": np.zeros(999, int)})
    (step,) = {int(x) for x in members["x"]}
    np.testing.assert_array_equal(metrics["train_loss"], np.ones((step, 1)))
    return step


def test_the_kernel_refuses_a_checkpoint(tmp_path):
    save(tmp_path, 1, 2)
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as refusal:
            save(tmp_path, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refusal.value.filename == str(tmp_path / "3")
    assert contents(tmp_path) == before
    assert load(tmp_path) == 2


def test_a_full_disk_in_the_words_of_orbax(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            raise ValueError("RESOURCE_EXHAUSTED: Error writing [os_error_code='28']")

        def __exit__(self, *_):
            pass

    save(tmp_path, 1)
    before = contents(tmp_path)
    saved = Checkpoints(tmp_path, 1, {"run": "a"}, resume=True)
    monkeypatch.setattr(checkpoints, "_checkpointer", Full)
    with pytest.raises(OSError, match="No space left") as refusal:
        saved.save({"x": np.ones(9)}, small_history(2))
    assert refusal.value.errno == errno.ENOSPC
    assert contents(tmp_path) == before


def test_a_folder_that_is_read_only(tmp_path, monkeypatch, capsys):
    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    line = refused(lambda: call(monkeypatch, *COMMAND, "--out", tmp_path), capsys, 2)
    assert f"{tmp_path} cannot be written: Read-only file system; choose" in line


def test_what_a_kill_left_is_swept_up(tmp_path):
    (tmp_path / ".result.txt.unfinished").write_text("half")
    with replacing(tmp_path / "result.txt") as temporary:
        temporary.write_text("whole")
    assert contents(tmp_path) == {Path("result.txt"): b"whole"}


def test_going_back_is_said_and_leads_to_the_same_end(
    undisturbed, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    latest = out / "checkpoints" / "30"
    (latest / "about.json").write_bytes(b"")
    call(monkeypatch, *COMMAND, "--out", out)
    line = f"egd-grok: the checkpoint {latest} is damaged, or none of egd-grok: "
    assert capsys.readouterr().err == line + "going on from 24, the one before\n"
    assert same_history(out, undisturbed)
    call(monkeypatch, *COMMAND, "--out", out)
    assert capsys.readouterr().err == ""


# Two processes

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_sent_away_until_the_first_is_killed(
    undisturbed, tmp_path, monkeypatch, capsys
):
    from benchmarks.evidence import race

    for out, run in (
        (tmp_path / "a", lambda: call(monkeypatch, *COMMAND, "--out", tmp_path / "a")),
        (
            tmp_path / "b" / "race-test",
            lambda: race.main(race.Options(quick=True, out=tmp_path / "b")),
        ),
    ):
        out.mkdir(parents=True)
        command = [sys.executable, "-c", HOLDER, out / ".lock"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            assert holder.stdout.readline() == "held\n"
            line = refused(run, capsys, status=2)
            assert f"another process is writing to {out}: wait" in line
            assert [path.name for path in out.iterdir()] == [".lock"]
            holder.send_signal(signal.SIGKILL)
    call(monkeypatch, *COMMAND, "--out", tmp_path / "a")
    assert same_history(tmp_path / "a", undisturbed)
    assert not (tmp_path / "a" / ".lock").exists()


def test_a_lock_that_its_owner_deleted_is_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(files.fcntl, "flock", lambda *_: (tmp_path / ".lock").unlink())
    with pytest.raises(ValueError, match="another process"), reserved(tmp_path):
        raise AssertionError


def test_file_systems_without_locks_are_used(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with reserved(tmp_path):
        assert (tmp_path / ".lock").exists()


# A clock that jumps


def test_a_clock_that_jumps_changes_nothing(undisturbed, tmp_path, monkeypatch, capsys):
    real, jumps = time.time, 0

    def jumping():
        nonlocal jumps
        jumps += 1
        return real() + (-1) ** jumps * 3e7

    monkeypatch.setattr(time, "time", jumping)
    start = time.perf_counter()
    call(monkeypatch, *COMMAND, "--out", tmp_path)
    elapsed = time.perf_counter() - start
    assert jumps
    about = json.loads((tmp_path / "checkpoints" / "30" / "about.json").read_text())
    assert 0 < about["run_seconds"] < elapsed
    assert same_history(tmp_path, undisturbed)
    for path in tmp_path.rglob("*"):  # nor does what the files say of their age
        os.utime(path, (2e9, 2e9))
    call(monkeypatch, *COMMAND, "--out", tmp_path)
    assert same_history(tmp_path, undisturbed)
    assert capsys.readouterr().err == ""
