"""Finished runs, read back from their folders."""

import csv
import dataclasses
import json
from pathlib import Path

from egd_optax.grokking.training.history import History, from_json_lines

_DAMAGED = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError),
    RecursionError,  # of thousands of brackets
)


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
        if not all(isinstance(words, str) for words in (title, command, *about)):
            raise TypeError
        path = folder / "history.jsonl"
        histories = from_json_lines(path.read_text(encoding="utf-8"))
        path = folder / "summary.csv"
        summary = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        if not histories or histories.keys() != {row["optimizer"] for row in summary}:
            raise ValueError
        for row in summary:
            float(row["final_test_accuracy_median"]), int(row["steps_run"])
            for kind in ("first", "sustained"):
                float(row[f"{kind}_steps_median"] or "inf")  # nothing: not reached
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
