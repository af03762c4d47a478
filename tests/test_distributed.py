"""The command line as several processes that share the work."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from egd_optax.grokking.cli import commands as cli

SCRIPT = Path(__file__).parent / "commands_of_a_job.py"
LEFT = {
    "race": ("history.jsonl", "summary.csv", "race.png", "report.html"),
    "train": ("history.jsonl", "summary.csv", "race.png", "report.html"),
    "tune": ("trials.csv", "best.json", "tune.png"),
    "phase": ("cells.csv", "phase.png"),
}


def job(folder, rank, port):
    """One of two processes, as SLURM starts them on one machine."""
    slurm = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "JAX_COORDINATOR_PORT": str(port),
    }
    return started([folder, "--distributed"], slurm)


def started(arguments, environment=()):
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])} | dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone, together = tmp_path / "alone", tmp_path / "together"
    processes = [started([alone]), *(job(together, rank, port) for rank in (0, 1))]
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert "Pictures and data" in said[1][0]
    assert "a + b mod 7" not in said[2][0]  # the first alone reports
    for command, files in LEFT.items():
        for file in files:
            assert (together / command / file).stat().st_size
    for command in ("race", "train"):
        one, two = (
            [
                json.loads(line)["test_loss"]
                for line in (folder / command / "history.jsonl").read_text().split("\n")
                if line
            ]
            for folder in (alone, together)
        )
        np.testing.assert_allclose(one, two, rtol=1e-4)
    for table in ("tune/trials.csv", "phase/cells.csv"):
        one, two = ((folder / table).read_text() for folder in (alone, together))
        assert one == two


def test_a_process_without_a_job_is_told(monkeypatch, capsys):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JAX_COORD")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["egd-grok", "race", "addition", "--distributed"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--distributed takes a process that SLURM" in said
