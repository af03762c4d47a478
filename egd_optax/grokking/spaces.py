"""What a search may set of each method: the ranges, and what they have in common."""

import math

from egd_optax.grokking.dimensions import (
    Choice,
    Dimension,
    LogUniform,
    OneMinus,
    Or,
    Whole,
)
from egd_optax.grokking.methods.directions import RANKS

Space = dict[str, Dimension]

# Of the settings that all methods share, the same places go to all of them.
SHARED: Space = {
    # τ of the rate η₀ / (1 + t / τ); infinite: it is constant.
    "halving_steps": Or(math.inf, LogUniform(30, 1000), share=0.3),
    "momentum": Or(0.0, OneMinus(LogUniform(0.02, 0.7)), share=0.1),
    # η₀ λ, the share that decoupled decay takes off in the first step.
    "shrinkage": Or(0.0, LogUniform(1e-4, 0.3), share=0.2),
    # Decay before the direction.
    "coupled_decay": Or(0.0, LogUniform(1e-5, 1e-2), share=0.6),
    # Of Adam, for vectors.
    "vector_learning_rate": LogUniform(3e-4, 0.3),
    "vector_shrinkage": Or(0.0, LogUniform(1e-3, 0.3)),
    "vector_decay_onset": Or(0.0, LogUniform(100, 3000)),
    # 1: a bias is a row more of its matrix.
    "biases_as_rows": Choice((0, 1)),
}

# Three decades of η₀, four where gradients have their own size; steps are as long in
# the singular values, columns or rows, the whole, or the entries of a matrix.
_SPECTRAL: Space = {"learning_rate": LogUniform(0.003, 3), **SHARED}
_LINES: Space = {"learning_rate": LogUniform(0.01, 10), **SHARED}
_WHOLE: Space = {"learning_rate": LogUniform(0.1, 100), **SHARED}
_SIGNS: Space = {"learning_rate": LogUniform(1e-4, 0.1), **SHARED}
_ENTRIES: Space = {"learning_rate": LogUniform(3e-4, 0.3), **SHARED}
_PLAIN: Space = {"learning_rate": LogUniform(0.01, 100), **SHARED}
_SECOND = OneMinus(LogUniform(1e-3, 0.1))
_ADAM: Space = {**_ENTRIES, "second_momentum": _SECOND}
_PENALTY: Space = {
    **_ADAM,
    "strength": LogUniform(1e-5, 0.1),
    "threshold": OneMinus(LogUniform(1e-3, 0.3)),
}

SPACES: dict[str, Space] = {
    # One optimizer, eight directions.
    "egd": _SPECTRAL,
    "five-steps": _SPECTRAL,
    "randomized": {**_SPECTRAL, "rank": Choice(RANKS)},
    "columns": _LINES,
    "rows": _LINES,
    "frobenius": _WHOLE,
    "sign": _SIGNS,
    "momentum": _PLAIN,
    # Others'.
    "muon": _SPECTRAL,
    "adamw": _ADAM,
    "lion": {**_SIGNS, "second_momentum": _SECOND},
    "grokfast-ema": {
        **_ADAM,
        "alpha": OneMinus(LogUniform(0.01, 0.3)),
        "lamb": LogUniform(0.1, 10),
    },
    "grokfast-ma": {
        **_ADAM,
        "window_size": Whole(3, 100),
        "lamb": LogUniform(0.1, 10),
    },
    "delayed-frobenius": _PENALTY,
    "nuclear-norm": _PENALTY,
    "log-det": {**_PENALTY, "eps": LogUniform(1e-4, 1)},
    "orthogonal-gradient": _ADAM,
    "clipped-rows": {
        **_ADAM,
        "max_norm": LogUniform(0.3, 10),
        "by_lion": Choice((0, 1)),
    },
}

# Where a family's best rate lay at the low end of that range, or none of it served, it
# is searched from lower on, and rows as columns are. Not everywhere: the same number of
# trials has to cover what a range has more.
_LOWER: dict[str, dict[str, Dimension]] = {
    "transformer": {
        "columns": LogUniform(0.001, 10),
        "rows": LogUniform(0.001, 10),
        "frobenius": LogUniform(0.01, 100),
        "momentum": LogUniform(0.001, 10),
    },
    "mnist": {"momentum": LogUniform(1e-4, 100)},
}


def space_of(method: str, family: str) -> Space:
    """What a search may set of a method on the problems of a family."""
    space, rate = SPACES[method], _LOWER.get(family, {}).get(method)
    return space if rate is None else space | {"learning_rate": rate}
