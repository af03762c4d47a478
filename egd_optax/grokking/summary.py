"""The table of a race: one row a method, medians and ranges over the seeds."""

import csv
import io
import math
from collections.abc import Mapping

import numpy as np
from rich.table import Table

from egd_optax.grokking.tables import terminal_table
from egd_optax.grokking.training.history import Crossing, History


def summary_csv(
    histories: Mapping[str, History], threshold: float, *, baseline: str
) -> str:
    """The summary as CSV; a field is empty where the threshold was not reached."""
    rows = []
    for name, history in histories.items():
        row: dict[str, object] = {"optimizer": name, "seeds": len(history.seeds)}
        crossings = {
            "first": history.first_crossing(threshold),
            "sustained": history.sustained_crossing(threshold),
        }
        for kind, crossing in crossings.items():
            for unit, counted in ("steps", crossing), ("epochs", crossing.epochs):
                low, high = counted.range
                row[f"{kind}_{unit}_median"] = _finite(counted.median)
                row[f"{kind}_{unit}_low"] = _finite(low)
                row[f"{kind}_{unit}_high"] = _finite(high)
        final = history.final()
        row |= {
            "final_test_accuracy_median": round(float(np.median(final)), 5),
            "final_test_accuracy_low": round(float(np.min(final)), 5),
            "final_test_accuracy_high": round(float(np.max(final)), 5),
            "steps_run": int(history.steps[-1]),
            "compile_seconds": round(history.compile_seconds, 2),
            "run_seconds": round(history.run_seconds, 2),
            "times_fewer_steps": speedup(name, histories, threshold, baseline),
        }
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def summary_table(
    histories: Mapping[str, History], *, title: str, threshold: float, baseline: str
) -> Table:
    """The summary for a terminal."""
    seeds = len(next(iter(histories.values())).seeds)
    caption = (
        f"Median over {seeds_in_words(seeds)} (range). First: {threshold:.0%} test "
        "accuracy reached; sustained: never below again. Final: test accuracy at the "
        "last step. Seconds: run + compilation, all seeds."
    )
    compared = baseline in histories and len(histories) > 1
    if compared:
        caption += f" vs {baseline}: times fewer steps, first crossing."
    headers = ["steps, first", "sustained", "epochs", "final", "seconds"]
    headers += [f"vs {baseline}"] * compared
    table = terminal_table(headers, title=title, caption=caption)
    for name, history in histories.items():
        first = history.first_crossing(threshold)
        sustained = history.sustained_crossing(threshold)
        last = int(history.steps[-1])
        row = [
            name,
            _steps(first, last),
            _steps(sustained, last),
            f"{_epochs(first)}/{_epochs(sustained)}",
            f"{100 * np.median(history.final()):.1f}%",
            f"{history.run_seconds:.0f}+{history.compile_seconds:.0f}",
        ]
        if compared:
            row.append(speedup(name, histories, threshold, baseline) or "–")
        table.add_row(*row)
    return table


def seeds_in_words(count: int) -> str:
    """How many seeds, as titles and captions say it."""
    return f"{count} seed" if count == 1 else f"{count} seeds"


def speedup(
    name: str, histories: Mapping[str, History], threshold: float, baseline: str
) -> str:
    """How many times fewer steps than the baseline; a bound if it did not get there."""
    if baseline not in histories or name == baseline:
        return ""
    steps = histories[name].first_crossing(threshold).median
    reference = histories[baseline].first_crossing(threshold).median
    if not math.isfinite(steps):
        return ""
    if math.isfinite(reference):
        return f"{reference / steps:.1f}"
    return f">{histories[baseline].steps[-1] / steps:.1f}"


def _steps(crossing: Crossing, last: int) -> str:
    if not math.isfinite(crossing.median):
        return f"not within {last}"
    low, high = crossing.range
    if low == high:
        return f"{crossing.median:.0f}"
    top = f"{high:.0f}" if math.isfinite(high) else f">{last}"
    return f"{crossing.median:.0f} ({low:.0f}–{top})"


def _epochs(crossing: Crossing) -> str:
    median = crossing.epochs.median
    return f"{median:.0f}" if math.isfinite(median) else "–"


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else ""
