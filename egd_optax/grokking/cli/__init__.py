"""The command ``egd-grok``."""

from egd_optax.grokking.cli.commands import main

__all__ = ["main"]
