"""Named optimizers: each method as its source ran it, and our own.

Most sources ran one family of problems only. Where a method's own settings fail on
another family, or a baseline has none, settings are those that generalize soonest on
development problems, whose results are not reported (``benchmarks/development.py``).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

import egd_optax
from egd_optax.grokking.problems import Problem


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


# Every matrix of the model, token and position embeddings among them.
all_matrices = functools.partial(
    egd_optax.flax_dimension_numbers, named={"embedding": MuonDimensionNumbers()}
)


def _kernels(*parents: str) -> Callable[[optax.Params], optax.Params]:
    """A mask: True for matrices whose path has one of the names; all, if none."""

    def mask(params: optax.Params) -> optax.Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: (
                leaf.ndim == 2
                and (
                    not parents
                    or any(jax.tree_util.DictKey(name) in path for name in parents)
                )
            ),
            params,
        )

    return mask


# What the EGD paper transforms: the hidden layer of the two-layer net, all of MNIST's
# layers, the transformer's MLPs.
_TRANSFORMED = {
    "modular": _kernels("hidden"),
    "parity": _kernels("hidden"),
    "mnist": _kernels(),
    "transformer": _kernels("up", "down"),
}


def _plain(problem: Problem) -> optax.GradientTransformation:
    """The source's optimizer for the problem, behind its L2 term."""
    if problem.family in ("modular", "parity"):
        return optax.sgd(problem.learning_rate)
    return optax.adam(problem.learning_rate, b2=0.98)


