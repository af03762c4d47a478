"""Settings that a search found, read from its best.json."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from egd_optax.grokking.problems.problem import Problem
from egd_optax.grokking.recipes import RECIPES, TUNED, settings_from_json


@dataclasses.dataclass(frozen=True)
class SettingsFile:
    """What is in a best.json."""

    path: Path = Path()
    settings: Mapping[str, Mapping[str, float]] = dataclasses.field(
        default_factory=dict
    )
    problems: Sequence[tuple[str, str]] = ()  # task and model
    unsolved: Sequence[str] = ()  # optimizers

    def remarks(self, problem: Problem) -> list[str]:
        """What speaks against running the settings on a problem."""
        here = problem.task.name, problem.model_name
        return [
            f"{self.path} is of another problem, {task}, {model}"
            for task, model in self.problems
            if (task, model) != here
        ] + [f"{self.path}: no trial of {name} got there" for name in self.unsolved]


def read_settings(path: Path) -> SettingsFile:
    """The settings of each optimizer in a file, and where they come from.

    Raises:
      ValueError: the file cannot be read or is no best.json, or has settings that its
        optimizer does not take.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        optimizers = found["optimizers"]
        read = SettingsFile(
            path,
            {name: settings_from_json(x["settings"]) for name, x in optimizers.items()},
            [(x["task"], x["model"]) for x in found.get("problems", ())],
            [name for name, x in optimizers.items() if x.get("solved") is False],
        )
    except OSError as error:
        raise ValueError(
            f"settings must be a file, got {path}: {error.strerror}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"settings must be a best.json of egd-grok tune, and {path} is none"
        ) from error
    if not read.settings:
        raise ValueError(f"settings must name optimizers, and {path} names none")
    for name, settings in read.settings.items():
        _check(path, name, settings)
    return read


def _check(path: Path, name: str, settings: Mapping[str, Any]) -> None:
    space = RECIPES[name].space if name in RECIPES else {}
    if not space:
        raise ValueError(
            f"{path} has settings of {name!r}, which has none to set: choose among "
            f"{', '.join(TUNED)}"
        )
    for setting in settings.keys() ^ space.keys():
        where = "has no" if setting in space else "does not take the"
        raise ValueError(f"{path}: {name} {where} setting {setting!r}")
    for setting, value in settings.items():
        if not _is_number(value) or not space[setting].accepts(value):
            raise ValueError(
                f"{path}: {name}'s {setting} must be {space[setting].wanted}, got "
                f"{'null' if value == math.inf else repr(value)[:60]}"
            )


def _is_number(value: Any) -> bool:
    # A whole number of hundreds of digits is no number that can be computed with.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63
