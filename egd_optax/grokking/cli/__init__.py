"""The command ``egd-grok``."""

import contextlib
import os
import sys

from egd_optax.grokking.cli import commands

__all__ = ["main"]


def main() -> None:
    """Runs the command line and ends the process: :func:`commands.main`."""
    try:
        commands.main()
    except SystemExit as stop:
        if stop.code != commands.INTERRUPTED:
            raise
        # XLA may still compute, and crashes in what a usual exit takes away.
        with contextlib.suppress(OSError):  # a pipe that the same Ctrl-C has closed
            sys.stdout.flush()
        os._exit(commands.INTERRUPTED)
