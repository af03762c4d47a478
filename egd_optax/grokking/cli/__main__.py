"""``python -m egd_optax.grokking.cli``."""

from egd_optax.grokking.cli import main

main()
