"""Named optimizers: as their sources ran them, and as a search on equal terms set them.

A tuned recipe has a setting for each family of problems, found by
``benchmarks/evidence/search.py`` on development problems whose results are not
reported; they are in ``tuned.json``, the ranges in ``spaces.py``. Recipes as published
end in ``-paper``, but for the plain optimizers of the papers, ``sgd`` and ``adam``.
``egd-auto`` and ``egd-constant`` have no settings at all.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, get_args

import optax

import egd_optax
from egd_optax.grokking.methods import directions, published, tuned
from egd_optax.grokking.problems.problem import Family, Problem
from egd_optax.grokking.spaces import SPACES, Space


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An optimizer, and its settings for each family of problems that it serves."""

    build: Callable[..., optax.GradientTransformation]  # of the problem and settings
    settings: Mapping[str, Mapping[str, Any]]  # by family
    source: str  # who ran it so
    # What a search may set; nothing, where all is its source's.
    space: Space = dataclasses.field(default_factory=dict)

    def make(self, problem: Problem) -> optax.GradientTransformation:
        """The optimizer with the settings for this problem's family.

        Raises:
          KeyError: the recipe does not serve the family.
        """
        return self.build(problem, **self.settings[problem.family])


def recipes_for(problem: Problem) -> tuple[str, ...]:
    """Names of the recipes that serve a problem's family, the baseline first."""
    return tuple(
        name for name, recipe in RECIPES.items() if problem.family in recipe.settings
    )


def baseline(problem: Problem) -> str:
    """The recipe that others are compared with: the plain optimizer of the source."""
    return "sgd" if problem.family in RECIPES["sgd"].settings else "adam"


def settings_from_json(settings: Mapping[str, float | None]) -> dict[str, float]:
    """Settings as JSON has them, which knows no infinity."""
    return {name: math.inf if x is None else x for name, x in settings.items()}


def settings_to_json(settings: Mapping[str, float]) -> dict[str, float | None]:
    """The other way round."""
    return {name: None if math.isinf(x) else x for name, x in settings.items()}


def _published() -> dict[str, Recipe]:
    egd, grokfast = (
        "Saheb Pasand and Dohmatob, arXiv 2510.04930, released code",
        "Lee et al., arXiv 2405.20233",
    )
    nets: dict[str, dict[str, Any]] = {"modular": {}, "parity": {}}
    others: dict[str, dict[str, Any]] = {"transformer": {}, "mnist": {}}
    return {
        "sgd": Recipe(
            lambda problem: published.in_front_of_plain(problem, optax.identity()),
            nets,
            f"{egd}: its learning rates, coupled L2",
        ),
        "adam": Recipe(
            lambda problem: published.in_front_of_plain(problem, optax.identity()),
            others,
            f"{grokfast}: Adam, learning rate 1e-3",
        ),
        "adamw-paper": Recipe(
            published.adamw,
            {"transformer": {"weight_decay": 1.0, "warmup_steps": 10}},
            "Power et al., arXiv 2201.02177; Nanda et al., arXiv 2301.05217: AdamW, "
            "learning rate 1e-3, decay 1",
        ),
        "column-norm-paper": Recipe(
            lambda problem: published.in_front_of_plain(
                problem, egd_optax.normalize_by_column_norm()
            ),
            nets,
            f"{egd}: first matrix column-normalized",
        ),
        "egd-paper": Recipe(
            published.egd, nets | others, f"{egd}: some matrices whitened"
        ),
        "egd-rsvd-paper": Recipe(
            published.egd_rsvd,
            {
                "modular": {"rank": 128},
                "parity": {"rank": 30},
                "transformer": {"rank": 36},
                "mnist": {"rank": 4},
            },
            f"{egd}: the same by a randomized SVD, rank as published",
        ),
        "grokfast-paper": Recipe(
            published.grokfast_ema,
            {
                "transformer": {"weight_decay": 0.005, "alpha": 0.98, "lamb": 2.0},
                "mnist": {
                    "weight_decay": 2.0,
                    "alpha": 0.8,
                    "lamb": 0.1,
                    "decoupled": True,
                },
            },
            f"{grokfast}: moving average, Adam with coupled L2; AdamW for MNIST",
        ),
        "grokfast-ma-paper": Recipe(
            published.grokfast_ma,
            {"transformer": {"weight_decay": 0.01, "window_size": 100, "lamb": 5.0}},
            f"{grokfast}: window, Adam with coupled L2",
        ),
        "delayed-frobenius-paper": Recipe(
            published.delayed_frobenius,
            {"transformer": {"strength": 0.01, "threshold": 0.99}},
            "A Simple Method for Accelerating Grokking: Adam, penalty once memorized",
        ),
        "clipped-rows-paper": Recipe(
            published.clipped_rows,
            {"transformer": {"learning_rate": 1e-3, "b2": 0.97, "max_norm": 2.0}},
            "Clip to Grok, released code: Lion, each unit's weights clipped to norm 2",
        ),
    }


