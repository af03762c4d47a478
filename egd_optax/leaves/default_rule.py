"""Matrices where nobody says which axes they have: the leaves of two axes."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from egd_optax.leaves.checks import rank_of


def numbers_by_rank(tree: Any) -> list[MuonDimensionNumbers | None]:
    """Each leaf of two axes is a matrix in Flax's layout; in ``jax.tree.leaves``."""
    return [
        MuonDimensionNumbers() if rank_of(path, leaf) == 2 else None
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


_warned_of: set[tuple[str, ...]] = set()


def warn_of_higher_ranks(tree: Any) -> None:
    """Names the leaves of more axes, which this rule skips; once a process and tree."""
    found = tuple(
        f"{jax.tree_util.keystr(path)} {jnp.shape(leaf)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        # A vector among axes of length one is no matrix by any rule.
        if rank_of(path, leaf) > 2 and sum(size != 1 for size in jnp.shape(leaf)) > 1
    )
    if not found or found in _warned_of:
        return
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    warnings.warn(
        f"leaves of more than two axes are not taken for matrices: "
        f"{', '.join(found[:3])}{more}. egd gives them to Adam, other transformations "
        "pass them by. Say in weight_dimension_numbers which axes are input and output "
        "(egd_optax.flax_dimension_numbers reads it off the names in a Flax model), or "
        "that it is meant so: lambda tree: None",
        UserWarning,
        stacklevel=2,
    )
    # Not where the warning was made an error, which is to be seen at the next call too.
    _warned_of.add(found)
