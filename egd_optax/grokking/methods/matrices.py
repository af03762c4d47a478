"""The matrices of a model apart from its vectors, biases as rows where asked for."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

import egd_optax
from egd_optax.leaves.layouts import from_matrices, matrix_layouts, to_matrices

# Every matrix of the model, token and position embeddings among them.
all_matrices = functools.partial(
    egd_optax.flax_dimension_numbers, named={"embedding": MuonDimensionNumbers()}
)


class Apart(NamedTuple):
    """A tree's leaves by path."""

    matrices: dict[str, jax.Array]  # (fan_in, fan_out), or with a row more for a bias
    vectors: dict[str, jax.Array]  # (size,)


def with_matrices_apart(
    inner: optax.GradientTransformation, biases_as_rows: jax.typing.ArrayLike = 0
) -> optax.GradientTransformationExtraArgs:
    """Gives ``inner`` a tree :class:`Apart`, so that it knows matrices by their axes.

    A bias is the row of an input that is always one: as a row of its matrix it has the
    matrix's direction, rate and decay, else it is a vector.

    Args:
      inner: a transformation of two-dimensional and other leaves.
      biases_as_rows: 1 for biases that go with their matrix, 0 for those that do not;
        traced, the row is there in both cases, and zero in the second.
    """
    tx = optax.with_extra_args_support(inner)
    share = None if _is_zero(biases_as_rows) else biases_as_rows

    def init_fn(params: optax.Params) -> optax.OptState:
        return tx.init(_apart(params, share))

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        given = None if params is None else _apart(params, share)
        moved, state = tx.update(_apart(updates, share), state, given, **extra_args)
        return _together(moved, updates, share), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _is_zero(value: jax.typing.ArrayLike) -> bool:
    return not isinstance(value, jax.core.Tracer) and bool(value == 0)


def _apart(tree: Any, share: jax.typing.ArrayLike | None) -> Apart:
    leaves = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    apart = Apart({}, {})
    for (path, leaf), layout in zip(
        leaves.items(), matrix_layouts(tree, all_matrices), strict=True
    ):
        if layout is None:
            rest = 1 if share is None or _matrix_of(path) not in leaves else 1 - share
            # A bias may have an axis for heads and one for features.
            apart.vectors[path] = rest * leaf.ravel()
            continue
        (matrix,) = to_matrices(leaf, layout)
        bias = leaves.get(_bias_of(path))
        if share is not None and bias is not None:
            matrix = jnp.concatenate([matrix, share * bias.reshape(1, -1)])
        apart.matrices[path] = matrix
    return apart


def _together(apart: Apart, tree: Any, share: jax.typing.ArrayLike | None) -> Any:
    """The leaves where they were in the tree."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    found = []
    for (key, leaf), layout in zip(
        paths, matrix_layouts(tree, all_matrices), strict=True
    ):
        path = jax.tree_util.keystr(key)
        if layout is None:
            moved = apart.vectors[path].reshape(leaf.shape)
            matrix = apart.matrices.get(_matrix_of(path))
            if share is not None and matrix is not None:
                moved = moved + share * matrix[-1].reshape(leaf.shape)
        else:
            rows = layout.shape[1]
            moved = from_matrices(apart.matrices[path][None, :rows], leaf.shape, layout)
        found.append(moved)
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def _bias_of(path: str) -> str:
    return path.replace("['kernel']", "['bias']") if "['kernel']" in path else ""


def _matrix_of(path: str) -> str:
    return path.replace("['bias']", "['kernel']") if "['bias']" in path else ""
