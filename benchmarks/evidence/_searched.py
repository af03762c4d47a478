"""What the search found, from its committed tables."""

from benchmarks.evidence._cells import RESULTS
from benchmarks.shared import read_table

FINALISTS_OF_RACES = 5


def searched(family: str) -> list[dict[str, str]]:
    """Lines of the table of a family's search, the best first; none: not searched."""
    return read_table(RESULTS / f"search-{family}.csv")


def best_searched(family: str) -> list[str]:
    """Names of those that can be among the first in a race."""
    return [line["optimizer"] for line in searched(family)[:FINALISTS_OF_RACES]]
