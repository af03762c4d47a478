"""How an array is seen as matrices, and how the matrices of a tree are stacked."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


def map_matrices(
    fn: Callable[[jax.Array], jax.Array],
    tree: optax.Updates,
    weight_dimension_numbers: WeightDimensionNumbers = None,
    otherwise: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> optax.Updates:
    """Applies fn to every matrix of a tree, all matrices of one shape in one call.

    ``fn`` maps an array ``(batch, fan_in, fan_out)`` to one of the same shape, matrix
    by matrix. Leaves of the same matrix shape and dtype are concatenated along the
    batch axis. ``otherwise`` is applied to leaves that are not matrices.

    The copies that this takes are bounded by the size of the largest stack, beyond what
    ``fn`` itself takes of it: one stack is there at a time, and a leaf that is alone
    in its shape is not copied. (Under ``vmap`` and on several devices it is XLA that
    decides how many stacks are there at once.)
    """

    def without_flags(stack: jax.Array) -> tuple[jax.Array, jax.Array]:
        return fn(stack), jnp.zeros(len(stack), bool)

    return map_and_count(without_flags, tree, weight_dimension_numbers, otherwise)[0]


def map_and_count(
    fn: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    tree: optax.Updates,
    weight_dimension_numbers: WeightDimensionNumbers = None,
    otherwise: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> tuple[optax.Updates, jax.Array]:
    """:func:`map_matrices` for an fn with a flag ``(batch,)`` for each matrix.

    The second result is how many flags are up, int32.
    """
    leaves, treedef = jax.tree.flatten(tree)
    layouts = matrix_layouts(tree, weight_dimension_numbers)
    stacks: dict[Any, list[tuple[int, MatrixLayout]]] = {}
    for index, (leaf, layout) in enumerate(zip(leaves, layouts, strict=True)):
        if layout is None:
            leaves[index] = otherwise(leaf)
        else:
            key = (layout.shape[1:], jnp.asarray(leaf).dtype)
            stacks.setdefault(key, []).append((index, layout))
    done: jax.Array | None = None
    flags_up = jnp.zeros([], jnp.int32)
    for members in stacks.values():
        parts = [to_matrices(leaves[index], layout) for index, layout in members]
        one_call = functools.partial(_in_one_call, fn)
        if len(parts) > 1 and _is_planned_by_xla(parts[0]):
            results, count = _after(done, one_call, parts)
            done = results[0]
        else:
            results, count = one_call(parts)
        flags_up += count
        for (index, layout), result in zip(members, results, strict=True):
            leaves[index] = _from_matrices(result, leaves[index].shape, layout)
    return jax.tree.unflatten(treedef, leaves), flags_up


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


def _in_one_call(
    fn: Callable[[jax.Array], tuple[jax.Array, jax.Array]], parts: list[jax.Array]
) -> tuple[list[jax.Array], jax.Array]:
    ends = np.cumsum([len(part) for part in parts])[:-1]
    result, flags = fn(jnp.concatenate(parts))
    return jnp.split(result, ends), jnp.sum(flags, dtype=jnp.int32)


def _is_planned_by_xla(x: jax.Array) -> bool:
    """Within a program for one device; outside, one operation follows another."""
    return isinstance(x, jax.core.Tracer) and jax.typeof(x).sharding.mesh.empty


def _after(
    done: jax.Array | None,
    fn: Callable[[list[jax.Array]], tuple[list[jax.Array], jax.Array]],
    parts: list[jax.Array],
) -> tuple[list[jax.Array], jax.Array]:
    """Fn of parts, begun when ``done`` is, its buffers freed when it ends.

    XLA holds the buffers of a branch only while the branch runs, and cannot know that
    the condition always holds. Optimization barriers it drops before it schedules.
    """
    first = (parts[0] if done is None else done)[:1, :1, :1]
    never = jnp.sum(first.real) < -jnp.inf
    traced_once = jax.jit(fn)
    results = jax.eval_shape(traced_once, parts)
    zeros = functools.partial(jax.tree.map, jnp.zeros_like, results)
    return jax.lax.cond(never, lambda parts: zeros(), traced_once, parts)


def _from_matrices(
    x: jax.Array, shape: tuple[int, ...], layout: MatrixLayout
) -> jax.Array:
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
