"""Finished runs, read back from their folders."""

import csv
import dataclasses
import json
from pathlib import Path

from egd_optax.grokking.training.history import History, from_json_lines

_DAMAGED = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError),
    ArithmeticError,  # of numbers that are too large, or zero
    RecursionError,  # of thousands of brackets
    csv.Error,
)
# What a page shows of the summary; the latter are empty where a run did not get there.
_NUMBERS = ("final_test_accuracy_median", "run_seconds", "compile_seconds")
_REACHED = ("first_steps_median", "sustained_steps_median")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a command left in a folder."""

    folder: Path
    title: str
    threshold: float
    command: str
    about: str  # device and versions
    histories: dict[str, History]
    summary: list[dict[str, str]]


def read_run(folder: Path) -> Run:
    """The run that ``race`` or ``train`` left in a folder.

    Raises:
      ValueError: there is none, or its files are damaged; one line says which.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        about = [config["device"], *map(" ".join, config["versions"].items())]
        title, command = config["title"], config["typed"]
        threshold = float(config["threshold"])
        if not 0 < threshold <= 1:
            raise ValueError
        for words in (title, command, *about):
            words.encode()  # a page cannot have bytes of no character
        path = folder / "history.jsonl"
        histories = from_json_lines(path.read_text(encoding="utf-8"))
        for history in histories.values():
            "".join(history.metrics).encode()
        path = folder / "summary.csv"
        summary = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        if not histories or histories.keys() != {row["optimizer"] for row in summary}:
            raise ValueError
        for row in summary:
            int(row["steps_run"])
            for name in _NUMBERS:
                float(row[name])
            for name in _REACHED:
                float("inf" if row[name] == "" else row[name])
    except OSError as error:
        raise ValueError(
            f"{folder} has no finished run of egd-grok race or train: "
            f"{path.name}: {error.strerror}"
        ) from error
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is damaged, or of another version: run the command again"
        ) from error
    return Run(folder, title, threshold, command, ", ".join(about), histories, summary)
