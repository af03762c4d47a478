"""What the search found, from its committed tables."""

import csv
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
FINALISTS_OF_RACES = 5


def searched(family: str) -> list[dict[str, str]]:
    """Lines of the table of a family's search, the best first; none: not searched."""
    path = RESULTS / f"search-{family}.csv"
    if not path.exists():
        return []
    _, *lines = path.read_text().splitlines()
    return list(csv.DictReader(lines))


def best_searched(family: str) -> list[str]:
    """Names of those that can be among the first in a race."""
    return [line["optimizer"] for line in searched(family)[:FINALISTS_OF_RACES]]
