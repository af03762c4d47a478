"""One of the processes of a job, or the only one; test_distributed.py starts them."""

import sys

import jax
from jax.experimental import multihost_utils

from egd_optax.grokking.cli import main

folder, *distributed = sys.argv[1:]
small = (
    *("addition", "--modulus", "7", "--width", "16", "--batch-size", "8"),
    *("--max-steps", "30", *distributed),
)
train = (
    "train",
    *small,
    "--seeds",
    "3",
    "--optimizer",
    "columns",
    "--checkpoint-every",
    "10",
)
tune = ("tune", *small, "--seeds", "1", "--optimizers", "columns")
phase = ("phase", *small, "--seeds", "1", "--optimizers", "sgd")
grid = ("--x", "label-noise", "0", "0.4", "2", "--y", "corrupted-labels", "0", "0.4")
for name, command in (
    ("race", ("race", *small, "--seeds", "3", "--optimizers", "sgd", "columns")),
    ("train", train),
    ("train", (*train, "--resume")),
    ("tune", (*tune, "--trials", "2")),
    ("tune", (*tune, "--trials", "3")),  # the first two are there
    ("phase", (*phase, *grid, "2")),
    ("phase", (*phase, *grid, "2")),
):
    if distributed and jax.distributed.is_initialized():
        # A command begins when the one before has ended, in all processes.
        multihost_utils.sync_global_devices("command")
    sys.argv = ["egd-grok", *command, "--out", f"{folder}/{name}"]
    main()
