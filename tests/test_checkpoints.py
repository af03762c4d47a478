"""A run that is killed and started again gives the history of an undisturbed one."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from egd_optax import delayed_frobenius_penalty, egd
from egd_optax.grokking.cli import commands as cli
from egd_optax.grokking.measures import measures
from egd_optax.grokking.problems.arithmetic import modular_arithmetic
from egd_optax.grokking.problems.models import TwoLayerNet
from egd_optax.grokking.problems.settings import Settings
from egd_optax.grokking.training import checkpoints
from egd_optax.grokking.training.checkpoints import CheckpointError, Checkpoints
from egd_optax.grokking.training.run import train

COMMAND = [
    *("train", "addition", "--modulus", "7", "--batch-size", "8", "--width", "16"),
    *("--max-steps", "30", "--seeds", "2", "--checkpoint-every", "6", "--resume"),
]
TASK = modular_arithmetic("addition", 7)
SETTINGS = Settings(seeds=(0, 1), max_steps=30, batch_size=8, patience=None)

# Kills itself at the n-th time that something happens to a file of the checkpoints:
# opened, made, renamed, deleted.
DRIVER = """
import os, signal, sys
moment, events = int(sys.argv.pop(1)), 0
def hook(event, arguments):
    global events
    if event.startswith(("open", "os.", "shutil.")) and any(
        "checkpoints" in str(x) for x in arguments if isinstance(x, (str, bytes))
    ):
        events += 1
        if events == moment:
            os.kill(os.getpid(), signal.SIGKILL)
from egd_optax.grokking.cli.commands import main
sys.addaudithook(hook)
main()
print("events", events)
"""


def drive(moment, out):
    command = [sys.executable, "-c", DRIVER, str(moment), *COMMAND, "--out", out]
    # Without the remarks of XLA on programs from the compilation cache.
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["egd-grok", *map(str, arguments)])
    cli.main()


def whole_run(out):
    """The folder of a run that nothing happened to."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        call(monkeypatch, *COMMAND, "--out", out)
    return out


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
def test_sigkill_at_any_moment_changes_nothing(undisturbed, tmp_path):
    # Each moment is counted from the start of its process, on top of what the killed
    # ones before it left: while the first checkpoint is made, at its renaming, while
    # the one before is deleted, and in between.
    for moment in (2, 8, 20, 25, 30, 45):
        answer = drive(moment, tmp_path)
        assert answer.returncode == -signal.SIGKILL, answer.stderr
    answer = drive(-1, tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    for name in ("history.jsonl", "race.png"):
        expected = (undisturbed / name).read_bytes()
        assert (tmp_path / name).read_bytes() == expected


def small_net(rngs):
    return TwoLayerNet(14, 7, width=16, rngs=rngs)


def optimizer():
    # The latch of the switch falls in the middle of the run.
    return optax.chain(
        delayed_frobenius_penalty(1e-2, threshold=0.5), egd(0.2, weight_decay=0.0)
    )


class KilledError(Exception):
    pass


@pytest.mark.parametrize("names", [(), ("distance", "weight-norm", "alignment")])
def test_every_checkpoint_leads_to_the_same_end(names, tmp_path):
    looked_at = measures(names)
    expected = train(TASK, small_net, optimizer(), SETTINGS, measures=looked_at)
    crossed = expected.first_crossing(0.5, "train_accuracy").steps
    assert np.all((crossed > 3) & (crossed < 24))

    def stop_at(step):
        def report(history):
            if history.steps[-1] == step:
                raise KilledError

        return report

    def run(report=None):
        kept = Checkpoints(tmp_path / "state", 5, {}, resume=True)
        return train(
            TASK,
            small_net,
            optimizer(),
            SETTINGS,
            report=report,
            checkpoints=kept,
            measures=looked_at,
        )

    for step in (6, 12, 18, 24):
        with pytest.raises(KilledError):
            run(stop_at(step))
        # The one before stays, for the case that the latest is damaged.
        names = {path.name for path in (tmp_path / "state").iterdir()}
        assert names == {str(step), str(step - 6)} - {"0"}
    seconds = []
    for _ in range(2):  # the second has nothing left to do
        history = run(lambda h: seconds.append(h.run_seconds))
        np.testing.assert_array_equal(history.steps, expected.steps)
        for name, values in expected.metrics.items():
            np.testing.assert_array_equal(history.metrics[name], values)
    assert seconds == sorted(seconds)


def test_a_seed_that_rests_does_so_after_a_kill(tmp_path, easy):
    settings = dataclasses.replace(
        SETTINGS, batch_size=100, max_steps=200, threshold=0.6, patience=4
    )

    def run(kept=None, report=None):
        return train(
            *(easy, small_net, optax.adam(0.01), settings),
            checkpoints=kept,
            report=report,
        )

    expected = run()
    accuracy = expected.metrics["test_accuracy"]
    last = [1 + int(np.flatnonzero(np.diff(values))[-1]) for values in accuracy.T]
    between = (min(last) + max(last)) // 2
    assert min(last) + 2 < between < len(accuracy) - 2

    def stop(history):
        if len(history.steps) >= between:
            raise KilledError

    def saved():
        return Checkpoints(tmp_path / "state", 2, {}, resume=True)

    with pytest.raises(KilledError):
        run(saved(), stop)
    for _ in range(2):  # the second has nothing left to do
        history = run(saved())
        for name, values in expected.metrics.items():
            np.testing.assert_array_equal(history.metrics[name], values)


def test_processes_that_see_different_folders_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "as_the_first_has", lambda step: np.array(24))
    with pytest.raises(
        CheckpointError, match=r"of step 0 .* that of 24: choose an --o"
    ):
        Checkpoints(tmp_path / "state", 5, {}, resume=True).restore({})


