"""``python -m egd_optax.grokking.cli``."""

from egd_optax.grokking.cli.commands import main

main()
