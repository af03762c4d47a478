"""What the search found, as pages show it."""

from benchmarks.evidence._families import FAMILIES, FINALISTS, TO_THE_END
from benchmarks.evidence._searched import searched
from benchmarks.evidence._starting_points import HEAD, WITHIN, starting_points
from benchmarks.evidence._summary import ASKED_FOR
from benchmarks.shared import markdown

_FOLDER = "../benchmarks/evidence/results/search"


def searches() -> str:
    """What each family's search found, and what tuning costs there."""
    parts = []
    for family, search in FAMILIES.items():
        found = searched(family)
        if not found:
            continue
        problems = ", ".join(problem.task.name for problem in search.problems)
        parts += [
            f"### {family}",
            f"{problems}. Of each method {search.trials} quasi-random trials, and "
            f"{search.refined} near its best, up to {search.budgets[0]} steps, one "
            f"seed. Then up to {FINALISTS[family]} of the best, no two of which took "
            "the same steps, with three other seeds; the table has the best of them, "
            f"medians of the steps {_counted(family)} "
            f"([all trials]({_FOLDER}/{family}/trials.csv)).",
            markdown([list(found[0]), *(list(line.values()) for line in found)]),
            f"![Expected best after so many trials]({_FOLDER}/{family}/tune.png)",
        ]
    return "\n\n".join(parts) + "\n" if parts else ""


def _counted(family: str) -> str:
    if family in TO_THE_END:
        return (
            "from which accuracy held until the end, and the geometric mean over "
            "problems and seeds"
        )
    return "to the threshold and their geometric mean"


def start_table() -> str:
    """Of the families that were searched, where to start."""
    lines = [
        line
        for family in FAMILIES
        if searched(family)
        for line in starting_points(family, ASKED_FOR)
    ]
    if not lines:
        return "No family is searched to its end yet."
    return (
        "What it found for each family of problems, and in brackets the range of it "
        f"and of the trials (one seed) that came within {WITHIN} times the best, with "
        "the transformer by the steps from which accuracy held until the end. *Solved "
        "all* is how many of the trials got there on every problem of the family; "
        "where it is none, the setting is the best of those that missed one:\n\n"
        f"{markdown([HEAD, *lines])}"
    )
