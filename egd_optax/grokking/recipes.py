"""Named optimizers: each method as its source ran it, and our own.

Most sources ran one family of problems only. Where a method's own settings fail on
another family, or a baseline has none, settings are those that generalize soonest on
development problems, whose results are not reported
(``benchmarks/evidence/development.py``).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import optax

import egd_optax
from egd_optax.grokking import methods
from egd_optax.grokking.problems.problem import Problem


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An optimizer, and its settings for each family of problems that it serves."""

    build: Callable[..., optax.GradientTransformation]  # of the problem and settings
    settings: Mapping[str, Mapping[str, Any]]  # by family
    source: str  # who ran it so

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


_EGD_PAPER = "Saheb Pasand and Dohmatob, arXiv 2510.04930, released code"

RECIPES = {
    "sgd": Recipe(
        lambda problem: methods.in_front_of_plain(problem, optax.identity()),
        {"modular": {}, "parity": {}},
        f"{_EGD_PAPER}: its learning rates, coupled L2",
    ),
    "adam": Recipe(
        lambda problem: methods.in_front_of_plain(problem, optax.identity()),
        {"transformer": {}, "mnist": {}},
        "Lee et al., arXiv 2405.20233: Adam, learning rate 1e-3",
    ),
    "column-norm": Recipe(
        lambda problem: methods.in_front_of_plain(
            problem, egd_optax.normalize_by_column_norm()
        ),
        {"modular": {}, "parity": {}},
        f"{_EGD_PAPER}: first matrix column-normalized",
    ),
    "egd-paper": Recipe(
        methods.egd_paper,
        {"modular": {}, "parity": {}, "transformer": {}, "mnist": {}},
        f"{_EGD_PAPER}: some matrices whitened",
    ),
    "egd-rsvd": Recipe(
        methods.egd_rsvd,
        {
            "modular": {"rank": 128},
            "parity": {"rank": 30},
            "transformer": {"rank": 36},
            "mnist": {"rank": 4},
        },
        f"{_EGD_PAPER}: the same by a randomized SVD, rank as published",
    ),
    "egd": Recipe(
        methods.egd,
        {
            "modular": {"learning_rate": 1.0, "adam_learning_rate": 0.001},
            "parity": {
                "learning_rate": 0.15,
                "adam_learning_rate": 0.1,
                "halving_steps": 300,
                "momentum": 0.93,
                "first_shrinkage": 0.045,
                "late_bias_decay": 0.7,
            },
            "transformer": {
                "learning_rate": 0.05,
                "adam_learning_rate": 0.001,
                "halving_steps": 150,
                "momentum": 0.9,
                "first_shrinkage": 0.025,
            },
            "mnist": {
                "learning_rate": 0.1,
                "adam_learning_rate": 0.01,
                "halving_steps": 50,
                "first_shrinkage": 0.12,
            },
        },
        "this package: all matrices whitened, decoupled decay, learning rate in 1/t",
    ),
    "grokfast-ema": Recipe(
        methods.grokfast_ema,
        {
            "modular": {"learning_rate": 0.03, "weight_decay": 0.002},
            "parity": {"learning_rate": 0.01, "weight_decay": 0.002},
            "transformer": {"learning_rate": 0.001, "weight_decay": 0.005},
            "mnist": {
                "learning_rate": 0.001,
                "weight_decay": 2.0,
                "alpha": 0.8,
                "lamb": 0.1,
                "decoupled": True,
            },
        },
        "Lee et al., arXiv 2405.20233: Adam with coupled L2; AdamW for MNIST",
    ),
    "grokfast-ma": Recipe(
        methods.grokfast_ma,
        {
            "modular": {
                "learning_rate": 0.01,
                "weight_decay": 0.002,
                "window_size": 10,
            },
            "parity": {"learning_rate": 0.01, "weight_decay": 0.002, "window_size": 10},
            "transformer": {
                "learning_rate": 0.001,
                "weight_decay": 0.01,
                "window_size": 100,
            },
        },
        "Lee et al., arXiv 2405.20233: Adam with coupled L2",
    ),
    "delayed-frobenius": Recipe(
        methods.delayed_frobenius,
        {
            "modular": {"learning_rate": 0.05, "strength": 3e-4},
            "parity": {"learning_rate": 0.05, "strength": 1e-4},
            "transformer": {"learning_rate": 0.001, "strength": 0.01},
        },
        "A Simple Method for Accelerating Grokking: penalty from 99 % train accuracy",
    ),
    "nuclear-norm": Recipe(
        methods.delayed_nuclear_norm,
        {
            "modular": {"learning_rate": 0.05, "strength": 1e-3},
            "parity": {"learning_rate": 0.05, "strength": 1e-3},
            "transformer": {"learning_rate": 0.001, "strength": 0.01},
        },
        "the same source's first try: nuclear norm, from 99 % train accuracy",
    ),
    "log-det": Recipe(
        methods.delayed_log_det,
        {
            "modular": {"learning_rate": 0.05, "strength": 1e-3},
            "parity": {"learning_rate": 0.05, "strength": 1e-3},
            "transformer": {"learning_rate": 0.001, "strength": 0.01},
        },
        "the same source: log det, from 99 % train accuracy",
    ),
    "orthogonal-gradient": Recipe(
        methods.orthogonal_gradient,
        {
            "modular": {"learning_rate": 0.03},
            "parity": {"learning_rate": 0.01},
            "transformer": {"learning_rate": 0.001},
        },
        "Prieto et al., arXiv 2501.04697: ⊥Grad before Adam",
    ),
    "clipped-rows": Recipe(
        methods.clipped_rows,
        {
            "modular": {"learning_rate": 0.03, "max_norm": 2.0},
            "parity": {"learning_rate": 0.03, "max_norm": 2.0},
            "transformer": {"learning_rate": 0.001, "max_norm": 2.0},
        },
        "clip to grok: each unit's incoming weights clipped to norm 2, after Adam",
    ),
    "muon": Recipe(
        methods.muon,
        {
            "modular": {"learning_rate": 0.1, "weight_decay": 0.3},
            "parity": {"learning_rate": 0.03, "weight_decay": 0.3},
            "transformer": {"learning_rate": 0.02, "weight_decay": 1.0},
            "mnist": {"learning_rate": 0.1, "weight_decay": 1.0},
        },
        "optax.contrib.muon",
    ),
    "adamw": Recipe(
        methods.adamw,
        {
            "modular": {"learning_rate": 0.1, "weight_decay": 1.0},
            "parity": {"learning_rate": 0.03, "weight_decay": 0.1},
            "transformer": {"learning_rate": 0.003, "weight_decay": 2.0},
            "mnist": {"learning_rate": 0.003, "weight_decay": 3.0},
        },
        "AdamW",
    ),
}

# What `egd-grok race` runs unless told otherwise: a picture with all is unreadable.
SHOWN = (
    "sgd",
    "adam",
    "column-norm",
    "egd-paper",
    "egd",
    "grokfast-ema",
    "delayed-frobenius",
    "adamw",
)
