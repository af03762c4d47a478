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
        found = json.loads(path.read_text(encoding="utf-8"))["optimizers"]
        named = {name: settings_from_json(x["settings"]) for name, x in found.items()}
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
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{path}: {name}'s {setting} is no number, but {value!r}")
        # Decays are given by the share that a step takes, and divided by its length.
        if math.isnan(value) or (setting.endswith("learning_rate") and value <= 0):
            raise ValueError(f"{path}: {name}'s {setting} is above 0, not {value!r}")