def damage(folder, how):
    older, step = sorted((folder / "checkpoints").iterdir(), key=lambda p: int(p.name))
    shutil.rmtree(older)
    if how == "foreign file":
        (folder / "checkpoints" / "thesis.tex").write_text("mine")
    elif how == "foreign folder":
        step.rename(step.with_name("model"))
    elif how == "empty":
        shutil.rmtree(step)
        step.mkdir()
    elif how == "other content":
        (step / "sha256.json").write_text("{}")
    else:
        file = {
            "flipped": max((step / "arrays" / "d").iterdir()),
            "truncated": step / "about.json",
            "cut off": step / "sha256.json",
            "missing": step / "arrays" / "_METADATA",
        }[how]
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content) if how == "flipped" else content[:-9])
        if how == "missing":
            file.unlink()


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in Path(folder).rglob("*")
    }


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "cut off",
        "flipped",
        "missing",
        "other content",
        "empty",
        "foreign file",
        "foreign folder",
    ],
)
def test_damage_gets_one_line_and_is_not_overwritten(
    how, undisturbed, tmp_path, monkeypatch, capfd
):
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    damage(out, how)
    before = contents(out)
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *COMMAND, "--out", out)
    assert stop.value.code == 2
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    assert str(out / "checkpoints") in line
    assert "choose another --out" in line
    assert printed.out == ""
    assert contents(out) == before


def test_every_file_of_a_checkpoint_counts(tmp_path):
    history = train(TASK, small_net, optax.sgd(0.1), SETTINGS)
    folder = tmp_path / "state"
    Checkpoints(folder, 1, {}, resume=True).save({"x": np.arange(99.0)}, history)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 4
    for file in files:
        content = file.read_bytes()
        for changed in (content[:-1], content[: len(content) // 2], content + b"\n\0"):
            file.write_bytes(changed)
            with pytest.raises(CheckpointError, match="damaged"):
                Checkpoints(folder, 1, {}, resume=True)
        file.write_bytes(content)
    Checkpoints(folder, 1, {}, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--optimizer", "sgd"], "optimizer is egd there and sgd here"),
        (["--seeds", "3"], "seeds is 2 there and 3 here"),
        (["--modulus", "11"], "modulus is 7 there and 11 here"),
        (["--no-resume"], "add --resume"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    change, message, undisturbed, monkeypatch, capsys
):
    before = contents(undisturbed)
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *COMMAND, *change, "--out", undisturbed)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert contents(undisturbed) == before


@pytest.mark.parametrize("optimizers", [("sgd", "adam"), ("adam", "sgd")])
def test_a_state_of_another_shape_is_refused(optimizers, tmp_path):
    one, other = (getattr(optax, name)(0.1) for name in optimizers)
    checkpoints = Checkpoints(tmp_path / "state", 30, {}, resume=True)
    train(TASK, small_net, one, SETTINGS, checkpoints=checkpoints)
    again = Checkpoints(tmp_path / "state", 30, {}, resume=True)
    with pytest.raises(CheckpointError, match="another model or optimizer"):
        train(TASK, small_net, other, SETTINGS, checkpoints=again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "--resume needs --checkpoint-every"),
        (["--checkpoint-every", "0"], "--checkpoint-every must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_named(arguments, message, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "train", "addition", *arguments, "--out", out)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_keys_and_nnx_states_come_back(tmp_path):
    state = nnx.state(small_net(nnx.Rngs(0)))
    members = {"key": jax.random.split(jax.random.key(3)), "state": state}
    history = train(TASK, small_net, optax.sgd(0.1), SETTINGS)
    Checkpoints(tmp_path / "state", 1, {}, resume=True).save(members, history)
    blank = jax.tree.map(lambda x: x[::-1], members)
    found, (metrics,), seconds = Checkpoints(
        tmp_path / "state", 1, {}, resume=True
    ).restore(blank)
    assert seconds == history.run_seconds
    assert jax.tree.structure(found) == jax.tree.structure(members)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(members), strict=True):
        assert a.dtype == b.dtype
        assert np.all(a == b)
    for name, values in history.metrics.items():
        np.testing.assert_array_equal(metrics[name], values)