# How each tuned method is built, and what it is.
_BUILDERS: dict[str, tuple[Callable[..., Any], str]] = {
    "egd": (tuned.egd, "this package: all matrices whitened"),
    "five-steps": (
        functools.partial(tuned.egd, directions.five_steps),
        "the same with Muon's five rough Newton–Schulz steps (Jordan, 2024)",
    ),
    "randomized": (
        tuned.randomized_egd,
        "the same with the leading directions alone, by a randomized SVD",
    ),
    "columns": (
        functools.partial(tuned.egd, directions.columns),
        "the same with each output unit's gradient to unit norm",
    ),
    "rows": (
        functools.partial(tuned.egd, directions.rows),
        "the same with each input's gradient to unit norm",
    ),
    "frobenius": (
        functools.partial(tuned.egd, directions.frobenius),
        "the same with each matrix's gradient to unit norm",
    ),
    "sign": (
        functools.partial(tuned.egd, directions.sign),
        "the same with the sign of each entry",
    ),
    "momentum": (
        functools.partial(tuned.egd, directions.plain),
        "the same with the gradient as it is: SGD with Nesterov momentum",
    ),
    "muon": (tuned.muon, "optax.contrib.muon"),
    "adamw": (tuned.adamw, "AdamW"),
    "lion": (tuned.lion, "Chen et al., arXiv 2302.06675: Lion"),
    "grokfast-ema": (
        tuned.grokfast_ema,
        "Lee et al., arXiv 2405.20233: Grokfast by moving average, then AdamW",
    ),
    "grokfast-ma": (
        tuned.grokfast_ma,
        "Lee et al., arXiv 2405.20233: Grokfast by window, then AdamW",
    ),
    "delayed-frobenius": (
        tuned.delayed_frobenius,
        "A Simple Method for Accelerating Grokking: AdamW, Frobenius penalty once "
        "memorized",
    ),
    "nuclear-norm": (
        tuned.delayed_nuclear_norm,
        "the same source's first try: nuclear norm, once memorized",
    ),
    "log-det": (
        tuned.delayed_log_det,
        "the same source: log det, once memorized",
    ),
    "orthogonal-gradient": (
        tuned.orthogonal_gradient,
        "Prieto et al., arXiv 2501.04697: ⊥Grad before AdamW",
    ),
    "clipped-rows": (
        tuned.clipped_rows,
        "Clip to Grok: each unit's incoming weights clipped, after AdamW or Lion",
    ),
}


def _tuned() -> dict[str, Recipe]:
    file = resources.files("egd_optax.grokking") / "tuned.json"
    by_family = json.loads(file.read_text(encoding="utf-8"))

    def recipe(name: str) -> Recipe:
        build, source = _BUILDERS[name]
        settings = {
            family: settings_from_json(found[name])
            for family, found in by_family.items()
            if name in found
        }
        return Recipe(
            lambda problem, **chosen: build(**chosen), settings, source, SPACES[name]
        )

    return {name: recipe(name) for name in _BUILDERS}


def _untuned() -> dict[str, Recipe]:
    every: dict[str, dict[str, Any]] = {family: {} for family in get_args(Family)}
    numbers = egd_optax.flax_dimension_numbers

    def recipe(rate: float | None, source: str) -> Recipe:
        return Recipe(
            lambda problem: egd_optax.egd(rate, weight_dimension_numbers=numbers),
            every,
            source,
        )

    return {
        "egd-auto": recipe(None, "this package: `egd()`, the same for every problem"),
        "egd-constant": recipe(0.05, "this package: `egd(0.05)`, all else as it comes"),
    }


RECIPES = _published() | _untuned() | _tuned()
PUBLISHED = tuple(_published())
TUNED = tuple(name for name, recipe in RECIPES.items() if recipe.space)

# What `egd-grok race` runs unless told otherwise: a picture with all is unreadable.
SHOWN = (
    "sgd",
    "adam",
    "egd-paper",
    "egd-auto",
    "egd",
    "columns",
    "muon",
    "grokfast-ema",
    "delayed-frobenius",
    "adamw",
)
