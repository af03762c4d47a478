"""How an array is seen as matrices."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from egd_optax.arguments import ArgumentError, shown
from egd_optax.leaves.checks import (
    axes_of,
    is_function,
    is_number,
    leaves_below,
    named_leaf,
    rank_of,
)
from egd_optax.leaves.default_rule import numbers_by_rank, warn_of_higher_ranks
from egd_optax.leaves.fused import FusedAxis

# A tree (or a prefix of one) of MuonDimensionNumbers and None, or a function from the
# tree of arrays to such a tree; None stands for the default rule.
WeightDimensionNumbers = Any


class MatrixLayout(NamedTuple):
    """How one leaf is laid out as matrices."""

    split: tuple[int, ...]  # the leaf's shape, fused axes split in two
    axes: tuple[int, ...]  # of split: batch, then input (fan-in), then output (fan-out)
    shape: tuple[int, int, int]  # (batch, fan_in, fan_out)


def matrix_layouts(
    tree: optax.Params, weight_dimension_numbers: WeightDimensionNumbers = None
) -> list[MatrixLayout | None]:
    """The layout of each leaf, in the order of ``jax.tree.leaves``; None: no matrix.

    Without dimension numbers a warning names the leaves of three and more axes, which
    the default rule passes over; once a process and tree.
    """
    if weight_dimension_numbers is None:
        warn_of_higher_ranks(tree)
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [
        None if number is None else _layout(path, leaf, number)
        for (path, leaf), number in zip(
            paths, _number_of_each_leaf(tree, weight_dimension_numbers), strict=True
        )
    ]


def to_matrices(x: jax.Array, layout: MatrixLayout) -> jax.Array:
    """The leaf as an array ``(batch, fan_in, fan_out)``."""
    return jnp.transpose(x.reshape(layout.split), layout.axes).reshape(layout.shape)


def from_matrices(
    x: jax.Array, shape: tuple[int, ...], layout: MatrixLayout
) -> jax.Array:
    """The leaf of that shape again, from an array ``(batch, fan_in, fan_out)``."""
    x = x.reshape([layout.split[axis] for axis in layout.axes])
    back = sorted(range(len(layout.axes)), key=lambda i: layout.axes[i])
    return jnp.transpose(x, back).reshape(shape)


def told_by_the_whole_tree(
    weight_dimension_numbers: WeightDimensionNumbers,
) -> tuple[WeightDimensionNumbers, WeightDimensionNumbers]:
    """The numbers for a tree, and for what a mask leaves of it.

    A function may tell a leaf by those beside it, which a mask takes out: there each
    leaf has the numbers that it had in the whole tree, which must be asked for first.
    """
    if not is_function(weight_dimension_numbers, is_leaf=is_number):
        return weight_dimension_numbers, weight_dimension_numbers
    known: dict[Any, MuonDimensionNumbers | None] = {}

    def of_whole(tree: Any) -> Any:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        numbers = _number_of_each_leaf(tree, weight_dimension_numbers)
        for (path, leaf), number in zip(leaves, numbers, strict=True):
            known[path, jnp.shape(leaf)] = number
        return jax.tree.unflatten(jax.tree.structure(tree), numbers)

    def of_part(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: known[path, jnp.shape(leaf)], tree
        )

    return of_whole, of_part


def _number_of_each_leaf(
    tree: Any, numbers: WeightDimensionNumbers
) -> list[MuonDimensionNumbers | None]:
    if is_function(numbers, is_leaf=is_number):
        numbers = numbers(tree)
    return numbers_by_rank(tree) if numbers is None else _broadcast(numbers, tree)


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
        return ArgumentError(f"{named_leaf(path)} of shape {jnp.shape(x)}: {reason}")

    if not isinstance(number, MuonDimensionNumbers):
        raise fail(f"{shown(number)} is neither MuonDimensionNumbers nor None")
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise fail(f"a matrix must have a floating dtype, got {dtype}")
    sides: list[tuple[int, ...]] = []
    parts: dict[int, int] = {}
    for axes in number:
        axes = axes_of(axes)
        if not axes or not all(-rank <= axis < rank for axis in axes):
            raise fail(f"{number} does not name axes of an array of {rank}")
        sides.append(tuple(axis % rank for axis in axes))
        parts |= {
            axis % rank: axis.parts for axis in axes if isinstance(axis, FusedAxis)
        }
    if len({*sides[0], *sides[1]}) < len(sides[0] + sides[1]):
        raise fail(f"{number} names an axis twice")
    split: list[int] = []
    place = []  # of each axis in what is split
    for axis, size in enumerate(jnp.shape(x)):
        if size % parts.get(axis, 1):
            raise fail(f"{number}: {size} is no multiple of {parts[axis]}")
        if axis in parts:
            split.append(parts[axis])
        place.append(len(split))
        split.append(size // parts.get(axis, 1))
    fan_in, fan_out = ([place[axis] for axis in side] for side in sides)
    batch = [i for i in range(len(split)) if i not in fan_in + fan_out]
    shape = [math.prod(split[i] for i in side) for side in (batch, fan_in, fan_out)]
    return MatrixLayout(
        tuple(split), (*batch, *fan_in, *fan_out), (shape[0], shape[1], shape[2])
    )
