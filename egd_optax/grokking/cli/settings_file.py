"""Settings that a search found, read from its best.json."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egd_optax.grokking.recipes import RECIPES, settings_from_json


def read_settings(path: Path) -> dict[str, dict[str, float]]:
    """The settings of each optimizer in the file.

    Raises:
      ValueError: the file cannot be read or is no best.json, or has settings that its
        optimizer does not take.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        named = {
            name: settings_from_json(x["settings"])
            for name, x in found["optimizers"].items()
        }
    except OSError as error:
        raise ValueError(
            f"settings must be a file, got {path}: {error.strerror}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"settings must be a best.json of egd-grok tune, and {path} is none"
        ) from error
    if not named:
        raise ValueError(f"settings must name optimizers, and {path} names none")
    for name, settings in named.items():
        _check(path, name, settings)
    return named


def remarks(path: Path, task: str, model: str) -> list[str]:
    """What speaks against running the settings of a file that was read before."""
    found = json.loads(path.read_text(encoding="utf-8"))
    said = []
    for problem in found.get("problems", ()):
        if (problem["task"], problem["model"]) != (task, model):
            said.append(
                f"{path} is of another problem, {problem['task']}, {problem['model']}"
            )
    for name, about in found["optimizers"].items():
        if about.get("solved") is False:
            said.append(f"{path}: no trial of {name} got there")
    return said


def _check(path: Path, name: str, settings: Mapping[str, Any]) -> None:
    space = RECIPES[name].space if name in RECIPES else {}
    if not space:
        tuned = (n for n, recipe in RECIPES.items() if recipe.space)
        raise ValueError(
            f"{path} has settings of {name!r}, which has none to set: choose among "
            f"{', '.join(tuned)}"
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