def _in_front_of_plain(
    problem: Problem, transform: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The EGD paper's code: L2 term inside of the loss, some matrices transformed."""
    return optax.chain(
        optax.add_decayed_weights(problem.weight_decay, mask=_kernels()),
        optax.masked(transform, _TRANSFORMED[problem.family]),
        _plain(problem),
    )


def _polar_with_clamped_singular_values(x: jax.Array) -> jax.Array:
    # As the release whitens modular gradients: singular values below 1e-6 are divided
    # by 1e-6, not by themselves.
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    return jnp.matmul(u * (s / jnp.maximum(s, 1e-6))[..., None, :], vt)


def _egd_paper(problem: Problem) -> optax.GradientTransformation:
    clamps = problem.family == "modular"
    polar = _polar_with_clamped_singular_values if clamps else egd_optax.polar_by_svd
    return _in_front_of_plain(problem, egd_optax.scale_by_egd(polar))


def _egd_rsvd(problem: Problem, *, rank: int) -> optax.GradientTransformation:
    return _in_front_of_plain(problem, egd_optax.scale_by_randomized_egd(rank))


def _egd(
    problem: Problem, *, learning_rate: float, first_shrinkage: float = 0.07
) -> optax.GradientTransformation:
    return egd_optax.egd(
        egd_optax.inverse_time_decay(learning_rate, 100),
        # What the first step takes off the weights is more alike between problems than
        # the decay itself.
        weight_decay=first_shrinkage / learning_rate,
        weight_dimension_numbers=all_matrices,
    )


def _adam(learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate, b1=0.9, b2=0.98)


def _adamw(
    problem: Problem, *, learning_rate: float, weight_decay: float
) -> optax.GradientTransformation:
    return optax.adamw(learning_rate, b1=0.9, b2=0.98, weight_decay=weight_decay)


def _muon(
    problem: Problem, *, learning_rate: float, weight_decay: float
) -> optax.GradientTransformation:
    return muon(
        learning_rate,
        weight_decay=weight_decay,
        muon_weight_dimension_numbers=all_matrices,
    )


def _grokfast_ema(
    problem: Problem,
    *,
    learning_rate: float,
    weight_decay: float,
    alpha: float = 0.98,
    lamb: float = 2.0,
) -> optax.GradientTransformation:
    return optax.chain(
        egd_optax.grokfast_ema(alpha, lamb),
        optax.add_decayed_weights(weight_decay),
        _adam(learning_rate),
    )


def _grokfast_ma(
    problem: Problem, *, learning_rate: float, weight_decay: float, window_size: int
) -> optax.GradientTransformation:
    return optax.chain(
        egd_optax.grokfast_ma(window_size, 5.0),
        optax.add_decayed_weights(weight_decay),
        _adam(learning_rate),
    )


def _once_memorized(
    penalty: optax.GradientTransformation, learning_rate: float
) -> optax.GradientTransformation:
    switch = egd_optax.switch_on_metric(
        "train_accuracy", 0.99, optax.identity(), penalty
    )
    return optax.chain(switch, _adam(learning_rate))


def _delayed_frobenius(
    problem: Problem, *, learning_rate: float, strength: float
) -> optax.GradientTransformation:
    return _once_memorized(egd_optax.add_frobenius_penalty(strength), learning_rate)


def _delayed_nuclear_norm(
    problem: Problem, *, learning_rate: float, strength: float
) -> optax.GradientTransformation:
    penalty = egd_optax.add_nuclear_norm_penalty(
        strength, weight_dimension_numbers=all_matrices
    )
    return _once_memorized(penalty, learning_rate)


def _delayed_log_det(
    problem: Problem, *, learning_rate: float, strength: float
) -> optax.GradientTransformation:
    penalty = egd_optax.add_log_det_penalty(
        strength, eps=1e-2, weight_dimension_numbers=all_matrices
    )
    return _once_memorized(penalty, learning_rate)


def _orthogonal_gradient(
    problem: Problem, *, learning_rate: float
) -> optax.GradientTransformation:
    return optax.chain(egd_optax.orthogonal_gradient(), _adam(learning_rate))


def _clipped_rows(
    problem: Problem, *, learning_rate: float, max_norm: float
) -> optax.GradientTransformation:
    clip = egd_optax.clip_weight_row_norms(
        max_norm, weight_dimension_numbers=all_matrices
    )
    return optax.chain(_adam(learning_rate), clip)


_EGD_PAPER = "Saheb Pasand and Dohmatob, arXiv 2510.04930, released code"

RECIPES = {
    "sgd": Recipe(
        lambda problem: _in_front_of_plain(problem, optax.identity()),
        {"modular": {}, "parity": {}},
        f"{_EGD_PAPER}: its learning rates, coupled L2",
    ),
    "adam": Recipe(
        lambda problem: _in_front_of_plain(problem, optax.identity()),
        {"transformer": {}, "mnist": {}},
        "Lee et al., arXiv 2405.20233: Adam, learning rate 1e-3",
    ),
    "column-norm": Recipe(
        lambda problem: _in_front_of_plain(
            problem, egd_optax.normalize_by_column_norm()
        ),
        {"modular": {}, "parity": {}},
        f"{_EGD_PAPER}: first matrix column-normalized",
    ),
    "egd-paper": Recipe(
        _egd_paper,
        {"modular": {}, "parity": {}, "transformer": {}, "mnist": {}},
        f"{_EGD_PAPER}: some matrices whitened",
    ),
    "egd-rsvd": Recipe(
        _egd_rsvd,
        {
            "modular": {"rank": 128},
            "parity": {"rank": 30},
            "transformer": {"rank": 36},
            "mnist": {"rank": 4},
        },
        f"{_EGD_PAPER}: the same by a randomized SVD, rank as published",
    ),
    "egd": Recipe(
        _egd,
        {
            "modular": {"learning_rate": 1.0},
            "parity": {"learning_rate": 0.2},
            "transformer": {"learning_rate": 0.2, "first_shrinkage": 0.02},
            "mnist": {"learning_rate": 0.05},
        },
        "this package: all matrices whitened, decoupled decay, learning rate in 1/t",
    ),
    "grokfast-ema": Recipe(
        _grokfast_ema,
        {
            "modular": {"learning_rate": 0.03, "weight_decay": 0.002},
            "parity": {"learning_rate": 0.01, "weight_decay": 0.002},
            "transformer": {"learning_rate": 0.001, "weight_decay": 0.005},
            "mnist": {
                "learning_rate": 0.001,
                "weight_decay": 2.0,
                "alpha": 0.8,
                "lamb": 0.1,
            },
        },
        "Lee et al., arXiv 2405.20233: Adam with coupled L2",
    ),
    "grokfast-ma": Recipe(
        _grokfast_ma,
        {
            "modular": {
                "learning_rate": 0.03,
                "weight_decay": 0.002,
                "window_size": 20,
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
        _delayed_frobenius,
        {
            "modular": {"learning_rate": 0.05, "strength": 3e-4},
            "parity": {"learning_rate": 0.05, "strength": 1e-4},
            "transformer": {"learning_rate": 0.001, "strength": 0.01},
        },
        "A Simple Method for Accelerating Grokking: penalty from 99 % train accuracy",
    ),
    "nuclear-norm": Recipe(
        _delayed_nuclear_norm,
        {
            "modular": {"learning_rate": 0.05, "strength": 1e-3},
            "parity": {"learning_rate": 0.05, "strength": 1e-3},
            "transformer": {"learning_rate": 0.001, "strength": 0.01},
        },
        "the same source's first try: nuclear norm, from 99 % train accuracy",
    ),
    "log-det": Recipe(
        _delayed_log_det,
        {
            "modular": {"learning_rate": 0.05, "strength": 1e-3},
            "parity": {"learning_rate": 0.05, "strength": 1e-3},
            "transformer": {"learning_rate": 0.001, "strength": 0.01},
        },
        "the same source: log det, from 99 % train accuracy",
    ),
    "orthogonal-gradient": Recipe(
        _orthogonal_gradient,
        {
            "modular": {"learning_rate": 0.03},
            "parity": {"learning_rate": 0.01},
            "transformer": {"learning_rate": 0.001},
        },
        "Prieto et al., arXiv 2501.04697: ⊥Grad before Adam",
    ),
    "clipped-rows": Recipe(
        _clipped_rows,
        {
            "modular": {"learning_rate": 0.03, "max_norm": 2.0},
            "parity": {"learning_rate": 0.03, "max_norm": 2.0},
            "transformer": {"learning_rate": 0.001, "max_norm": 2.0},
        },
        "clip to grok: each unit's incoming weights clipped to norm 2, after Adam",
    ),
    "muon": Recipe(
        _muon,
        {
            "modular": {"learning_rate": 0.1, "weight_decay": 0.1},
            "parity": {"learning_rate": 0.03, "weight_decay": 0.3},
            "transformer": {"learning_rate": 0.02, "weight_decay": 0.1},
            "mnist": {"learning_rate": 0.1, "weight_decay": 1.0},
        },
        "optax.contrib.muon",
    ),
    "adamw": Recipe(
        _adamw,
        {
            "modular": {"learning_rate": 0.1, "weight_decay": 1.0},
            "parity": {"learning_rate": 0.03, "weight_decay": 0.1},
            "transformer": {"learning_rate": 0.001, "weight_decay": 1.0},
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
