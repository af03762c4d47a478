"""Same seed, same machine, same numbers."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from egd_optax.grokking.problems.problem import modular
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.training.run import train

PROBLEM = modular("addition", 7, width=16)
# Whitening, a random sketch, Adam, a switch.
NAMES = ["egd", "egd-rsvd-paper", "adamw", "delayed-frobenius"]


def run(name, seeds=(0, 1), max_steps=30):
    settings = dataclasses.replace(
        PROBLEM.settings, seeds=seeds, max_steps=max_steps, batch_size=8
    )
    optimizer = RECIPES[name].make(PROBLEM)
    return train(PROBLEM.task, PROBLEM.make_model, optimizer, settings)


def digest(name):
    """Of all metrics of a run, to the last bit."""
    metrics = run(name).metrics
    together = b"".join(np.ascontiguousarray(metrics[k]) for k in sorted(metrics))
    return hashlib.sha256(together).hexdigest()


@pytest.mark.slow
def test_another_process_finds_the_same_bits():
    program = "import sys, test_determinism as t; print(*map(t.digest, sys.argv[1:]))"
    answer = subprocess.run(
        [sys.executable, "-c", program, *NAMES],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == [digest(name) for name in NAMES]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_seeds_under_vmap_find_what_each_finds_alone(name, monkeypatch):
    alone = [run(name, (seed,), max_steps=12) for seed in (0, 1)]
    # Where there is no CPU, training takes the seeds under vmap.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = run(name, max_steps=12)
    for metric in ("train_loss", "test_loss"):
        values = [history.metrics[metric][:, 0] for history in alone]
        np.testing.assert_allclose(
            together.metrics[metric], np.stack(values, axis=1), rtol=1e-5
        )
