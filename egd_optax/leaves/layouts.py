"""How an array is seen as matrices."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from egd_optax.arguments import ArgumentError, shown
from egd_optax.leaves.checks import axes_of, is_number, leaves_below, rank_of

# A tree (or a prefix of one) of MuonDimensionNumbers and None, or a function from the
# tree of arrays to such a tree; None stands for the default rule.
WeightDimensionNumbers = Any


class MatrixLayout(NamedTuple):
    """How one leaf is laid out as matrices."""

    axes: tuple[int, ...]  # batch, then reduction (fan-in), then output (fan-out) axes
    shape: tuple[int, int, int]  # (batch, fan_in, fan_out)


def matrix_layouts(
    tree: optax.Params, weight_dimension_numbers: WeightDimensionNumbers = None
) -> list[MatrixLayout | None]:
    """The layout of each leaf, in the order of ``jax.tree.leaves``; None: no matrix."""
    numbers = weight_dimension_numbers
    if callable(numbers):
        numbers = numbers(tree)
    paths = jax.tree_util.tree_leaves_with_path(tree)
    if numbers is None:
        given = [
            MuonDimensionNumbers() if rank_of(path, leaf) == 2 else None
            for path, leaf in paths
        ]
    else:
        given = _broadcast(numbers, tree)
    return [
        None if number is None else _layout(path, leaf, number)
        for (path, leaf), number in zip(paths, given, strict=True)
    ]


def to_matrices(x: jax.Array, layout: MatrixLayout) -> jax.Array:
    """The leaf as an array ``(batch, fan_in, fan_out)``."""
    return jnp.transpose(x, layout.axes).reshape(layout.shape)


def from_matrices(
    x: jax.Array, shape: tuple[int, ...], layout: MatrixLayout
) -> jax.Array:
    """The leaf of that shape again, from an array ``(batch, fan_in, fan_out)``."""
    x = x.reshape([shape[axis] for axis in layout.axes])
    return jnp.transpose(x, sorted(range(len(shape)), key=lambda i: layout.axes[i]))


def _broadcast(numbers: Any, tree: Any) -> list[MuonDimensionNumbers | None]:
    # The numbers may be a prefix of the tree, and optax.masked and optax.partition
    # leave empty nodes where the numbers still name a leaf.
    subtrees = leaves_below(
        numbers, tree, "weight_dimension_numbers do not fit the tree", is_leaf=is_number
    )
    leaves = jax.tree.leaves(numbers, is_leaf=is_number)
    return [
        number
        for number, subtree in zip(leaves, subtrees, strict=True)
        for _ in jax.tree.leaves(subtree)
    ]


def _layout(path: Any, x: jax.Array, number: MuonDimensionNumbers) -> MatrixLayout:
    rank = rank_of(path, x)
    dtype = jnp.result_type(x)

    def fail(reason: str) -> ArgumentError:
        return ArgumentError(
            f"leaf {jax.tree_util.keystr(path)} of shape {jnp.shape(x)}: {reason}"
        )

    if not isinstance(number, MuonDimensionNumbers):
        raise fail(f"{shown(number)} is neither MuonDimensionNumbers nor None")
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise fail(f"a matrix must have a floating dtype, got {dtype}")
    sides: list[tuple[int, ...]] = []
    for axes in number:
        axes = axes_of(axes)
        if not axes or not all(-rank <= axis < rank for axis in axes):
            raise fail(f"{number} does not name axes of an array of {rank}")
        sides.append(tuple(axis % rank for axis in axes))
    named = sides[0] + sides[1]
    if len(set(named)) < len(named):
        raise fail(f"{number} names an axis twice")
    batch = tuple(axis for axis in range(rank) if axis not in named)
    batch_size, fan_in, fan_out = (
        math.prod(x.shape[axis] for axis in axes) for axes in (batch, *sides)
    )
    return MatrixLayout(batch + named, (batch_size, fan_in, fan_out))
