"""Writes the tables of docs/performance.md from what is in results/.

python benchmarks/speed/_performance_page.py
"""

from pathlib import Path

from benchmarks.shared import markdown, read_table, with_part

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
WHITENING_LINES = 24  # a condition number each of the shapes that matter most
# What a column of the file is called on the page; others are in the file alone.
TABLES = {
    "whitening": {
        "m": "rows",
        "n": "columns",
        "condition": "condition number",
        "error_eigh": "error",
        "error_svd": "error of the SVD",
        "rounded_right": "entries rounded right",
        "ms_eigh": "ms",
        "ms_svd": "ms of the SVD",
    },
    "products": {
        "condition": "condition number",
        "steps": "steps",
        "error": "error",
        "error_svd": "error of the SVD",
        "error_half_rank": "error at half the rank",
        "error_cheap": "error of the cheap mode",
    },
    "overhead": {
        "model": "model",
        "step": "step",
        "ms": "ms",
        "ratio": "ratio",
        "to": "to",
        "compile s": "seconds to compile",
    },
    "sweep": {
        "seeds": "seeds",
        "seeds are": "the seeds are",
        "ms a step": "ms a step",
        "time": "time, one seed = 1",
        "seeds/s": "runs a second",
    },
    "start": {
        "optimizer": "optimizer",
        "cache": "cache",
        "whole s": "start to finish",
        "import s": "import",
        "compile s": "compile",
        "run s": "run",
        "rest s": "rest",
    },
    "busy": {"cores": "cores", "set": "set", "ms": "ms an update", "ratio": "ratio"},
    "sweep-devices": {
        "devices": "devices",
        "seeds": "seeds",
        "runs/min": "runs a minute",
    },
}


def written_page() -> str:
    """The page's text, as the results have it."""
    text = PAGE.read_text()
    for name, columns in TABLES.items():
        rows = read_table(RESULTS / f"{name}.csv")
        if name == "whitening":
            rows = rows[:WHITENING_LINES]
        cells = [[row[c] or "not reached" for c in columns] for row in rows]
        text = with_part(text, name, markdown([columns.values(), *cells]))
    return text


if __name__ == "__main__":
    PAGE.write_text(written_page())
    print(f"written: {PAGE}")
